"""A gallery on the nodes of a cluster: the answers of one process, or none."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import structlog
from numpy.typing import NDArray
from stdnum.cn import ric

from engine.errors import SosieError
from engine.matching.documents import Document
from engine.matching.identification import Identification
from engine.matching.requests import Answer, EnrollmentRequest, Sample
from engine.registry.records import Carrier, is_id
from indexes.errors import IdInvalid, SearchInvalid, ShardLost
from indexes.flat import FlatIndex
from indexes.sharding.shards import ShardedIndex, ShardPlan
from serving.cluster import ray_shard
from serving.cluster.ray_shard import RayShard, Timing
from serving.cluster.shard_actor import Reply, ShardActor, _reply
from serving.cluster.shards import open_ray_shards, shard_opener
from serving.compose import Deployment
from serving.errors import describe
from serving.homes import create_home
from serving.refusals import ServiceRefusal
from serving.sections import ServeSettings
from serving.service.desk import CallContext, Phase, Status
from serving.service.local import LocalDesk
from serving.service.match_service import MatchService
from serving.settings import Settings, make_settings
from serving.telemetry.meter import SilentMeter

DIM = 128
PLAN = ShardPlan("exact8", DIM)
RESOURCE = "gallery"
QUICK = Timing(placed_within_s=4.0, pulse_every_s=0.25, silent_for_s=1.5)
CONTEXT = CallContext(actor="key:tests", correlator="c-1", timeout_s=15)
PEOPLE, WAIT_S = 40, 40.0

Rows = NDArray[np.float32]


class Nodes:
    """A cluster of two nodes, each with room for one shard; this process is on the first."""

    def __init__(self, folder: str) -> None:
        from ray.cluster_utils import Cluster

        room: dict[str, Any] = {"num_cpus": 1, "resources": {RESOURCE: 1}}
        head = room | {"include_dashboard": False, "temp_dir": folder}
        self._room = room
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._second = self._cluster.add_node(**room)
        ray.init(
            address=self._cluster.address,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def lose_second(self) -> None:
        """All its processes are killed."""
        self._cluster.remove_node(self._second, allow_graceful=False)

    def bring_back(self) -> None:
        self._second = self._cluster.add_node(**self._room)

    def stop(self) -> None:
        ray.shutdown()
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    # A socket's path must be short, so not pytest's own folder.
    folder = tempfile.mkdtemp(prefix="ray-")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = Nodes(folder)
        yield made
        made.stop()
    shutil.rmtree(folder, ignore_errors=True)


def unit_rows(count: int, seed: int = 0) -> Rows:
    rows = np.random.default_rng(seed).standard_normal((count, DIM))
    unit: Rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def likenesses(rows: Rows, seed: int) -> Rows:
    """Another picture of each: scores from about 0.95 down to 0.45."""
    noise = np.linspace(0.3, 2.0, len(rows))[:, None] * unit_rows(len(rows), seed)
    blurred = rows + noise
    unit: Rows = (blurred / np.linalg.norm(blurred, axis=1, keepdims=True)).astype(np.float32)
    return unit


def assert_exact(index: ShardedIndex, ids: NDArray[np.int64], rows: Rows) -> None:
    flat = FlatIndex(DIM)
    flat.add(ids, rows)
    queries = likenesses(rows[:50], seed=9)
    for found, expected in (
        (index.range_search(queries, 0.4), flat.range_search(queries, 0.4)),
        (index.search(queries, 5), flat.search(queries, 5)),
    ):
        assert np.array_equal(found.offsets, expected.offsets)
        assert np.array_equal(found.ids, expected.ids)
        assert np.array_equal(found.scores.view(np.int32), expected.scores.view(np.int32))


def shard(index: ShardedIndex, number: int) -> RayShard:
    chosen = index.shards[number]
    assert isinstance(chosen, RayShard)
    return chosen


def test_without_a_cluster_none_is_started_and_without_shards_none_are_opened() -> None:
    assert shard_opener(make_settings({})) is None
    opener = shard_opener(make_settings({"gallery": {"shards": 2}}))
    assert opener is not None
    with pytest.raises(ShardLost, match="cluster"):
        opener(PLAN)
    assert not ray.is_initialized()


def test_each_node_has_a_shard_and_the_answers_are_exact(nodes: Nodes) -> None:
    ids, rows = np.arange(3000), unit_rows(3000)
    with open_ray_shards(PLAN, 2, RESOURCE) as index:
        asked = [shard(index, number)._actor.place.remote() for number in range(2)]
        assert len({place.node for place in ray.get(asked)}) == 2
        index.add(ids, rows)
        assert_exact(index, ids, rows)
        index.remove(ids[:1000])
        index.compact()
        assert index.account().references == 2000
        assert_exact(index, ids[1000:], rows[1000:])


def test_what_a_shard_refuses_crosses_as_itself_and_breaks_nothing(nodes: Nodes) -> None:
    with open_ray_shards(PLAN, 1) as index:
        index.add(np.arange(5), unit_rows(5))
        with pytest.raises(IdInvalid):
            index.add(np.array([7, 4]), unit_rows(2))
        with pytest.raises(IdInvalid):
            index.vectors(np.array([6]))
        with pytest.raises(SearchInvalid):
            index.search(unit_rows(1), 0)
        assert index.ids.tolist() == [0, 1, 2, 3, 4]


def test_an_unforeseen_failure_crosses_without_its_text() -> None:
    def fail() -> None:
        raise KeyError("+8613800138000")

    assert _reply("search", fail) == Reply(failure="KeyError")
    actor = ShardActor()
    assert actor.open(PLAN) == Reply()
    assert isinstance(actor.call("search", unit_rows(1), 0).refusal, SearchInvalid)


def test_a_large_batch_goes_in_pieces_and_is_seen_or_refused_whole(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_shard, "MESSAGE_BYTES", 64 << 10)
    ids, rows = np.arange(20_000), unit_rows(20_000)
    with open_ray_shards(PLAN, 1) as index:
        assert shard(index, 0)._rows_at_once < 1000
        index.add(ids[:10_000], rows[:10_000])
        with pytest.raises(IdInvalid):
            index.add(ids[9_999:], rows[9_999:])
        assert len(index) == 10_000
        index.add(ids[10_000:], rows[10_000:])
        assert np.array_equal(index.vectors(ids), rows)
        assert_exact(index, ids, rows)


def test_shards_without_a_place_are_waited_for_a_while_and_not_left_behind(nodes: Nodes) -> None:
    started = time.monotonic()
    with pytest.raises(ShardLost, match=r"waiting for gallery shards: \d of 3 .* gallery"):
        open_ray_shards(PLAN, 3, RESOURCE, QUICK)
    assert time.monotonic() - started < 10
    open_ray_shards(PLAN, 2, RESOURCE).close()


def test_a_closed_gallery_says_so_and_closes_again(nodes: Nodes) -> None:
    index = open_ray_shards(PLAN, 2, RESOURCE)
    index.close()
    index.close()
    for call in (
        lambda: index.search(unit_rows(1), 1),
        lambda: index.shards[0].count().result(),
        lambda: index.shards[0].vectors(np.arange(10**6)).result(),
    ):
        with pytest.raises(ShardLost, match="closed"):
            call()


def test_a_shard_that_falls_silent_is_lost_and_frees_who_waits_for_it(nodes: Nodes) -> None:
    with open_ray_shards(PLAN, 1, RESOURCE, QUICK) as index, ThreadPoolExecutor(1) as pool:
        index.add(np.arange(10), unit_rows(10))
        pid = ray.get(shard(index, 0)._actor.__ray_call__.remote(lambda _: os.getpid()))
        os.kill(pid, signal.SIGSTOP)
        try:
            waiting = pool.submit(index.search, unit_rows(1), 1)
            with pytest.raises(ShardLost, match="silent"):
                waiting.result(10)
            with pytest.raises(ShardLost):
                len(index)
        finally:
            os.kill(pid, signal.SIGCONT)


def test_a_call_that_takes_too_long_loses_the_shard(nodes: Nodes) -> None:
    timing = Timing(answered_within_s=1.0, pulse_every_s=0.25)
    with open_ray_shards(PLAN, 1, RESOURCE, timing) as index:
        chosen = shard(index, 0)
        stuck = chosen._ask("sleep", chosen._actor.__ray_call__.remote, lambda _: time.sleep(60))
        with pytest.raises(ShardLost, match="not answered in 1 s"):
            stuck.result(10)


ORPHANS = """
import sys, time
import ray
from indexes.sharding.shards import ShardPlan
from serving.cluster.shards import open_ray_shards
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
index = open_ray_shards(ShardPlan("exact8", 128), 2, "gallery")
print("open", flush=True)
time.sleep(100)
"""


def test_shards_end_with_the_process_that_opened_them(nodes: Nodes) -> None:
    command = [sys.executable, "-c", ORPHANS, nodes.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "open\n"
        with pytest.raises(ShardLost):
            open_ray_shards(PLAN, 1, RESOURCE, QUICK)
        owner.kill()
    open_ray_shards(PLAN, 2, RESOURCE).close()


class Pair:
    """One registry twice, in two databases: to be held on shards, and in this process."""

    def __init__(self, folder: Path, postgres: Any) -> None:
        self._folder, self._postgres = folder, postgres
        self.home = folder / "home"
        self.first, self.second = f"one_{folder.name}", f"two_{folder.name}"
        postgres.psql(f"CREATE DATABASE {self.first};")
        create_home(self.home, self.settings(self.first))
        with self.open(self.first) as deployment:
            deployment.store.add_carrier(Carrier("blue", "Blue", line_limit=9), actor="test")
            deployment.store.add_outlet("b1", "blue", actor="test")
            answers = deployment.registrar.enroll([request(n, FACES[n]) for n in range(PEOPLE)])
            assert all(isinstance(answer, Answer) for answer in answers)
        postgres.psql(f"CREATE DATABASE {self.second} TEMPLATE {self.first};")

    def settings(self, database: str, shards: int = 0) -> Settings:
        url = self._postgres.get_uri(database=database, driver="psycopg")
        gallery = {"shards": shards, "shard_resource": RESOURCE}
        return make_settings({"registry": {"url": url}, "gallery": gallery})

    def open(self, database: str, shards: int = 0) -> Deployment:
        settings = self.settings(database, shards)
        cache = self._folder / "cache"
        return Deployment(self.home, settings, cache, open_index=shard_opener(settings, QUICK))

    def drop(self) -> None:
        for database in (self.first, self.second):
            self._postgres.psql(f"DROP DATABASE {database} WITH (FORCE);")


@pytest.fixture
def pair(tmp_path: Path, postgres: Any) -> Iterator[Pair]:
    folder = tmp_path / f"p{os.urandom(4).hex()}"
    folder.mkdir()
    made = Pair(folder, postgres)
    yield made
    made.drop()


@contextmanager
def serving(open_deployment: Callable[[], Deployment]) -> Iterator[LocalDesk]:
    service = MatchService(
        open_deployment, ServeSettings(), SilentMeter(), structlog.get_logger("test")
    )
    try:
        yield LocalDesk(service)
    finally:
        service.close()


FACES = unit_rows(2 * PEOPLE, seed=3)


def request(serial: int, face: Rows, other: Rows | None = None) -> EnrollmentRequest:
    """An activation under a document of its own; `other` is the face on it, if not that one."""
    body = f"11010519900307{serial:03d}"
    pictures = (face, face if other is None else other)
    live, portrait = (
        Sample(vector, hashlib.sha256(vector.tobytes()).digest())
        for vector in (likenesses(each[None], serial + at)[0] for at, each in enumerate(pictures))
    )
    return EnrollmentRequest(
        idempotency_key=f"key-{serial}",
        carrier="blue",
        outlet="b1",
        document=Document(
            "cn-ric", body + str(ric.calc_check_digit(body + "0")), f"Holder {serial}"
        ),
        msisdn=f"+8613{serial:09d}",
        live=live,
        portrait=portrait,
    )


def mixed_requests() -> list[EnrollmentRequest]:
    """Newcomers, people under a second document, likenesses of all degrees, foreign documents."""
    news, again = range(PEOPLE, 2 * PEOPLE), likenesses(FACES[:PEOPLE], seed=5)
    requests = [request(n, FACES[n] if n % 2 else again[n - PEOPLE]) for n in news]
    requests.append(request(900, FACES[0], other=FACES[1]))
    requests.append(requests[3])
    return requests


def neutral(value: Any, names: dict[str, str]) -> Any:
    """An answer with its ids as ordinals and without its time, to be held against another's."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key != "decided_at"}
        return {key: neutral(item, names) for key, item in kept.items()}
    if isinstance(value, list | tuple):
        return [neutral(item, names) for item in value]
    if isinstance(value, str) and is_id(value):
        return names.setdefault(value, f"id {len(names)}")
    return value


