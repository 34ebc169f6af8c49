"""Webhooks and cursors in the registry: held by one, sealed, and how far each is behind."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Column, MetaData, Table, func, insert, select, update

from engine.errors import NotFound, SealBroken
from engine.registry.accounts import Carrier
from engine.registry.database import changing, connect, new_id, restructuring, utc_now
from engine.registry.events import (
    NewEvent,
    hold_cursor,
    read_events,
    read_these,
    release_cursor,
    write_events,
)
from engine.registry.retention import Job, expire
from engine.registry.store import Store, upgrade_schema
from engine.registry.webhooks import Progress, Undelivered, Webhooks
from schema.events import EventType
from schema.phases import Retained
from tests.tables import tables

SINK = "https://systems.example/a?token=1"
MINUTE = timedelta(minutes=1)


@pytest.fixture
def webhooks(store) -> Webhooks:
    store.add_carrier(Carrier("of webhooks", "Of webhooks"), actor="test")
    return Webhooks(store.engine, store.vault)


def happen(store: Store, count: int, *, opened: bool = False, at: Any = None) -> None:
    """So many events of lines, or twice as many of enrollments that opened one."""
    kind = EventType.ENROLLMENT_DECIDED if opened else EventType.LINE_CLOSED
    found = [
        NewEvent(
            kind, new_id(), "of webhooks", {"outlet": "b1"}, None, new_id() if opened else None
        )
        for _ in range(count)
    ]
    with changing(store.engine) as connection:
        write_events(connection, store.vault, found, at or utc_now())


def test_a_carrier_is_told_of_no_type_of_event_that_is_not_for_carriers(store, webhooks) -> None:
    found = [NewEvent(one, new_id(), "of webhooks", {}) for one in EventType]
    with changing(store.engine) as connection:
        write_events(connection, store.vault, found, utc_now())
    told = {one.type for one in read_events(store, 0, carrier="of webhooks")}
    cases = {one for one in EventType if one.startswith("case.")}
    others = {EventType.WATCHLIST_HIT, EventType.SWEEP_FINISHED, EventType.PERSONS_REACHED}
    assert {*EventType} - told == cases | others
    assert {one.type for one in read_events(store, 0)} == {*EventType}


def waits(number: int, due: bool = True) -> Undelivered:
    now = utc_now()
    return Undelivered(
        number=number, queue="s", attempts=1, due_at=now if due else None, fault="x", at=now
    )


def test_one_worker_holds_a_webhook_and_another_takes_over_when_its_time_is_over(
    store, webhooks
) -> None:
    webhook, _ = webhooks.create(SINK, (), carrier=None, actor="test")
    now = utc_now()
    held = hold_cursor(store, webhook.id, "a", now, MINUTE)
    assert hold_cursor(store, webhook.id, "b", now, MINUTE) is None
    assert hold_cursor(store, webhook.id, "a", now, MINUTE) == held
    assert webhooks.save("b", [Progress(held, 5)]) == [webhook.id]
    later = hold_cursor(store, webhook.id, "b", now + 2 * MINUTE, MINUTE)
    assert later is not None
    assert replace(later, held_by="a", held_until=held.held_until) == held
    assert webhooks.save("a", [Progress(held, 5, [waits(4)])]) == [webhook.id]
    assert webhooks.save("b", [Progress(held, 6)]) == []
    assert webhooks.measure(webhook).cursor == 6
    release_cursor(store, webhook.id, "b")
    assert hold_cursor(store, webhook.id, "a", now, MINUTE) is not None


def test_what_a_clock_that_was_ahead_held_is_free_once_it_is_right(store, webhooks) -> None:
    webhook, _ = webhooks.create(SINK, (), carrier=None, actor="test")
    now = utc_now()
    assert hold_cursor(store, webhook.id, "a", now + timedelta(days=6), MINUTE) is not None
    assert hold_cursor(store, webhook.id, "b", now, MINUTE) is not None
    assert hold_cursor(store, webhook.id, "a", now, MINUTE) is None


def test_what_waits_is_counted_and_a_replay_ends_what_a_worker_knew(store, webhooks) -> None:
    webhook, _ = webhooks.create(SINK, (), carrier="of webhooks", actor="test")
    lines, _ = webhooks.create(SINK, [EventType.LINE_OPENED], carrier=None, actor="test")
    happen(store, 3, opened=True)
    happen(store, 2)
    assert webhooks.measure(webhook).waiting == 8
    assert webhooks.measure(lines).waiting == 3
    held = hold_cursor(store, webhook.id, "a", utc_now(), MINUTE)
    assert held is not None
    kept = [waits(2), waits(3), waits(4, due=False)]
    assert webhooks.save("a", [Progress(held, 7, kept)]) == []
    assert webhooks.save("a", [Progress(held, 7, [waits(2)], [3])]) == []
    backlog = webhooks.measure(webhook)
    assert (backlog.cursor, backlog.waiting, backlog.dead) == (7, 2, 1)
    assert [one.number for one in webhooks.undelivered(webhook.id)] == [2]
    (dead,) = webhooks.list_dead(webhook.id, carrier="of webhooks")
    assert (dead.event.number, dead.event.type) == (4, EventType.LINE_OPENED)
    asked = [dead.event.id, "no such event"]
    assert webhooks.ask_again(webhook.id, asked, carrier=None, actor="test") == 1
    assert webhooks.save("a", [Progress(held, 8)]) == [webhook.id]
    webhooks.replay(webhook.id, 3, carrier=None, actor="test")
    backlog = webhooks.measure(webhook)
    assert (backlog.cursor, backlog.waiting, backlog.dead) == (3, 6, 0)
    webhooks.remove(webhook.id, carrier=None, actor="test")
    with pytest.raises(NotFound):
        webhooks.find(webhook.id)


def test_events_of_one_row_keep_their_places_however_they_are_read(store, webhooks) -> None:
    happen(store, 2, opened=True)
    happen(store, 1)
    happen(store, 1, opened=True)
    whole = read_events(store, 0)
    assert [one.number for one in whole] == list(range(1, 8))
    assert len({one.id for one in whole}) == 7
    for after in range(8):
        for limit in (1, 2, 7):
            assert read_events(store, after, limit) == whole[after : after + limit]
    opened = [one for one in whole if one.type is EventType.LINE_OPENED]
    for after in range(8):
        found = read_events(store, after, 2, types=[EventType.LINE_OPENED])
        assert found == [one for one in opened if one.number > after][:2]
    assert read_these(store, [2, 5, 99]) == {2: whole[1], 5: whole[4]}
    assert webhooks.last_event() == 7


def test_a_webhook_that_was_altered_sends_nothing_anywhere(store, webhooks) -> None:
    webhook, secret = webhooks.create(SINK, (), carrier="of webhooks", actor="test")
    columns = store.rows(select(tables.webhooks))[0]
    assert not any(str(one).encode() in columns.sink for one in (SINK, secret))
    with changing(store.engine) as connection:
        connection.execute(update(tables.webhooks).values(carrier=None))
    assert webhooks.find_all() == []
    assert store.vault.set_aside.count() == {"webhooks": 1}
    with pytest.raises(SealBroken, match="a row of webhooks was altered"):
        webhooks.find(webhook.id)


def test_events_leave_by_their_age_whichever_rows_hold_them(store, webhooks) -> None:
    now = utc_now()
    until = now - timedelta(days=30)
    for opened in (True, False):
        happen(store, 150, opened=opened, at=until - timedelta(days=1))
    happen(store, 40, opened=True, at=until)
    happen(store, 40, at=until + timedelta(seconds=1))
    job = Job("job", "test", {Retained.EVENTS: until}, dict)
    with store.writer() as writer:
        gone = 0
        webhook, _ = webhooks.create(SINK, (), carrier=None, actor="test")
        held = hold_cursor(store, webhook.id, "a", now, MINUTE)
        kept = [waits(3, due=False), waits(4), waits(540)]
        webhooks.save("a", [Progress(held, held.number, kept)])
        while count := expire(writer, Retained.EVENTS, job, now, 100):
            gone += count
    assert gone == 340
    (left,) = store.rows(select(func.count(), func.min(tables.events.c.number)))
    assert tuple(left) == (40, 150 * 3 + 80 + 1)
    webhooks.forget_left()
    assert [one.number for one in webhooks.undelivered(webhook.id)] == [540]
    assert webhooks.measure(webhook).dead == 0


def test_an_outbox_of_the_version_before_keeps_its_events(database_url) -> None:
    engine = connect(database_url)
    row = {"id": "a", "type": "line.closed", "at": utc_now(), "subject": "s", "data": b"x"}
    with restructuring(engine) as connection:
        upgrade_schema(connection, "0018")
        later = ("line_id", "document_id")
        columns = [one for one in tables.events.columns if one.name not in later]
        old = Table("events", MetaData(), *(Column(one.name, one.type) for one in columns))
        connection.execute(insert(old), [row | {"number": 1}, row | {"number": 2, "id": "b"}])
        upgrade_schema(connection)
        found = connection.execute(select(tables.events).order_by(tables.events.c.number)).all()
        # Nothing looks for an id, so nothing keeps one from coming twice.
        connection.execute(insert(tables.events), row | {"number": 3, "line_id": "l"})
    engine.dispose()
    assert [(one.number, one.id, one.line_id) for one in found] == [(1, "a", None), (2, "b", None)]
