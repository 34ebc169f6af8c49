"""Decisions and searches over a gallery on two nodes equal those of one process, or are refused."""

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import ray
import structlog
from msgspec import to_builtins
from stdnum.cn import ric

from engine.errors import LeaseLost, SosieError
from engine.matching.requests import Answer, EnrollmentRequest
from engine.matching.samples import Sample
from engine.matching.verification import FoundHolders
from engine.registry.accounts import Carrier
from engine.registry.database import is_id
from schema.documents import Document
from serving.cluster.shards import NAMESPACE, shard_opener
from serving.deployment.deployment import Deployment, create_home
from serving.errors import ServiceRefusal, describe
from serving.registrar.protocol import CallContext, Status
from serving.registrar.service import RegistrarService
from serving.settings.sections import ServeSettings
from serving.settings.settings import Settings, make_settings
from serving.telemetry.metrics import Meter
from tests.serving.cluster.two_nodes import QUICK, RESOURCE, Rows, likenesses, unit_rows
from tests.serving.local_registrar import LocalRegistrar

CONTEXT = CallContext(actor="key:tests", correlator="c-1", timeout_s=15)
PEOPLE, WAIT_S = 40, 300.0


@pytest.fixture(autouse=True)
def tried_again_soon(monkeypatch) -> None:
    """A gallery that cannot be opened is tried again within a second."""
    monkeypatch.setattr("serving.registrar.service.LONGEST_RETRY_S", 1.0)


class Pair:
    """One registry twice, in two databases: to be held on shards, and in this process."""

    def __init__(self, folder: Path, postgres: Any) -> None:
        self._postgres, self.timing = postgres, QUICK
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

    def settings(self, database: str, shards: int = 0, **chosen: Any) -> Settings:
        url = self._postgres.get_uri(database=database, driver="psycopg")
        gallery = {"shards": shards, "shard_resource": RESOURCE, **chosen}
        # The same few faces are asked about again and again.
        limits = {
            "holder_failures": 0,
            "holder_shown": 0,
            "outlet_key_failures": 0,
            "key_failures": 0,
            "searched_faces": 0,
        }
        return make_settings({"registry": {"url": url}, "gallery": gallery, "limits": limits})

    def open(self, database: str, shards: int = 0, **chosen: Any) -> Deployment:
        settings = self.settings(database, shards, **chosen)
        opener = shard_opener(settings, self.timing)
        return Deployment(self.home, settings, open_index=opener)

    def drop(self) -> None:
        for database in (self.first, self.second):
            self._postgres.psql(f"DROP DATABASE {database} WITH (FORCE);")


@pytest.fixture
def pair(tmp_path, postgres) -> Iterator[Pair]:
    folder = tmp_path / f"p{os.urandom(4).hex()}"
    folder.mkdir()
    made = Pair(folder, postgres)
    yield made
    made.drop()


@contextmanager
def serving(open_deployment: Callable[[], Deployment]) -> Iterator[LocalRegistrar]:
    service = RegistrarService(
        open_deployment, ServeSettings(), Meter(), structlog.get_logger("test")
    )
    try:
        yield LocalRegistrar(service)
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
    """An answer with its ids as ordinals and without its time, to compare with another."""
    value = to_builtins(value)
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key != "decided_at"}
        return {key: neutral(item, names) for key, item in kept.items()}
    if isinstance(value, list | tuple):
        return [neutral(item, names) for item in value]
    if isinstance(value, str) and is_id(value):
        return names.setdefault(value, f"id {len(names)}")
    return value


async def reach_ready(registrar: LocalRegistrar) -> Status:
    give_up_at = time.monotonic() + WAIT_S
    while not (status := await registrar.status()).is_ready:
        assert time.monotonic() < give_up_at, status
        await asyncio.sleep(0.05)
    return status


async def enroll_all(
    registrar: LocalRegistrar, requests: Sequence[EnrollmentRequest]
) -> list[Answer]:
    return [await registrar.by(CONTEXT).enroll(each) for each in requests]


def assert_unavailable(error: Exception) -> None:
    fault = describe(error)
    assert (fault.status, fault.retry_after_s is None) == (503, False), error


def test_two_nodes_decide_and_find_what_one_process_does(nodes, pair) -> None:
    probes = likenesses(FACES[: PEOPLE + 20], seed=7)

    async def call_all(registrar: LocalRegistrar) -> tuple[Any, ...]:
        status = await reach_ready(registrar)
        found = await registrar.by(CONTEXT).identify(probes, 0.3)
        answers = await enroll_all(registrar, mixed_requests())
        documents = [answer.decided.document_id for answer in answers]
        erased = await registrar.by(CONTEXT).erase(documents[1])
        names: dict[str, str] = {}
        bodies = [(neutral(answer.decided, names), answer.is_repeated) for answer in answers]
        later = await registrar.by(CONTEXT).identify(probes, 0.3)
        candidates = [
            [
                (one.reference_id, names.get(one.document_id, one.document_id), one.score)
                for one in each.candidates
            ]
            for each in later
        ]
        return status.gallery_size, found, bodies, erased.references, candidates, later[0].searched

    with serving(lambda: pair.open(pair.first)) as registrar:
        expected = asyncio.run(call_all(registrar))
    with serving(lambda: pair.open(pair.second, shards=2)) as registrar:
        answered = asyncio.run(call_all(registrar))
        assert ray.available_resources().get(RESOURCE, 0) == 0
    assert answered == expected
    _, found, bodies, erased, _, _ = answered
    # What was compared has something of everything.
    assert erased == 1
    assert {body["decision"] for body, _ in bodies} == {"approved", "review", "rejected"}
    assert {len(each.candidates) for each in found} >= {0, 1}
    assert not (pair.home / "gallery").exists()


