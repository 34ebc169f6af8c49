"""Events: each change that others wait for has one, in its transaction and its order."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from engine.errors import SosieError, StorageFailed
from engine.matching.holders import erase_holder, watch_face
from engine.matching.lines import close_line
from engine.registry import tables
from engine.registry.database import changing
from engine.registry.events import Event, EventType, read_events
from engine.registry.records import AuditEntry, Changes
from tests.engine.matching.test_lines import dispute


def told(events: list[Event]) -> list[tuple[str, str]]:
    return [(one.type.value, one.subject) for one in events]


def test_a_line_has_its_story_in_order_and_ids_alone(lab: Any) -> None:
    person, request = lab.newcomer()
    with lab.registrar() as registrar:
        body = registrar.enroll([request])[0].body
        case = dispute(lab, registrar, request.msisdn, request.document, person).case_id
        close_line(registrar, lab.store, body["line_id"], "test")
    events = read_events(lab.store, 0)
    line = body["line_id"]
    assert told(events) == [
        ("enrollment.decided", body["enrollment_id"]),
        ("line.opened", line),
        ("line.disputed", line),
        ("case.opened", case),
        ("line.closed", line),
    ]
    assert [one.number for one in events] == [1, 2, 3, 4, 5]
    assert events[0].data == {"decision": "approved", "outlet": "blue-1", "line_id": line}
    secrets = (request.msisdn, request.document.number, request.document.name)
    assert not any(secret in str(events) for secret in secrets)
    assert told(read_events(lab.store, 3)) == told(events)[3:]
    assert told(read_events(lab.store, 0, 2)) == told(events)[:2]


def test_a_carrier_is_told_of_its_own_alone(lab: Any) -> None:
    _, request = lab.newcomer()
    with lab.registrar() as registrar:
        body = registrar.enroll([request])[0].body
        erase_holder(registrar, lab.store, request.document, "test")
    own = read_events(lab.store, 0, carrier="blue")
    assert told(own)[2:] == [
        ("line.closed", body["line_id"]),
        ("erasure.done", body["document_id"]),
    ]
    assert read_events(lab.store, 0, carrier="red") == []
    only = read_events(lab.store, 0, types=[EventType.LINE_CLOSED, EventType.LINE_OPENED])
    assert [one.type.value for one in only] == ["line.opened", "line.closed"]


def test_a_hit_of_the_watch_list_is_for_the_fraud_team(lab: Any) -> None:
    person, request = lab.newcomer()
    with lab.registrar() as registrar:
        watch_face(registrar, person, "seen before", "test")
        answer = registrar.enroll([request])[0]
    (hit,) = read_events(lab.store, 0, types=[EventType.WATCHLIST_HIT])
    assert (hit.subject, hit.carrier) == (answer.enrollment_id, None)
    assert EventType.WATCHLIST_HIT not in [
        one.type for one in read_events(lab.store, 0, carrier="blue")
    ]


def test_what_is_not_kept_has_no_event(lab: Any) -> None:
    changes = Changes(0, (AuditEntry("test", "test", "test"),), closed_lines=("no such line",))
    with lab.store.writer() as writer, pytest.raises(StorageFailed):
        writer.commit(changes)
    assert read_events(lab.store, 0) == []


def test_an_altered_event_is_told_to_nobody(lab: Any) -> None:
    with lab.registrar() as registrar:
        registrar.enroll([lab.request()])
    with changing(lab.store.engine) as connection:
        connection.execute(update(tables.events).values(line_id="another"))
    with pytest.raises(SosieError, match="a row of events was altered"):
        read_events(lab.store, 0)
    assert len(lab.store.rows(select(tables.events))) == 1
