"""Decisions and searches over a gallery on two nodes equal those of one process, or are refused."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
import structlog
from stdnum.cn import ric

from engine.errors import SosieError
from engine.matching.documents import Document
from engine.matching.identification import Identification
from engine.matching.requests import Answer, EnrollmentRequest, Sample
from engine.registry.records import Carrier, is_id
from serving.cluster.shards import shard_opener
from serving.compose import Deployment, create_home
from serving.errors import ServiceRefusal, describe
from serving.registrar.protocol import CallContext, Phase, Status
from serving.registrar.service import RegistrarService
from serving.settings import ServeSettings, Settings, make_settings
from serving.telemetry.metrics import Meter
from tests.serving.cluster.two_nodes import (
    QUICK,
    RESOURCE,
    Nodes,
    Rows,
    likenesses,
    run_nodes,
    unit_rows,
)
from tests.serving.local_registrar import LocalRegistrar

CONTEXT = CallContext(actor="key:tests", correlator="c-1", timeout_s=15)
PEOPLE, WAIT_S = 40, 300.0


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A cluster of this file's own: Ray goes on counting with a lost node for half a minute."""
    with run_nodes() as made:
        yield made


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
        # The same few faces are asked about again and again.
        limits = {
            "holder_failures": 0,
            "holder_shown": 0,
            "outlet_key_failures": 0,
            "key_failures": 0,
        }
        return make_settings({"registry": {"url": url}, "gallery": gallery, "limits": limits})

    def open(self, database: str, shards: int = 0) -> Deployment:
        settings = self.settings(database, shards)
        return Deployment(self.home, settings, open_index=shard_opener(settings, QUICK))

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
    return [await registrar.enroll(each, CONTEXT) for each in requests]


def assert_unavailable(error: Exception) -> None:
    fault = describe(error)
    assert (fault.status, fault.retry_after_s is None) == (503, False), error


def test_two_nodes_decide_and_find_what_one_process_does(nodes: Nodes, pair: Pair) -> None:
    probes = likenesses(FACES[: PEOPLE + 20], seed=7)

    async def call_all(registrar: LocalRegistrar) -> tuple[Any, ...]:
        status = await reach_ready(registrar)
        found = await registrar.identify(probes, 0.3, CONTEXT)
        answers = await enroll_all(registrar, mixed_requests())
        documents = [answer.body["document_id"] for answer in answers]
        erased = await registrar.erase(documents[1], CONTEXT)
        names: dict[str, str] = {}
        bodies = [(neutral(answer.body, names), answer.is_repeated) for answer in answers]
        later = await registrar.identify(probes, 0.3, CONTEXT)
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


def test_a_lost_node_is_refused_loudly_until_it_is_back_and_then_nothing_is_missing(
    nodes: Nodes, pair: Pair
) -> None:
    probes = likenesses(FACES, seed=7)
    requests = mixed_requests()

    async def until_refused(registrar: LocalRegistrar, whole: list[Identification]) -> None:
        """The processes of a node that is killed may answer for a moment, and then do in full."""
        give_up_at = time.monotonic() + 120
        while time.monotonic() < give_up_at:
            try:
                assert await registrar.identify(probes, 0.3, CONTEXT) == whole
            except (SosieError, ServiceRefusal) as refusal:
                assert_unavailable(refusal)
                return
        raise AssertionError("a lost node is not noticed")

    async def refuse_until_reported(registrar: LocalRegistrar) -> None:
        """It is long enough for the gallery to have been tried again in vain."""
        detail, give_up_at = "", time.monotonic() + WAIT_S
        while "waiting for gallery shards" not in detail:
            assert time.monotonic() < give_up_at, detail
            with pytest.raises((SosieError, ServiceRefusal)) as refusal:
                await registrar.identify(probes, 0.3, CONTEXT)
            assert_unavailable(refusal.value)
            with pytest.raises((SosieError, ServiceRefusal)) as refusal:
                await registrar.enroll(requests[20], CONTEXT)
            assert_unavailable(refusal.value)
            detail = (await registrar.status()).detail
            await asyncio.sleep(0.1)

    async def lose_and_return(registrar: LocalRegistrar) -> None:
        await reach_ready(registrar)
        acknowledged = await enroll_all(registrar, requests[:10])
        before = await registrar.identify(probes, 0.3, CONTEXT)
        nodes.lose_second()
        await until_refused(registrar, before)
        await refuse_until_reported(registrar)
        assert not (await registrar.status()).is_ready
        nodes.bring_back()
        status = await reach_ready(registrar)
        assert (status.phase, status.gallery_size) == (Phase.READY, before[0].searched)
        assert await registrar.identify(probes, 0.3, CONTEXT) == before
        again = await enroll_all(registrar, requests[:10])
        assert [answer.body for answer in again] == [answer.body for answer in acknowledged]
        assert not (await registrar.enroll(requests[20], CONTEXT)).is_repeated

    with serving(lambda: pair.open(pair.first, shards=2)) as registrar:
        asyncio.run(lose_and_return(registrar))