PROBES = likenesses(FACES, seed=7)


def shard_pids() -> dict[str, int]:
    """The process of each shard, by the name of its actor, which begins with its number."""
    found = {}
    for one in ray.util.list_named_actors(all_namespaces=True):
        # One that is ending has its name for a moment, or no name any more.
        if one["namespace"] == NAMESPACE:
            with suppress(ValueError, ray.exceptions.RayError):
                actor = ray.get_actor(one["name"], namespace=NAMESPACE)
                pid = ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))
                found[one["name"].removeprefix("sosie-shard-").partition("-")[2]] = pid
    return found


def kill(name: str) -> str:
    os.kill(shard_pids()[name], signal.SIGKILL)
    return name


async def ask_until_whole_again(registrar: LocalRegistrar, whole: list[FoundHolders]) -> None:
    """Every answer is whole or a refusal; returns after the first that follows a refusal."""
    refused, give_up_at = 0, time.monotonic() + WAIT_S
    while time.monotonic() < give_up_at:
        try:
            assert await registrar.by(CONTEXT).identify(PROBES, 0.3) == whole
        except (SosieError, ServiceRefusal) as refusal:
            assert_unavailable(refusal)
            refused += 1
            await asyncio.sleep(0.02)
        else:
            if refused:
                return
    raise AssertionError(f"refused {refused} times")


def test_of_four_shards_one_that_is_killed_is_built_again_alone_and_a_lost_registrar_builds_none(
    nodes, pair
) -> None:
    async def lose_both(registrar: LocalRegistrar) -> None:
        await reach_ready(registrar)
        whole = await registrar.by(CONTEXT).identify(PROBES, 0.3)
        before = shard_pids()
        killed = kill(min(before))
        await ask_until_whole_again(registrar, whole)
        after = shard_pids()
        del before[killed]
        assert before.items() <= after.items()
        assert (len(after), killed in after) == (4, False)
        # As when it loses its lease; what is opened next finds all four.
        lifecycle = registrar.service._lifecycle
        lifecycle.lose(lifecycle.require(), LeaseLost("for this test"))
        await ask_until_whole_again(registrar, whole)
        assert shard_pids() == after
        await enroll_all(registrar, mixed_requests()[:3])

    with serving(lambda: pair.open(pair.first, shards=4, shard_resource="")) as registrar:
        asyncio.run(lose_both(registrar))
    assert shard_pids() == {}


def test_a_registrar_that_another_replaces_leaves_it_the_shards_but_not_those_of_other_settings(
    nodes, pair
) -> None:
    def open_anywhere() -> Deployment:
        return pair.open(pair.first, shards=2, shard_resource="")

    async def search(registrar: LocalRegistrar) -> list[FoundHolders]:
        await reach_ready(registrar)
        return await registrar.by(CONTEXT).identify(PROBES, 0.3)

    def leave(registrar: LocalRegistrar) -> dict[str, int]:
        asyncio.run(registrar.service.drain(5, keep_shards=lambda: True))
        return shard_pids()

    with serving(open_anywhere) as first:
        whole = asyncio.run(search(first))
        with serving(open_anywhere) as second:
            left = leave(first)
            assert len(left) == 2
            assert asyncio.run(search(second)) == whole
            assert shard_pids() == left
            with serving(lambda: pair.open(pair.first, shards=2)) as third:
                assert leave(second) == left
                assert asyncio.run(search(third)) == whole
                assert left.keys().isdisjoint(shard_pids())
                assert len(shard_pids()) == 2
    assert shard_pids() == {}


def test_with_two_copies_no_call_fails_when_a_shard_is_killed_and_another_copy_is_made(
    nodes, pair
) -> None:
    requests = iter(mixed_requests())

    async def lose_copies(registrar: LocalRegistrar) -> None:
        await reach_ready(registrar)
        before = shard_pids()
        assert sorted(name[0] for name in before) == ["0", "0", "1", "1"]
        killed = kill(min(before))
        give_up_at = time.monotonic() + WAIT_S
        while len(shard_pids()) < 4 or not has_two_copies(registrar):
            assert time.monotonic() < give_up_at
            await registrar.by(CONTEXT).identify(PROBES, 0.3)
            if (one := next(requests, None)) is not None:
                await registrar.by(CONTEXT).enroll(one)
        whole = await registrar.by(CONTEXT).identify(PROBES, 0.3)
        # The other one of that number: what is left of it is the new one.
        kill(next(name for name in before if name[0] == killed[0] and name != killed))
        assert await registrar.by(CONTEXT).identify(PROBES, 0.3) == whole
        await reach_two_copies(registrar)
        # Each shard has one on either node.
        nodes.lose_second()
        for _ in range(50):
            assert await registrar.by(CONTEXT).identify(PROBES, 0.3) == whole
        await registrar.by(CONTEXT).enroll(request(901, FACES[5]))
        nodes.bring_back()

    async def reach_two_copies(registrar: LocalRegistrar) -> None:
        give_up_at = time.monotonic() + WAIT_S
        while len(shard_pids()) < 4 or not has_two_copies(registrar):
            assert time.monotonic() < give_up_at
            await asyncio.sleep(0.1)

    def has_two_copies(registrar: LocalRegistrar) -> bool:
        manager = registrar.service._lifecycle.require().deployment.snapshots
        return not manager._index.wanting

    def open_pair() -> Deployment:
        return pair.open(pair.first, shards=2, shard_resource="", shard_copies=2)

    with serving(open_pair) as registrar:
        asyncio.run(lose_copies(registrar))
    assert shard_pids() == {}