async def reach_ready(desk: LocalDesk) -> Status:
    give_up_at = time.monotonic() + WAIT_S
    while not (status := await desk.status()).is_ready:
        assert time.monotonic() < give_up_at, status
        await asyncio.sleep(0.05)
    return status


async def enroll_all(desk: LocalDesk, requests: Sequence[EnrollmentRequest]) -> list[Answer]:
    return [await desk.enroll(each, CONTEXT) for each in requests]


def assert_unavailable(error: Exception) -> None:
    fault = describe(error)
    assert (fault.status, fault.retry_after_s is None) == (503, False), error


def test_two_nodes_decide_and_find_what_one_process_does(nodes: Nodes, pair: Pair) -> None:
    probes = likenesses(FACES[: PEOPLE + 20], seed=7)

    async def tell_all(desk: LocalDesk) -> tuple[Any, ...]:
        status = await reach_ready(desk)
        found = await desk.identify(probes, 0.3, CONTEXT)
        answers = await enroll_all(desk, mixed_requests())
        documents = [answer.body["document_id"] for answer in answers]
        erased = await desk.erase(documents[1], CONTEXT)
        names: dict[str, str] = {}
        bodies = [(neutral(answer.body, names), answer.is_repeated) for answer in answers]
        later = await desk.identify(probes, 0.3, CONTEXT)
        candidates = [
            [
                (one.reference_id, names.get(one.document_id, one.document_id), one.score)
                for one in each.candidates
            ]
            for each in later
        ]
        return status.gallery_size, found, bodies, erased.references, candidates, later[0].searched

    with serving(lambda: pair.open(pair.first)) as desk:
        expected = asyncio.run(tell_all(desk))
    with serving(lambda: pair.open(pair.second, shards=2)) as desk:
        told = asyncio.run(tell_all(desk))
        assert asyncio.run(desk.status()).shards == 2
        assert ray.available_resources().get(RESOURCE, 0) == 0
    assert told == expected
    _, found, bodies, erased, _, _ = told
    # What was compared has something of everything.
    assert erased == 1
    assert {body["decision"] for body, _ in bodies} == {"approved", "review", "rejected"}
    assert {len(each.candidates) for each in found} >= {0, 1}
    assert not (pair.home / "gallery").exists()


