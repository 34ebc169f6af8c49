"""The steps of the desk: who may do what with a case, and what is written of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from engine.cases.case import NoteKind, Outcome
from engine.cases.steps import MAX_NOTE_LENGTH, assign, close, note, propose, withdraw
from engine.errors import CaseMoved, FourEyes, NotFound, RequestError
from engine.matching.lines import close_line
from engine.registry.audit import verify_chain
from engine.registry.records import CaseState, LineStatus, new_id

ANNA, BOB = "key:anna", "key:bob"


def status_of(bureau: Any, line_id: str) -> LineStatus:
    return bureau.store.lines_by_id([line_id])[line_id].status


def history(bureau: Any, case_id: str) -> list[tuple[NoteKind, str, str]]:
    notes = bureau.store.cases.notes(case_id)
    return [(entry.kind, entry.actor, entry.text) for entry in notes][1:]


def test_a_case_goes_from_hand_to_hand_and_back(bureau: Any) -> None:
    case = bureau.open("a")
    given = assign(*bureau.given, case.id, ANNA, BOB)
    assert (given.state, given.assignee) == (CaseState.ASSIGNED, ANNA)
    assert bureau.store.cases.get(case.id) == given
    assert bureau.store.cases.newest(CaseState.ASSIGNED, assignee=ANNA) == [given]
    proposed = propose(*bureau.given, case.id, Outcome.TWINS, (), ANNA)
    assert proposed.state is CaseState.PROPOSED
    moved = assign(*bureau.given, case.id, BOB, ANNA)
    assert (moved.state, moved.proposal) == (CaseState.PROPOSED, proposed.proposal)
    assert withdraw(*bureau.given, case.id, BOB).state is CaseState.ASSIGNED
    freed = assign(*bureau.given, case.id, None, BOB)
    assert (freed.state, freed.assignee) == (CaseState.OPEN, None)
    assert history(bureau, case.id) == [
        (NoteKind.ASSIGNED, BOB, ANNA),
        (NoteKind.PROPOSED, ANNA, "twins"),
        (NoteKind.ASSIGNED, ANNA, BOB),
        (NoteKind.WITHDRAWN, BOB, "twins"),
        (NoteKind.ASSIGNED, BOB, ""),
    ]
    actions = ["case.assigned", "case.proposed", "case.withdrawn"]
    told = [(one.action, one.actor, one.subject) for one in bureau.entries(*actions)]
    assert told == [
        ("case.assigned", BOB, case.id),
        ("case.proposed", ANNA, case.id),
        ("case.assigned", ANNA, case.id),
        ("case.withdrawn", BOB, case.id),
        ("case.assigned", BOB, case.id),
    ]
    assert verify_chain(bureau.store).intact


@pytest.mark.parametrize(
    "text",
    [
        "Both show the same scar.",
        "<script>alert(1)</script> & 'quotes' =HYPERLINK(1)",
        "محمد עברית 王小明 and\n\ttwo lines",
        "x" * MAX_NOTE_LENGTH,
    ],
)
def test_a_note_is_kept_to_the_letter_and_its_text_is_in_no_audit(bureau: Any, text: str) -> None:
    case = bureau.open("a")
    note(*bureau.given, case.id, text, ANNA)
    assert history(bureau, case.id) == [(NoteKind.NOTE, ANNA, text)]
    (entry,) = bureau.entries("case.noted")
    assert (entry.actor, entry.subject, entry.detail) == (ANNA, case.id, {"length": len(text)})


@pytest.mark.parametrize(
    "text", ["", " \n", "x" * (MAX_NOTE_LENGTH + 1), "a\0b", "\x1b[2J", "\x9b", "\ud800", "a\rb"]
)
def test_a_text_that_is_no_note_is_refused(bureau: Any, text: str) -> None:
    case = bureau.open("a")
    with pytest.raises(RequestError):
        note(*bureau.given, case.id, text, ANNA)
    assert history(bureau, case.id) == []


@pytest.mark.parametrize("assignee", ["", " ", "x" * 201, "a\nb", "\0"])
def test_a_case_is_given_to_nobody_without_a_name(bureau: Any, assignee: str) -> None:
    case = bureau.open("a")
    with pytest.raises(RequestError):
        assign(*bureau.given, case.id, assignee, ANNA)
    assert bureau.store.cases.get(case.id) == case


def test_one_person_never_closes_lines(bureau: Any) -> None:
    (body,) = bureau.enroll(1)
    line = body["line_id"]
    case = bureau.open(body["document_id"])
    asked = (*bureau.given, case.id, Outcome.FRAUD, [line])
    with pytest.raises(FourEyes):
        close(*asked, ANNA)
    propose(*asked, ANNA)
    with pytest.raises(FourEyes):
        close(*asked, ANNA)
    assert status_of(bureau, line) is LineStatus.ACTIVE
    closed = close(*asked, BOB)
    assert (closed.state, closed.outcome) == (CaseState.CLOSED, Outcome.FRAUD)
    assert (closed.proposal.by, closed.closed_at) == (ANNA, closed.updated_at)
    assert bureau.store.cases.get(case.id) == closed
    assert status_of(bureau, line) is LineStatus.CLOSED
    (entry,) = bureau.entries("line.closed")
    assert (entry.actor, entry.subject, entry.detail) == (BOB, line, {"case": case.id})
    (told,) = bureau.entries("case.closed")
    assert (told.actor, told.detail["proposed_by"]) == (BOB, ANNA)
    assert told.detail["closed_lines"] == [line]


def test_lines_are_closed_as_they_were_proposed_or_not_at_all(bureau: Any) -> None:
    first, second = bureau.enroll(2)
    lines = [first["line_id"], second["line_id"]]
    case = bureau.open(first["document_id"], second["document_id"])
    propose(*bureau.given, case.id, Outcome.FRAUD, lines[:1], ANNA)
    for outcome, asked in (
        (Outcome.FRAUD, lines),
        (Outcome.FRAUD, lines[1:]),
        (Outcome.MISTAKE, lines[:1]),
    ):
        with pytest.raises(FourEyes):
            close(*bureau.given, case.id, outcome, asked, BOB)
    assert {status_of(bureau, line) for line in lines} == {LineStatus.ACTIVE}
    assert bureau.store.cases.get(case.id).state is CaseState.PROPOSED


def test_without_lines_one_person_closes_even_against_a_proposal(bureau: Any) -> None:
    (body,) = bureau.enroll(1)
    case = bureau.open(body["document_id"])
    propose(*bureau.given, case.id, Outcome.FRAUD, [body["line_id"]], ANNA)
    closed = close(*bureau.given, case.id, Outcome.MISTAKE, (), BOB)
    assert (closed.outcome, closed.proposal) == (Outcome.MISTAKE, None)
    assert status_of(bureau, body["line_id"]) is LineStatus.ACTIVE


def test_a_line_that_was_closed_meanwhile_is_no_obstacle(bureau: Any) -> None:
    first, second = bureau.enroll(2)
    lines = [first["line_id"], second["line_id"]]
    case = bureau.open(first["document_id"], second["document_id"])
    propose(*bureau.given, case.id, Outcome.FRAUD, lines, ANNA)
    close_line(*bureau.given, lines[0], "test")
    close(*bureau.given, case.id, Outcome.FRAUD, lines[::-1], BOB)
    assert {status_of(bureau, line) for line in lines} == {LineStatus.CLOSED}
    assert bureau.entries("case.closed")[0].detail["closed_lines"] == [lines[1]]


def test_only_lines_in_use_under_documents_of_the_case_are_proposed(bureau: Any) -> None:
    mine, other, gone = bureau.enroll(3)
    close_line(*bureau.given, gone["line_id"], "test")
    case = bureau.open(mine["document_id"], gone["document_id"])
    for line in (other["line_id"], gone["line_id"], new_id(), "x", ""):
        with pytest.raises(RequestError):
            propose(*bureau.given, case.id, Outcome.FRAUD, [mine["line_id"], line], ANNA)
    assert bureau.store.cases.get(case.id) == case


def test_one_outcome_is_proposed_at_a_time(bureau: Any) -> None:
    case = bureau.open("a")
    with pytest.raises(CaseMoved):
        withdraw(*bureau.given, case.id, ANNA)
    propose(*bureau.given, case.id, Outcome.TWINS, (), ANNA)
    with pytest.raises(CaseMoved):
        propose(*bureau.given, case.id, Outcome.FRAUD, (), BOB)


@pytest.mark.parametrize("step", [propose, close])
def test_nobody_is_judged_whom_only_the_case_has_grown_by(bureau: Any, step: Any) -> None:
    seen = bureau.open("a")
    grown = bureau.open("a", "b")
    assert (grown.id, grown.document_ids) == (seen.id, ("a", "b"))
    asked = (*bureau.given, seen.id, Outcome.TWINS, (), ANNA)
    with pytest.raises(CaseMoved, match="changed since"):
        step(*asked, seen.updated_at)
    assert bureau.store.cases.get(seen.id) == grown
    assert step(*asked, grown.updated_at).state is not CaseState.OPEN


def test_a_step_that_says_nothing_of_a_look_is_taken(bureau: Any) -> None:
    case = bureau.open("a")
    bureau.open("a", "b")
    assert propose(*bureau.given, case.id, Outcome.TWINS, (), ANNA).state is CaseState.PROPOSED
    assert close(*bureau.given, case.id, Outcome.TWINS, (), BOB).state is CaseState.CLOSED


def test_who_looked_before_another_wrote_looks_again(bureau: Any) -> None:
    case = bureau.open("a")
    noted = note(*bureau.given, case.id, "the man with the scar", BOB)
    asked = (*bureau.given, case.id, Outcome.TWINS, (), ANNA)
    with pytest.raises(CaseMoved):
        close(*asked, case.updated_at)
    assert close(*asked, noted.updated_at).state is CaseState.CLOSED


def steps(case_id: str) -> dict[str, tuple[Any, ...]]:
    return {
        "assign": (assign, case_id, ANNA, ANNA),
        "propose": (propose, case_id, Outcome.TWINS, (), ANNA),
        "withdraw": (withdraw, case_id, ANNA),
        "close": (close, case_id, Outcome.TWINS, (), ANNA),
        "note": (note, case_id, "seen", ANNA),
    }


@pytest.mark.parametrize("name", list(steps("")))
def test_no_step_is_taken_with_a_case_that_is_not_there(bureau: Any, name: str) -> None:
    for case_id in (new_id(), "no id", ""):
        step, *rest = steps(case_id)[name]
        with pytest.raises(NotFound):
            step(*bureau.given, *rest)


@pytest.mark.parametrize("name", list(steps("")))
def test_a_case_that_went_into_another_says_which(bureau: Any, name: str) -> None:
    first = bureau.open("a")
    bureau.open("a")
    (merged,) = bureau.store.cases.merged_into(first.id)
    step, *rest = steps(merged.id)[name]
    with pytest.raises(CaseMoved, match=first.id):
        step(*bureau.given, *rest)


def test_a_closed_case_is_noted_and_nothing_else(bureau: Any) -> None:
    case = bureau.open("a")
    close(*bureau.given, case.id, Outcome.TWINS, (), BOB)
    for name, (step, *rest) in steps(case.id).items():
        if name == "note":
            assert step(*bureau.given, *rest).state is CaseState.CLOSED
        else:
            with pytest.raises(CaseMoved):
                step(*bureau.given, *rest)
    assert [kind for kind, *_ in history(bureau, case.id)] == [NoteKind.CLOSED, NoteKind.NOTE]


def test_steps_of_many_at_once_are_taken_one_after_another(bureau: Any) -> None:
    case = bureau.open("a")

    def try_close(place: int) -> bool:
        try:
            close(*bureau.given, case.id, Outcome.MISTAKE, (), f"key:{place}")
        except CaseMoved:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(try_close, range(16))) == 1
    assert len(bureau.entries("case.closed")) == 1
