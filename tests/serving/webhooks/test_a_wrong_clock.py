"""A worker is killed while the clock is wrong: another one goes on at once when it is right."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from engine.registry.accounts import Carrier
from engine.registry.database import utc_now
from engine.registry.events import hold_cursor, read_cursors
from engine.registry.keyring import KeyRing
from engine.registry.store import Store
from engine.registry.vault import Vault
from engine.registry.webhooks import Progress, Undelivered, Webhooks
from serving.webhooks import delivery
from serving.webhooks.delivery import BACKOFF_S, _Route
from tests.serving.webhooks.conftest import delivering, happen, receiving, until
from tests.serving.webhooks.deliverer import MODEL_DIGEST, SETTINGS

DELIVERER = Path(__file__).with_name("deliverer.py")
DIM = 8
DAYS = (1, 6, 8, 400, -3)


@pytest.mark.anyio
@pytest.mark.parametrize(("before", "after"), [(400, 0), (-3, 0), (0, -3)])
async def test_an_event_that_failed_by_a_wrong_clock_is_delivered_when_it_is_right(
    tmp_path, monkeypatch, before: int, after: int
) -> None:
    monkeypatch.setattr(delivery, "BACKOFF_S", (0.01,) * 50)
    monkeypatch.setattr(delivery, "utc_now", lambda: utc_now() + timedelta(days=after))
    url, ring = f"sqlite:///{tmp_path}/registry.sqlite", tmp_path / "keyring.json"
    vault = Vault(KeyRing.create(ring), DIM)
    is_taken = False

    command = [sys.executable, str(DELIVERER), url, str(ring), str(DIM), str(before)]
    with Store.create(url, vault, model_digest=MODEL_DIGEST) as store:
        store.add_carrier(Carrier("blue", "Blue"), actor="test")
        webhooks = Webhooks(store.engine, vault)
        async with receiving(lambda _: 204 if is_taken else 503) as receiver:
            webhook, _ = webhooks.create(receiver.sink, (), carrier="blue", actor="test")
            worker = subprocess.Popen(command)
            try:
                await happen(store, ["a"])
                await until(lambda: webhooks.undelivered(webhook.id) != [])
            finally:
                worker.kill()
                worker.wait()
            assert read_cursors(webhooks)[webhook.id].held_by is not None
            is_taken = True
            async with delivering(webhooks, SETTINGS):
                await until(lambda: receiver.taken == ["a"])
                await until(lambda: webhooks.undelivered(webhook.id) == [])


@pytest.mark.parametrize("days", DAYS)
def test_no_event_waits_beyond_the_pause_after_its_failure(store, webhooks, days: int) -> None:
    webhook, _ = webhooks.create("https://systems.example/a", (), carrier="blue", actor="test")
    now = utc_now()
    held = hold_cursor(store, webhook.id, "w", now, timedelta(minutes=1))
    assert held is not None
    rows = [
        Undelivered(
            number=place,
            queue=str(place),
            attempts=place,
            due_at=now + timedelta(days=days, seconds=([0.0, *BACKOFF_S])[place]),
            fault="x",
            at=now,
        )
        for place in range(len(BACKOFF_S) + 1)
    ]
    webhooks.save("w", [Progress(held, 9, rows)])
    route = _Route(webhook, held, 0.0, None)  # type: ignore[arg-type]
    route.add_rows(webhooks.undelivered(webhook.id))
    now_s, waiting = delivery.monotonic(), route._waiting.values()
    assert len(waiting) == (len(rows) if days > 0 else 0)
    for one in waiting:
        assert one.due_s - now_s <= BACKOFF_S[max(one.attempts, 1) - 1]
