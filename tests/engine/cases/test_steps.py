"""Steps on a case: who may do what, and what the history and the audit say."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from engine.cases import steps as steps_of_cases
from engine.cases.deaths import contest, lift, report
from engine.cases.decided import DecisionReader
from engine.cases.steps import (
    MAX_NOTE_LENGTH,
    Revealed,
    assign,
    close,
    note,
    propose,
    reopen,
    reveal_subject,
    withdraw,
)
from engine.errors import CaseMoved, FourEyes, NotFound, RequestError, TooManyFailures
from engine.matching.checks.limits import Bound
from engine.matching.holders import erase_holder
from engine.matching.lines import close_line
from engine.registry.audit import AuditEntry, verify_chain
from engine.registry.damage import find_damage
from engine.registry.database import new_id
from engine.registry.events import read_events
from engine.registry.queues import CaseFilter
from schema.actors import Actor, find_actor_kind
from schema.cases import CaseKind, CaseSort, CaseState, NoteKind, Outcome
from schema.events import EventType
from schema.lines import LineStatus
from schema.people import DeathSource
from tests.engine.cases.conftest import ANNA, BOB
from tests.engine.records import newest_cases


def status_of(service: Any, line_id: str) -> LineStatus:
    return service.store.lines_by_id([line_id])[line_id].status


def history(service: Any, case_id: str) -> list[tuple[NoteKind, str, str]]:
    notes = service.store.cases.notes(case_id)
    return [(entry.kind, entry.actor, entry.text) for entry in notes][1:]


@pytest.mark.both_databases
def test_a_case_is_assigned_reassigned_and_returned(service) -> None:
    case = service.open("a")
    assigned = assign(*service.context, case.id, ANNA.person, BOB)
    assert (assigned.state, assigned.assignee) == (CaseState.ASSIGNED, ANNA.person)
    assert service.store.cases.get(case.id) == assigned
    assert newest_cases(service.store.cases, CaseState.ASSIGNED) == [assigned]
    proposed = propose(*service.context, case.id, Outcome.TWINS, (), ANNA)
    assert proposed.state is CaseState.PROPOSED
    with pytest.raises(CaseMoved, match="proposed already"):
        propose(*service.context, case.id, Outcome.FRAUD, (), BOB)
    moved = assign(*service.context, case.id, BOB.person, ANNA)
    assert (moved.state, moved.proposal) == (CaseState.PROPOSED, proposed.proposal)
    assert withdraw(*service.context, case.id, BOB).state is CaseState.ASSIGNED
    with pytest.raises(CaseMoved, match="nothing is proposed"):
        withdraw(*service.context, case.id, ANNA)
    freed = assign(*service.context, case.id, None, BOB)
    assert (freed.state, freed.assignee) == (CaseState.OPEN, None)
    assert history(service, case.id) == [
        (NoteKind.ASSIGNED, BOB.person, ANNA.person),
        (NoteKind.PROPOSED, ANNA.person, "twins"),
        (NoteKind.ASSIGNED, ANNA.person, BOB.person),
        (NoteKind.WITHDRAWN, BOB.person, "twins"),
        (NoteKind.ASSIGNED, BOB.person, ""),
    ]
    actions = ["case.assigned", "case.proposed", "case.withdrawn"]
    entries = [(one.action, one.actor, one.subject) for one in service.entries(*actions)]
    assert entries == [
        ("case.assigned", BOB.name, case.id),
        ("case.proposed", ANNA.name, case.id),
        ("case.assigned", ANNA.name, case.id),
        ("case.withdrawn", BOB.name, case.id),
        ("case.assigned", BOB.name, case.id),
    ]
    assert verify_chain(service.store).intact


@pytest.mark.parametrize(
    "text",
    [
        "Both show the same scar.",
        "<script>alert(1)</script> & 'quotes' =HYPERLINK(1)",
        "محمد עברית 王小明 and\n\ttwo lines",
        "x" * MAX_NOTE_LENGTH,
    ],
)
def test_a_note_is_stored_unchanged_and_not_in_the_audit(service, text: str) -> None:
    case = service.open("a")
    assert note(*service.context, case.id, text, ANNA).updated_at > case.updated_at
    assert history(service, case.id) == [(NoteKind.NOTE, ANNA.person, text)]
    (entry,) = service.entries("case.noted")
    assert (entry.actor, entry.subject, entry.detail) == (ANNA.name, case.id, {"length": len(text)})


NOTES = ["", " \n", "x" * (MAX_NOTE_LENGTH + 1), "a\0b", "\x1b[2J", "\x9b", "\ud800", "a\rb"]
ASSIGNEES = ["", " ", "x" * 201, "a\nb", "\0"]


@pytest.mark.parametrize(("step", "texts"), [(note, NOTES), (assign, ASSIGNEES)])
def test_an_invalid_note_or_assignee_is_refused(service, step: Any, texts: list[str]) -> None:
    case = service.open("a")
    for text in texts:
        with pytest.raises(RequestError):
            step(*service.context, case.id, text, ANNA)
    assert history(service, case.id) == []
    assert service.store.cases.get(case.id) == case


def test_lines_are_closed_by_two_people_exactly_as_proposed(service) -> None:
    first, second = service.enroll(2)
    lines = [first.line_id, second.line_id]
    case = service.open(first.document_id, second.document_id)
    asked = (*service.context, case.id, Outcome.FRAUD, lines[:1])
    with pytest.raises(FourEyes):
        close(*asked, ANNA)
    propose(*asked, ANNA)
    with pytest.raises(FourEyes):
        close(*asked, ANNA)
    for outcome, others in ((Outcome.FRAUD, lines), (Outcome.MISTAKE, lines[:1])):
        with pytest.raises(FourEyes):
            close(*service.context, case.id, outcome, others, BOB)
    assert {status_of(service, line) for line in lines} == {LineStatus.ACTIVE}
    closed = close(*asked, BOB)
    assert (closed.state, closed.outcome) == (CaseState.CLOSED, Outcome.FRAUD)
    assert (closed.proposal.by, closed.closed_at) == (ANNA.name, closed.updated_at)
    assert service.store.cases.get(case.id) == closed
    assert [status_of(service, one) for one in lines] == [LineStatus.CLOSED, LineStatus.ACTIVE]
    (entry,) = service.entries("line.closed")
    assert (entry.actor, entry.subject, entry.detail) == (BOB.name, lines[0], {"case": case.id})
    (entry,) = service.entries("case.closed")
    assert (entry.actor, entry.detail["proposed_by"]) == (BOB.name, ANNA.name)
    assert entry.detail["closed_lines"] == lines[:1]


@pytest.mark.both_databases
def test_what_people_do_to_a_line_is_in_its_history_with_time_cause_and_who(service) -> None:
    fraud, dead, gone, erased = (body.line_id for body in service.enroll(4))
    lines = service.store.lines_by_id([fraud, dead, gone, erased])
    case = service.open(lines[fraud].document_id)
    service.decide(case.id, Outcome.FRAUD, [fraud])
    of_dead = (*service.context, lines[dead].document_id)
    report(*of_dead, DeathSource.FAMILY, ANNA)
    contest(*of_dead, ANNA)
    lift(*of_dead, BOB)
    close_line(*service.context, gone, "key:k0")
    erase_holder(*service.context, lines[erased].document_id, "sosie:retention")
    told = {
        line: [
            (one.kind.value, one.cause, find_actor_kind(one.by).value)
            for one in service.store.events_of_line(line)
        ]
        for line in lines
    }
    assert told == {
        fraud: [("closed", f"case:{case.id}", "key")],
        dead: [("disputed", "death", "key"), ("restored", "death", "key")],
        gone: [("closed", "request", "key")],
        erased: [("closed", "erasure", "service")],
    }
    closed = service.store.lines_by_id([fraud, gone, erased]).values()
    for line in closed:
        (event,) = service.store.events_of_line(line.id)
        assert event.at == event.recorded_at == line.closed_at
    # Whose other lines the case has is nothing for their carriers.
    told = read_events(service.store, 0, types=(EventType.LINE_CLOSED,))
    feed = {one.subject: one.data["cause"] for one in told}
    assert feed == {fraud: "case", gone: "request", erased: "erasure"}


def test_fraud_leaves_no_line_in_use_of_which_nobody_has_said_that_it_stays(service) -> None:
    bodies = service.enroll(2)
    case = service.open(*(one.document_id for one in bodies))
    said = (*service.context, case.id, Outcome.FRAUD, [])
    with pytest.raises(RequestError, match="2 numbers of its documents in use, and none"):
        propose(*said, ANNA)
    assert service.store.cases.get(case.id) == case
    proposed = propose(*said, ANNA, keep_lines=True)
    assert proposed.proposal.keep_lines
    # Whoever approves says it, too.
    with pytest.raises(FourEyes, match="exactly what was proposed"):
        close(*said, BOB)
    closed = close(*said, BOB, keep_lines=True)
    assert service.store.cases.get(case.id) == closed
    assert closed.proposal.keep_lines
    assert {status_of(service, one.line_id) for one in bodies} == {LineStatus.ACTIVE}
    told = [one.detail["keep_lines"] for one in service.entries("case.proposed", "case.closed")]
    assert told == [True, True]


def test_what_was_proposed_before_a_line_was_opened_says_nothing_of_it(service) -> None:
    face = service.lab.people.person()
    first = service.lab.request(face)
    (answer,) = service.registrar.enroll([first])
    document = answer.decided.document_id
    close_line(*service.context, answer.decided.line_id, "key:k0")
    case = service.open(document)
    said = (*service.context, case.id, Outcome.FRAUD)
    propose(*said, [], ANNA)
    (later,) = service.registrar.enroll([service.lab.request(face, document=first.document)])
    line = later.decided.line_id
    with pytest.raises(RequestError, match="1 number of its documents in use"):
        close(*said, [], BOB)
    for given, keeps in (([], True), ([line], False)):
        with pytest.raises(FourEyes, match="or withdraw it"):
            close(*said, given, BOB, keep_lines=keeps)
    withdraw(*service.context, case.id, BOB)
    service.decide(case.id, Outcome.FRAUD, [line])
    assert status_of(service, line) is LineStatus.CLOSED


@pytest.mark.both_databases
def test_decided_fraud_is_in_the_queue_while_lines_of_it_are_in_use(service) -> None:
    one, two, victim, twin = service.enroll(4)
    documents = [body.document_id for body in (one, two, victim)]
    # The victim's document was misused, and is no suspect.
    case = service.open(*documents, suspect_ids=documents[:2], line_ids=[one.line_id])
    told = service.open(victim.document_id, kind=CaseKind.DISPUTE, suspect_ids=())
    other = service.open(twin.document_id)
    queue = (CaseFilter(fraud_in_use=True), CaseSort.NEWEST)
    cases = service.store.cases
    assert cases.queue(*queue) == []
    assert cases.count_fraud() == 0
    service.decide(case.id, Outcome.FRAUD, [one.line_id])
    service.decide(told.id, Outcome.FRAUD)
    service.decide(other.id, Outcome.TWINS)
    assert [found.id for found in cases.queue(*queue)] == [case.id]
    assert cases.count_fraud() == 1
    assert cases.fraud_of_cases([case.id, told.id]) == {case.id: {two.line_id}, told.id: set()}
    assert cases.fraud_under(documents) == dict(
        zip(documents, [set(), {two.line_id}, set()], strict=True)
    )
    close_line(*service.context, two.line_id, "key:k0")
    assert cases.queue(*queue) == []
    assert cases.count_fraud() == 0


def test_one_person_closes_a_dispute_as_unfounded_and_nothing_else(service) -> None:
    (body,) = service.enroll(1)
    for kind in (CaseKind.ONE_FACE, CaseKind.PROBING):
        # A later sweep would ask nobody about it, and a hold would be over.
        other = service.open("a", kind=kind)
        with pytest.raises(FourEyes):
            close(*service.context, other.id, Outcome.UNFOUNDED, (), BOB)
        assert service.decide(other.id, Outcome.UNFOUNDED).state is CaseState.CLOSED
    case = service.open(body.document_id, kind=CaseKind.DISPUTE)
    propose(*service.context, case.id, Outcome.FRAUD, [body.line_id], ANNA)
    for outcome in (Outcome.FRAUD, Outcome.TWINS, Outcome.MISTAKE):
        with pytest.raises(FourEyes):
            close(*service.context, case.id, outcome, (), BOB)
    assert service.store.watchlist() == []
    closed = close(*service.context, case.id, Outcome.UNFOUNDED, (), BOB)
    assert (closed.outcome, closed.proposal) == (Outcome.UNFOUNDED, None)
    assert status_of(service, body.line_id) is LineStatus.ACTIVE


def test_a_line_that_was_closed_meanwhile_is_no_obstacle(service) -> None:
    first, second = service.enroll(2)
    lines = [first.line_id, second.line_id]
    case = service.open(first.document_id, second.document_id)
    propose(*service.context, case.id, Outcome.FRAUD, lines, ANNA)
    close_line(*service.context, lines[0], "test")
    close(*service.context, case.id, Outcome.FRAUD, lines[::-1], BOB)
    assert {status_of(service, line) for line in lines} == {LineStatus.CLOSED}
    assert service.entries("case.closed")[0].detail["closed_lines"] == [lines[1]]


def test_only_lines_in_use_under_documents_of_the_case_are_proposed(service) -> None:
    mine, other, gone = service.enroll(3)
    close_line(*service.context, gone.line_id, "test")
    case = service.open(mine.document_id, gone.document_id)
    for line in (other.line_id, gone.line_id, new_id(), "x", ""):
        with pytest.raises(RequestError):
            propose(*service.context, case.id, Outcome.FRAUD, [mine.line_id, line], ANNA)
    assert service.store.cases.get(case.id) == case


@pytest.mark.parametrize("step", [propose, close])
def test_a_case_that_has_grown_must_be_read_again(service, step: Any) -> None:
    seen = service.open("a")
    grown = service.open("a", "b")
    assert (grown.id, grown.document_ids) == (seen.id, ("a", "b"))
    asked = (*service.context, seen.id, Outcome.UNFOUNDED, (), ANNA)
    # A later moment would let whatever comes until then pass unseen.
    later = grown.updated_at + timedelta(microseconds=1)
    for moment, words in ((seen.updated_at, "changed since"), (later, "after the case's last")):
        with pytest.raises((CaseMoved, RequestError), match=words):
            step(*asked, moment)
    assert service.store.cases.get(seen.id) == grown
    if step is close:
        grown = propose(*service.context, seen.id, Outcome.UNFOUNDED, (), BOB)
    assert step(*asked, grown.updated_at).state is not CaseState.OPEN


def steps(case_id: str) -> dict[str, tuple[Any, ...]]:
    return {
        "assign": (assign, case_id, ANNA.name, ANNA),
        "propose": (propose, case_id, Outcome.TWINS, (), ANNA),
        "withdraw": (withdraw, case_id, ANNA),
        "close": (close, case_id, Outcome.TWINS, (), ANNA),
        "note": (note, case_id, "seen", ANNA),
        "reopen": (reopen, case_id, "seen", ANNA),
    }


@pytest.mark.parametrize("name", list(steps("")))
def test_no_step_is_taken_on_an_unknown_case_and_a_merged_one_names_the_other(
    service, name: str
) -> None:
    first = service.open("a")
    service.open("a")
    (merged,) = service.store.cases.merged_into(first.id)
    for case_id in (new_id(), "no id", "", merged.id):
        step, *rest = steps(case_id)[name]
        error, words = (CaseMoved, first.id) if case_id == merged.id else (NotFound, "no case")
        with pytest.raises(error, match=words):
            step(*service.context, *rest)


def test_a_closed_case_takes_notes_and_nothing_else(service) -> None:
    case = service.open("a", kind=CaseKind.DISPUTE)
    close(*service.context, case.id, Outcome.UNFOUNDED, (), BOB)
    for name, (step, *rest) in steps(case.id).items():
        if name in {"note", "reopen"}:
            assert step(*service.context, *rest).state is CaseState.CLOSED
        else:
            with pytest.raises(CaseMoved):
                step(*service.context, *rest)
    kinds = [kind for kind, *_ in history(service, case.id)]
    assert kinds == [NoteKind.CLOSED, NoteKind.NOTE, NoteKind.REOPEN_ASKED]
    # One person closed it: nobody had proposed anything, and nothing is made up of that.
    assert withdraw(*service.context, case.id, ANNA).proposal is None


@pytest.mark.both_databases
def test_two_people_open_a_case_again_and_all_that_it_decided_ends_but_closed_lines(
    service, make_pair
) -> None:
    one, two = make_pair()
    case = service.open(one.document_id, two.document_id)
    decided = service.decide(case.id, Outcome.FRAUD, [one.line_id])
    decisions, cases = DecisionReader(service.store), service.store.cases
    assert [len(found) for found in (decisions.read().pairs, service.store.watchlist())] == [1, 2]
    why = (*service.context, case.id, "A twin came forward.")
    reopen(*why, ANNA, decided.updated_at)
    for names in (["anna"], ["bob"]):
        waiting = CaseFilter(state=CaseState.CLOSED, to_approve_by=names)
        assert len(cases.queue(waiting, CaseSort.NEWEST)) == (names == ["bob"])
    with pytest.raises(FourEyes, match="whichever key"):
        reopen(*why, Actor("key:other", "Anna"))
    with pytest.raises(CaseMoved, match="changed since"):
        reopen(*why, BOB, decided.updated_at)
    assert withdraw(*service.context, case.id, BOB).proposal == decided.proposal
    asked = reopen(*why, BOB)
    opened = reopen(*why, ANNA, asked.updated_at)
    assert cases.get(case.id) == opened
    assert (opened.state, opened.outcome, opened.proposal) == (CaseState.OPEN, None, None)
    assert (decisions.read().pairs, service.store.watchlist()) == ([], [])
    assert len(service.registrar.watchlist) == len(decisions.read().closed) == 0
    assert status_of(service, one.line_id) is LineStatus.CLOSED
    found = service.store.lines_closed_by(case.id, case.document_ids)
    assert [line.id for line in found] == [one.line_id]
    (entry,) = service.entries("case.reopened")
    assert entry.detail["closed_lines"] == [one.line_id]
    assert find_damage(service.store) == []
    told = [one.type for one in read_events(service.store, 0) if one.subject == case.id]
    assert told == [EventType.CASE_OPENED, EventType.CASE_CLOSED, EventType.CASE_REOPENED]
    # One face, found to be fraud twice, is watched once, and until neither says so.
    other = service.open(one.document_id, kind=CaseKind.DISPUTE)
    for each in (case, other):
        service.decide(each.id, Outcome.FRAUD)
    assert {entry.reason for entry in service.store.watchlist()} == {f"case {case.id}"}
    for each, left in ((case, 2), (other, 0)):
        reopen(*service.context, each.id, "x", BOB)
        reopen(*service.context, each.id, "x", ANNA)
        assert len(service.store.watchlist()) == left


def test_what_cannot_be_decided_anew_is_not_opened_again(service) -> None:
    (body,) = service.enroll(1)
    kinds = {CaseKind.EXCEPTION: "asked anew", CaseKind.DISPUTE: "another case about its line"}
    for kind, words in kinds.items():
        about = {"kind": kind, "line_id": body.line_id}
        case = service.open(body.document_id, **about)
        service.decide(case.id, Outcome.UNFOUNDED)
        service.open(body.document_id, **about)
        with pytest.raises(CaseMoved, match=words):
            reopen(*service.context, case.id, "x", ANNA)


def count_done(step: Callable[[int], object], refusal: type[Exception]) -> int:
    """How many of 16 steps at once are not refused."""
    with ThreadPoolExecutor(8) as pool:
        steps_at_once = [pool.submit(step, place) for place in range(16)]
    failures = [one.exception() for one in steps_at_once]
    assert {type(one) for one in failures} == {type(None), refusal}
    return failures.count(None)


@pytest.mark.both_databases
def test_as_many_people_are_shown_at_once_as_there_is_room_for(service, monkeypatch) -> None:
    monkeypatch.setattr(steps_of_cases, "REVEALED", Bound(3, timedelta(days=1)))
    document, entry = new_id(), AuditEntry(ANNA.name, "case.reported", "c")

    def show(place: int) -> None:
        if place % 2:
            reveal_subject(*service.context, document, "Asked for.", ANNA)
        else:
            service.store.note(entry, Revealed.to(ANNA, 1))

    assert count_done(show, TooManyFailures) == 3
    assert len(service.entries("subject.read", entry.action)) == 3


def test_concurrent_steps_are_taken_one_after_another(service) -> None:
    case = service.open("a", kind=CaseKind.DISPUTE)
    asked = (*service.context, case.id, Outcome.UNFOUNDED, ())
    people = [Actor(f"key:{place}", str(place)) for place in range(16)]
    assert count_done(lambda place: close(*asked, people[place]), CaseMoved) == 1
    assert len(service.entries("case.closed")) == 1
