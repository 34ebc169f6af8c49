"""Events of acknowledged decisions: in order, while registrar and worker are killed too."""

import asyncio
import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from engine.registry.accounts import Carrier
from engine.registry.events import read_events
from engine.registry.keyring import KeyRing
from engine.registry.store import Store
from engine.registry.vault import Vault
from engine.registry.webhooks import Webhooks
from serving.webhooks import delivery
from tests.engine.conftest import (
    database_url,
    key_ring,
    random_units,
    sqlite_url,
    store,
    vault,
    writer,
)
from tests.engine.matching.conftest import DIM, MODEL_DIGEST
from tests.engine.matching.test_durability import enroller
from tests.engine.registry.conftest import committed, enroll, erasure
from tests.serving.webhooks.conftest import Receiver, delivering, happen, receiving, until
from tests.serving.webhooks.deliverer import SETTINGS, hurry
from tests.tables import tables

DELIVERER = Path(__file__).with_name("deliverer.py")
KILLS = 3 if "CI" in os.environ else int(os.environ.get("SOSIE_KILLS", "3"))
"""Of each process."""
MOST_LINES = 20 if KILLS <= 3 else 120
"""Decisions before a kill."""
LINES = {f"line {place}": f"document {place % 7}" for place in range(21)}


def read_documents(store: Store) -> dict[str, str]:
    """The document of each subject, as the registry has them."""
    found = (select(one.c.id, one.c.document_id) for one in (tables.enrollments, tables.lines))
    return LINES | {row.id: row.document_id for query in found for row in store.rows(query)}


def check_received(store: Store, receiver: Receiver) -> int:
    """All events came; those of a document in their order, and repeated under their ids alone. How
    many were repeated."""
    expected = read_events(store, 0, 100_000)
    documents = read_documents(store)
    bodies: dict[str, bytes] = {}
    came = defaultdict(list)
    for headers, body in receiver.got:
        event = json.loads(body)
        assert headers["webhook-id"] == event["id"]
        assert bodies.setdefault(event["id"], body) == body
        ids = came[documents[event["subject"]]]
        if event["id"] not in ids:
            ids.append(event["id"])
    wanted = defaultdict(list)
    for one in expected:
        wanted[documents[one.subject]].append(one.id)
    assert came == wanted
    return len(receiver.got) - len(bodies)


@pytest.mark.slow
def test_no_event_of_an_acknowledged_decision_is_lost_or_out_of_order_whatever_is_killed(
    tmp_path, monkeypatch
) -> None:
    for name in ("BACKOFF_S", "SKEW_S", "SAVE_EVERY_S", "PARK_AFTER_S", "POLL_S", "LOOK_EVERY_S"):
        monkeypatch.setattr(delivery, name, getattr(delivery, name))
    monkeypatch.setattr(delivery, "PROBE_EVERY_S", delivery.PROBE_EVERY_S)
    hurry()
    url, ring = f"sqlite:///{tmp_path}/registry.sqlite", tmp_path / "keyring.json"
    vault = Vault(KeyRing.create(ring), DIM)
    chance = random.Random(11)
    acknowledged: set[str] = set()

    taken: set[str] = set()
    documents: dict[str, str] = {}
    begun: dict[str, list[str]] = defaultdict(list)
    early: list[str] = []

    async def answer(event: Mapping[str, Any]) -> int:
        if event["subject"] not in documents:
            documents.update(read_documents(store))
        ids = begun[documents[event["subject"]]]
        if event["id"] not in ids:
            early.extend(set(ids) - taken)
            ids.append(event["id"])
        if chance.random() < 0.05:
            return 503
        taken.add(event["id"])
        return 204

    async def run(store: Store) -> int:
        webhooks = Webhooks(store.engine, vault)
        async with receiving(answer) as receiver:
            webhook, _ = webhooks.create(receiver.sink, (), carrier="blue", actor="test")
            with enroller(url, ring, tmp_path / "gallery") as process:
                first = 1
                for _ in range(KILLS):
                    command = [sys.executable, str(DELIVERER), url, str(ring), str(DIM)]
                    worker = subprocess.Popen(command)
                    try:
                        lines, after_s = chance.randrange(MOST_LINES), chance.uniform(0, 0.1)
                        acks = await asyncio.to_thread(
                            process.run_and_kill, first, first, after_lines=lines, after_s=after_s
                        )
                        acknowledged.update(one[1] for one in acks)
                        # Documents with many events, beside those of decisions with one or two.
                        await happen(store, [*LINES] * 4, documents=LINES)
                        first = max([first - 1, *(int(one[0]) for one in acks)]) + 1
                        got = len(receiver.got)
                        await until(
                            lambda got=got: (
                                len(receiver.got) > got  # type: ignore[misc]
                                or not webhooks.measure(webhook).waiting
                            )
                        )
                        await asyncio.sleep(chance.uniform(0, 0.3))
                    finally:
                        worker.kill()
                        worker.wait()
            async with delivering(webhooks, SETTINGS):
                await until(lambda: not webhooks.measure(webhook).waiting)
            assert webhooks.measure(webhook).dead == 0
            decided = {event.subject for event in read_events(store, 0, 100_000)}
            assert acknowledged <= decided
            assert early == []
            return check_received(store, receiver)

    with Store.create(url, vault, model_digest=MODEL_DIGEST) as store:
        store.add_carrier(Carrier("blue", "Blue"), actor="test")
        store.add_outlet("blue-1", "blue", actor="test")
        repeated = asyncio.run(run(store))
    sys.stdout.write(
        f"{len(acknowledged)} acknowledged decisions, {KILLS} kills each, {repeated} repeated\n"
    )
    assert acknowledged


__all__ = [
    "database_url",
    "enroll",
    "key_ring",
    "random_units",
    "sqlite_url",
    "store",
    "vault",
    "writer",
]


@pytest.mark.anyio
async def test_a_decision_that_is_refused_keeps_back_its_documents_events_and_no_other_documents(
    writer, webhooks, enroll, monkeypatch
) -> None:
    monkeypatch.setattr(delivery, "BACKOFF_S", (0.05,) * 100)
    monkeypatch.setattr(delivery, "PROBE_EVERY_S", 0.05)
    monkeypatch.setattr(delivery, "POLL_S", 0.02)
    first = committed(writer, enroll(writer, 1))
    (enrollment,), (line,), (document,) = first.enrollments, first.lines, first.documents
    own = [enrollment.id, line.id, line.id, document.id]
    others: list[str] = []
    refused: list[str] = []

    async def answer(event: Mapping[str, Any]) -> int:
        has_others = bool(others) and set(others) <= set(receiver.taken)
        is_first = event["subject"] == line.id and line.id not in refused
        if is_first or (event["subject"] == enrollment.id and not has_others):
            refused.append(event["subject"])
            return 503
        return 204

    async with receiving(answer) as receiver:
        webhook, _ = webhooks.create(receiver.sink, (), carrier="red", actor="test")
        webhooks.replay(webhook.id, 0, carrier="red", actor="test")
        async with delivering(webhooks):
            await until(lambda: bool(refused))
        second = committed(writer, enroll(writer, 1, first=1))
        others.extend((second.enrollments[0].id, second.lines[0].id))
        committed(writer, erasure(first, 0, writer.sequence + 1))
        # Another worker goes on with what the first one has left.
        async with delivering(webhooks):
            await until(lambda: document.id in receiver.taken)
    assert receiver.taken == [*others, *own]
    assert line.id in refused
