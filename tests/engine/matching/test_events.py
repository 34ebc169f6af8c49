"""Events: each change that others wait for has one, in its transaction and its order."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from engine.errors import PlaceUnknown, StorageFailed
from engine.matching.holders import erase_holder, watch_face
from engine.matching.lines import close_line
from engine.registry.cases import CaseChange
from engine.registry.database import changing, new_id, utc_now
from engine.registry.events import BEGINNING, Event, read_events, read_page
from engine.registry.lines import LineChange
from engine.retention.job import DirectRunner, run_retention
from schema.cases import CaseState, Outcome
from schema.events import EventType
from schema.lines import LineEventKind
from tests.engine.matching.conftest import NOW
from tests.engine.matching.test_lines import dispute
from tests.engine.records import ENTRY
from tests.engine.retention.conftest import only
from tests.tables import tables


def told(events: list[Event]) -> list[tuple[str, str]]:
    return [(one.type.value, one.subject) for one in events]


def test_what_happens_to_a_line_is_told_in_order_and_by_ids_alone(lab, registrar) -> None:
    person, request, body = lab.holder(registrar)
    case = dispute(lab, registrar, request.msisdn, request.document, person).case_id
    close_line(registrar, lab.store, body.line_id, "test")
    events = read_events(lab.store, 0)
    line = body.line_id
    assert told(events) == [
        ("enrollment.decided", body.enrollment_id),
        ("line.opened", line),
        ("line.disputed", line),
        ("case.opened", case),
        ("line.closed", line),
    ]
    assert [one.number for one in events] == [1, 2, 3, 4, 5]
    document = body.document_id
    assert [one.queue for one in events] == [document, document, document, case, document]
    assert events[-1].data == {"at": events[-1].at.isoformat(), "cause": "request"}
    assert events[0].data == {"decision": "approved", "outlet": "blue-1", "line_id": line}
    secrets = (request.msisdn, request.document.number, request.document.name)
    assert not any(secret in str(events) for secret in secrets)
    assert told(read_events(lab.store, 3)) == told(events)[3:]
    assert told(read_events(lab.store, 0, 2)) == told(events)[:2]


def test_a_carrier_is_told_of_its_own_alone(lab, registrar) -> None:
    _, request, body = lab.holder(registrar)
    erase_holder(registrar, lab.store, request.document, "test")
    own = read_events(lab.store, 0, carrier="blue")
    assert told(own)[2:] == [("line.closed", body.line_id), ("erasure.done", body.document_id)]
    assert {one.queue for one in own} == {body.document_id}
    assert read_events(lab.store, 0, carrier="red") == []
    only = read_events(lab.store, 0, types=[EventType.LINE_CLOSED, EventType.LINE_OPENED])
    assert [one.type.value for one in only] == ["line.opened", "line.closed"]


def test_a_hit_of_the_watch_list_is_for_the_fraud_team(lab, registrar) -> None:
    person, request = lab.newcomer()
    watch_face(registrar, person, "seen before", "test")
    answer = registrar.enroll([request])[0]
    (hit,) = read_events(lab.store, 0, types=[EventType.WATCHLIST_HIT])
    assert (hit.subject, hit.carrier) == (answer.enrollment_id, None)
    assert EventType.WATCHLIST_HIT not in [
        one.type for one in read_events(lab.store, 0, carrier="blue")
    ]


def test_what_is_not_kept_has_no_event(lab) -> None:
    change = LineChange(["no such line"], LineEventKind.CLOSED, "test", "test")
    with lab.store.writer() as writer, pytest.raises(StorageFailed):
        writer.commit([ENTRY, change])
    assert read_events(lab.store, 0) == []


def test_an_altered_event_is_told_to_nobody_and_keeps_no_other_back(lab, registrar) -> None:
    registrar.enroll([lab.request()])
    place = read_page(lab.store, BEGINNING, carrier="blue").next
    with changing(lab.store.engine) as connection:
        connection.execute(update(tables.events).values(id=new_id(), subject="another"))
    assert read_events(lab.store, 0) == []
    assert lab.vault.set_aside.count() == {"events": 1}
    # It was the newest of all, and whoever had come as far goes on from there.
    later = read_page(lab.store, place, carrier="blue")
    assert later.events == []
    registrar.enroll([lab.request()])
    after = [read_page(lab.store, one, carrier="blue").events for one in (place, later.next)]
    assert [one.number for one in after[0]] == [3, 4]
    assert after[1] == after[0]


def test_a_place_is_known_while_nothing_after_it_can_have_left(lab) -> None:
    def keep_days(days: int) -> None:
        with lab.store.writer() as writer:
            runner = DirectRunner(writer, lambda: utc_now() + timedelta(days=days))
            run_retention(runner, only(events_days=30), "test")

    lab.enroll(lab.request(), lab.request())
    first = read_page(lab.store, BEGINNING, 1)
    last = read_page(lab.store, first.next)
    assert (len(first.events), len(last.events)) == (1, 3)
    keep_days(31)
    with pytest.raises(PlaceUnknown):
        read_page(lab.store, first.next)
    assert read_page(lab.store, last.next).events == []
    # Numbers go on where they were, also where all that had one is long gone.
    lab.enroll(lab.request())
    assert [one.number for one in read_page(lab.store, last.next).events] == [5, 6]


def test_a_case_is_opened_and_closed_once(lab, registrar) -> None:
    person, request, _ = lab.holder(registrar)
    case_id = dispute(lab, registrar, request.msisdn, request.document, person).case_id
    case = lab.store.cases.by_id([case_id])[case_id]
    closed = replace(case, state=CaseState.CLOSED, outcome=Outcome.UNFOUNDED, closed_at=NOW)
    merged = replace(case, id=new_id(), state=CaseState.MERGED, merged_into=case_id)
    for write in (CaseChange(closed), CaseChange(closed), merged):
        registrar.run(lambda writer, _, given=write: writer.commit([ENTRY, given]))
    kinds = [one.type for one in read_events(lab.store, 0) if one.type.value.startswith("case.")]
    assert kinds == [EventType.CASE_OPENED, EventType.CASE_CLOSED]