def test_a_lost_node_is_refused_loudly_until_it_is_back_and_then_nothing_is_missing(
    nodes: Nodes, pair: Pair
) -> None:
    probes = likenesses(FACES, seed=7)
    requests = mixed_requests()

    async def until_refused(desk: LocalDesk, whole: list[Identification]) -> None:
        """The processes of a node that is killed may answer for a moment, and then do in full."""
        give_up_at = time.monotonic() + 15
        while time.monotonic() < give_up_at:
            try:
                assert await desk.identify(probes, 0.3, CONTEXT) == whole
            except (SosieError, ServiceRefusal) as refusal:
                assert_unavailable(refusal)
                return
        raise AssertionError("a lost node is not noticed")

    async def refuse_for(desk: LocalDesk, seconds: float) -> set[str]:
        details = set()
        give_up_at = time.monotonic() + seconds
        while time.monotonic() < give_up_at:
            with pytest.raises((SosieError, ServiceRefusal)) as refusal:
                await desk.identify(probes, 0.3, CONTEXT)
            assert_unavailable(refusal.value)
            with pytest.raises((SosieError, ServiceRefusal)) as refusal:
                await desk.enroll(requests[20], CONTEXT)
            assert_unavailable(refusal.value)
            details.add((await desk.status()).detail)
            await asyncio.sleep(0.1)
        return details

    async def lose_and_return(desk: LocalDesk) -> None:
        await reach_ready(desk)
        acknowledged = await enroll_all(desk, requests[:10])
        before = await desk.identify(probes, 0.3, CONTEXT)
        nodes.lose_second()
        await until_refused(desk, before)
        details = await refuse_for(desk, seconds=6)
        assert any("waiting for gallery shards" in detail for detail in details), details
        assert not (await desk.status()).is_ready
        nodes.bring_back()
        status = await reach_ready(desk)
        assert (status.phase, status.gallery_size) == (Phase.READY, before[0].searched)
        assert await desk.identify(probes, 0.3, CONTEXT) == before
        again = await enroll_all(desk, requests[:10])
        assert [answer.body for answer in again] == [answer.body for answer in acknowledged]
        assert not (await desk.enroll(requests[20], CONTEXT)).is_repeated

    with serving(lambda: pair.open(pair.first, shards=2)) as desk:
        asyncio.run(lose_and_return(desk))
