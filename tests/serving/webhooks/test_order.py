"""The order of a document's events, whatever of the document each is about."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from engine.registry.webhooks import Webhooks
from engine.registry.writer import Writer
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
from tests.engine.registry.conftest import Enroll, committed, enroll, erasure
from tests.serving.webhooks.conftest import delivering, receiving, until

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


def test_a_decision_that_is_refused_keeps_back_its_documents_events_and_no_other_documents(
    writer: Writer, webhooks: Webhooks, enroll: Enroll, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "BACKOFF_S", (0.05,) * 100)
    monkeypatch.setattr(delivery, "PROBE_EVERY_S", 0.05)
    monkeypatch.setattr(delivery, "POLL_S", 0.02)
    first = committed(writer, enroll(writer, 1))
    (enrollment,), (line,), (document,) = first.enrollments, first.lines, first.documents
    own = [enrollment.id, line.id, line.id, document.id]
    others: list[str] = []
    refused: list[str] = []

    async def run() -> list[str]:
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
            return receiver.taken

    taken = asyncio.run(run())
    assert taken == [*others, *own]
    assert line.id in refused
