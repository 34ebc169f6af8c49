"""Minors and guardians, exceptions, the dead, and documents that replace one another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import update

from engine.cases import deaths, steps
from engine.cases.case import Actor, CaseKind, Outcome
from engine.cases.deaths import DeathSource
from engine.cases.decided import read_decided
from engine.errors import CaseMoved, FourEyes, HolderMoved, RequestError
from engine.matching.documents import Document, check_documents
from engine.matching.people import NO_RULES, PeopleRules, PeopleTerms
from engine.matching.policy import replay
from engine.matching.registrar import Registrar
from engine.matching.requests import (
    ABSENT,
    Answer,
    EnrollmentRequest,
    GuardianShown,
    document_look_up,
)
from engine.reasons import Decision, ExceptionCause, Reason
from engine.registry import tables
from engine.registry.events import EventType, read_events
from engine.registry.records import AuditEntry, LineStatus, WatchEntry
from engine.registry.row_macs import changing_rows
from engine.registry.writer import Writer
from tests.engine.matching.conftest import NOW, Lab

ANNE, BORIS = Actor("Anne (key:a)", "Anne"), Actor("Boris (key:b)", "Boris")
RULES = PeopleRules(age_of_majority=17, takes_exceptions=True, exceptions_per_outlet=2)
CHILD, GROWN_UP = date(2012, 5, 1), date(1980, 5, 1)


@pytest.fixture
def registrar(lab: Lab) -> Iterator[Registrar]:
    terms = PeopleTerms(RULES, {"red": replace(RULES, is_face_waived=True)})
    with lab.registrar(people=terms) as opened:
        yield opened


def ask(registrar: Registrar, *requests: EnrollmentRequest) -> list[Answer]:
    answers = registrar.enroll(requests)
    assert all(isinstance(one, Answer) for one in answers), answers
    return [one for one in answers if isinstance(one, Answer)]


def card(serial: int, born_on: date | None = GROWN_UP) -> Document:
    """A document whose number tells no date of birth."""
    return Document("id-kitas", f"2C11{serial:08d}", f"Holder {serial}", born_on=born_on)


def guardian(
    lab: Lab, person: NDArray[np.float32], serial: int, *, portrait: bool = True, **changes: Any
) -> GuardianShown:
    shown = GuardianShown(
        document=card(serial),
        live=lab.people.sample(person),
        portrait=lab.people.sample(person) if portrait else None,
    )
    return replace(shown, **changes)


def assert_replays(lab: Lab, *answers: Answer) -> None:
    for one in answers:
        assert replay(lab.store.enrollment(one.enrollment_id)).agrees


def test_a_minor_is_enrolled_with_a_guardian_who_is_bound(lab: Lab, registrar: Registrar) -> None:
    child, parent = lab.people.person(), lab.people.person()
    alone = lab.request(child, document=card(1, CHILD))
    together = lab.request(child, document=card(1, CHILD), guardian=guardian(lab, parent, 2))
    second = lab.request(
        child, document=card(1, CHILD), guardian=guardian(lab, parent, 2, portrait=False)
    )
    refused, answer, again = ask(registrar, alone, together, second)
    assert refused.reasons == (Reason.GUARDIAN_MISSING,)
    assert (answer.decision, again.decision) == (Decision.APPROVED, Decision.APPROVED)
    bound = lab.store.people.guardians([answer.body["line_id"], again.body["line_id"]])
    (guardian_id,) = {one.guardian_id for one in bound.values()}
    assert len(bound) == 2
    assert guardian_id == answer.body["guardian_document_id"]
    assert {one.ends_in for one in bound.values()} == {2012 + 17}
    # The guardian is a holder: another document for their face is a second identity.
    assert lab.store.document(guardian_id).reference_ids
    other = ask(registrar, lab.request(parent, document=card(3)))[0]
    assert Reason.DUPLICATE_IDENTITY in other.reasons
    assert_replays(lab, refused, answer, again, other)


def test_a_guardian_must_be_somebody_else_grown_up_and_themselves(
    lab: Lab, registrar: Registrar
) -> None:
    child, parent, stranger = (lab.people.person() for _ in range(3))
    known = ask(registrar, lab.request(parent, document=card(2)))[0]
    assert known.decision is Decision.APPROVED
    sample = lab.people.sample

    def attempt(shown: GuardianShown | None) -> tuple[Reason, ...]:
        request = lab.request(child, document=card(1, CHILD), guardian=shown)
        answer = ask(registrar, request)[0]
        assert_replays(lab, answer)
        return answer.reasons

    honest = guardian(lab, parent, 2)
    theirs = guardian(lab, stranger, 2)
    assert attempt(replace(honest, live=sample(stranger))) == (Reason.GUARDIAN_MISMATCH,)
    assert attempt(theirs) == (Reason.GUARDIAN_MISMATCH,)
    # A document that nobody holds proves nothing by itself, and answers the same.
    assert attempt(guardian(lab, stranger, 9, portrait=False)) == (Reason.GUARDIAN_MISMATCH,)
    assert attempt(guardian(lab, child, 4)) == (Reason.GUARDIAN_REFUSED,)
    assert attempt(replace(honest, document=card(1, CHILD))) == (Reason.GUARDIAN_REFUSED,)
    young = guardian(lab, stranger, 5, document=card(5, CHILD))
    assert attempt(young) == (Reason.GUARDIAN_REFUSED,)
    ageless = guardian(lab, stranger, 6, document=card(6, None))
    assert attempt(ageless) == (Reason.BIRTH_DATE_MISSING,)
    blurred = replace(honest, live=sample(parent, Reason.BLURRED))
    assert attempt(blurred) == (Reason.GUARDIAN_UNUSABLE,)
    # Known under another document already: no second identity by way of a child.
    assert attempt(guardian(lab, parent, 7)) == (Reason.GUARDIAN_DUPLICATE,)
    kinds = {one.kind for one in lab.store.cases.newest(None)}
    assert {CaseKind.STOLEN_DOCUMENT, CaseKind.DUPLICATE_IDENTITY} <= kinds
    assert attempt(honest) == ()


def test_a_guardian_of_another_name_or_on_the_watch_list_goes_to_review(
    lab: Lab, registrar: Registrar
) -> None:
    parent, stranger = lab.people.person(), lab.people.person()
    known = ask(registrar, lab.request(parent, document=card(2)))[0]
    assert known.decision is Decision.APPROVED

    def attempt(shown: GuardianShown) -> Answer:
        answer = ask(registrar, lab.request(document=card(1, CHILD), guardian=shown))[0]
        assert_replays(lab, answer)
        return answer

    renamed = replace(card(2), name="Somebody Else")
    lookup = document_look_up(lab.vault, check_documents([card(3)], NOW.date())[0])
    registrar.watchlist.add(WatchEntry(1, lookup, None, "stolen", NOW))
    registrar.watchlist.add(WatchEntry(2, None, parent, "fraud", NOW))
    for shown, reasons in (
        (guardian(lab, stranger, 3), (Reason.WATCHLISTED,)),
        (guardian(lab, parent, 2), (Reason.WATCHLISTED,)),
        (guardian(lab, parent, 2, document=renamed), (Reason.NAME_MISMATCH, Reason.WATCHLISTED)),
        # Who does not show the holder's face is told of neither.
        (guardian(lab, stranger, 2, document=renamed), (Reason.GUARDIAN_MISMATCH,)),
    ):
        answer = attempt(shown)
        assert answer.reasons == reasons
        assert answer.body["line_id"] is None
    registrar.watchlist.remove(2)
    assert attempt(guardian(lab, parent, 2)).decision is Decision.APPROVED


def test_one_new_guardian_is_one_identity_within_a_batch_too(
    lab: Lab, registrar: Registrar
) -> None:
    parent = lab.people.person()
    requests = [
        lab.request(document=card(serial, CHILD), guardian=guardian(lab, parent, 90 + serial))
        for serial in range(4)
    ]
    decisions = [one.decision for one in ask(registrar, *requests)]
    assert decisions.count(Decision.APPROVED) == 1


def test_whose_age_is_not_known_is_asked_for_it(lab: Lab, registrar: Registrar) -> None:
    unknown, told = ask(
        registrar, lab.request(document=card(1, None)), lab.request(document=card(2))
    )
    assert unknown.reasons == (Reason.BIRTH_DATE_MISSING,)
    assert told.decision is Decision.APPROVED
    # The date itself is kept nowhere.
    record = lab.store.enrollment(told.enrollment_id)
    assert "1980" not in str(record.evidence)


def test_a_minor_may_come_without_a_face_where_the_guardians_is_enough(
    lab: Lab, registrar: Registrar
) -> None:
    parent = lab.people.person()
    faceless = lab.request(
        document=card(1, CHILD), live=ABSENT, portrait=ABSENT, guardian=guardian(lab, parent, 2)
    )
    strict = ask(registrar, faceless)[0]
    assert strict.decision is Decision.REJECTED
    waived = replace(faceless, carrier="red", outlet="red-1", idempotency_key="red")
    answer = ask(registrar, waived)[0]
    assert answer.decision is Decision.APPROVED, answer.reasons
    assert lab.store.document(answer.body["document_id"]).reference_ids == ()
    assert_replays(lab, strict, answer)


def test_without_rules_nobody_is_asked_for_anything(lab: Lab) -> None:
    with lab.registrar(people=NO_RULES) as registrar:
        child, excused = ask(
            registrar,
            lab.request(document=card(1, CHILD)),
            lab.request(live=ABSENT, exception=ExceptionCause.INJURY),
        )
    assert child.decision is Decision.APPROVED
    assert excused.reasons == (Reason.EXCEPTION_NOT_OFFERED,)


def close(registrar: Registrar, lab: Lab, case_id: str, outcome: Outcome) -> None:
    steps.propose(registrar, lab.store, case_id, outcome, (), ANNE)
    with pytest.raises(FourEyes):
        steps.close(registrar, lab.store, case_id, outcome, (), ANNE)
    steps.close(registrar, lab.store, case_id, outcome, (), BORIS)


def test_an_exception_opens_its_line_when_two_people_grant_it(
    lab: Lab, registrar: Registrar
) -> None:
    person = lab.people.person()
    request = lab.request(
        person, document=card(1), portrait=ABSENT, exception=ExceptionCause.PORTRAIT_UNREADABLE
    )
    answer = ask(registrar, request)[0]
    assert (answer.decision, answer.reasons) == (Decision.REVIEW, (Reason.EXCEPTION_ASKED,))
    assert answer.body["scores"]["live_portrait"] is None
    (case,) = answer.body["cases"]
    assert case["kind"] == CaseKind.EXCEPTION
    assert (
        lab.store.people.exceptions([answer.enrollment_id])[answer.enrollment_id].state == "asked"
    )
    close(registrar, lab, case["id"], Outcome.UNFOUNDED)
    granted = lab.store.people.exceptions([answer.enrollment_id])[answer.enrollment_id]
    assert granted.state == "granted"
    (line,) = lab.store.lines_of(answer.body["document_id"])
    assert granted.line_id == line.id
    assert lab.store.people.exceptions_of_lines([line.id])[line.id].cause == "portrait_unreadable"
    assert lab.store.numbers([line.id]) == {line.id: request.msisdn}
    # The face that could be used is the holder's from now on.
    other = ask(registrar, lab.request(person, document=card(2)))[0]
    assert Reason.DUPLICATE_IDENTITY in other.reasons
    assert_replays(lab, answer, other)


def test_an_exception_without_any_face_is_granted_or_refused_and_its_number_forgotten(
    lab: Lab, registrar: Registrar
) -> None:
    asked = [
        lab.request(
            document=card(serial), live=ABSENT, portrait=ABSENT, exception=ExceptionCause.CONDITION
        )
        for serial in (1, 2, 3)
    ]
    first, second, third = ask(registrar, *asked)
    # The bound on an outlet: two in thirty days, whatever became of them.
    assert third.reasons == (Reason.EXCEPTION_LIMIT_REACHED,)
    close(registrar, lab, first.body["cases"][0]["id"], Outcome.UNFOUNDED)
    close(registrar, lab, second.body["cases"][0]["id"], Outcome.MISTAKE)
    found = lab.store.people.exceptions([first.enrollment_id, second.enrollment_id])
    assert [found[one.enrollment_id].state for one in (first, second)] == ["granted", "refused"]
    refused = lab.store.people.exception_of_case(second.body["cases"][0]["id"])
    assert refused is not None
    assert refused.line is None
    (outlet,) = lab.store.people.count_by_outlet(
        found[first.enrollment_id].asked_at.replace(year=2000)
    )
    assert (outlet.outlet, outlet.asked, outlet.granted) == ("blue-1", 2, 1)
    assert lab.store.lines_of(second.body["document_id"]) == []


def test_a_granted_exception_activates_the_document_of_who_asked_for_it(
    lab: Lab, registrar: Registrar
) -> None:
    excused: dict[str, Any] = {"portrait": ABSENT, "exception": ExceptionCause.INJURY}
    person, store = lab.people.person(), lab.store
    # Tried first by somebody of another name, who asks for an exception as well.
    squatter = replace(card(1), name="Somebody Else", expires_on=date(2031, 1, 1))
    tried = ask(registrar, lab.request(document=squatter, **excused))[0]
    honest = lab.request(person, document=card(1), **excused)
    asked = ask(registrar, honest)[0]
    document_id = asked.body["document_id"]
    assert document_id == tried.body["document_id"]
    assert store.identity(document_id).name == "Somebody Else"
    close(registrar, lab, asked.body["cases"][0]["id"], Outcome.UNFOUNDED)
    record = store.document(document_id)
    assert (store.identity(document_id).name, record.expires_on) == (card(1).name, None)
    # From now on it is the holder's, in whichever spelling: the other's is granted no more.
    with pytest.raises(CaseMoved, match="another name"):
        close(registrar, lab, tried.body["cases"][0]["id"], Outcome.UNFOUNDED)
    later = lab.request(person, document=replace(card(1), name=card(1).name.upper()))
    assert ask(registrar, later)[0].decision is Decision.APPROVED


def test_an_exception_of_a_version_that_kept_no_name_activates_nobody(
    lab: Lab, registrar: Registrar
) -> None:
    request = lab.request(document=card(1), live=ABSENT, exception=ExceptionCause.INJURY)
    asked = ask(registrar, request)[0]
    case = asked.body["cases"][0]["id"]

    def forget_name(writer: Writer, now: datetime) -> None:
        del now
        sealed = lab.vault.seal("exceptions.msisdn", asked.enrollment_id, request.msisdn.encode())
        table = tables.exceptions
        with (
            writer.changing(AuditEntry("test", "test", "test")) as connection,
            changing_rows(connection, lab.vault, {table: [asked.enrollment_id]}),
        ):
            connection.execute(update(table).values(msisdn=sealed))

    registrar.run(forget_name)
    with pytest.raises(CaseMoved, match="asked for again"):
        close(registrar, lab, case, Outcome.UNFOUNDED)
    steps.withdraw(registrar, lab.store, case, ANNE)
    close(registrar, lab, case, Outcome.MISTAKE)
    assert lab.store.lines_of(asked.body["document_id"]) == []


def test_an_exception_takes_nobody_past_a_guardian_or_a_face(
    lab: Lab, registrar: Registrar
) -> None:
    excused: dict[str, Any] = {"portrait": ABSENT, "exception": ExceptionCause.INJURY}
    child = lab.request(document=card(1, CHILD), **excused)
    assert ask(registrar, child)[0].reasons == (Reason.EXCEPTION_NOT_OFFERED,)
    renewed = lab.request(document=card(2), replaces=card(3), **excused)
    (refused,) = registrar.enroll([renewed])
    assert isinstance(refused, RequestError)


def test_an_exception_is_no_way_round_the_search(lab: Lab, registrar: Registrar) -> None:
    person = lab.people.person()
    assert ask(registrar, lab.request(person, document=card(1)))[0].decision is Decision.APPROVED
    excused = ExceptionCause.PORTRAIT_UNREADABLE
    twice = ask(
        registrar, lab.request(person, document=card(2), portrait=ABSENT, exception=excused)
    )
    assert twice[0].decision is Decision.REJECTED
    assert Reason.DUPLICATE_IDENTITY in twice[0].reasons
    # Nor is what comes between the asking and the granting.
    late = lab.people.person()
    asked = ask(registrar, lab.request(late, document=card(3), portrait=ABSENT, exception=excused))[
        0
    ]
    assert ask(registrar, lab.request(late, document=card(4)))[0].decision is Decision.APPROVED
    with pytest.raises(CaseMoved, match="enrolled under another document"):
        close(registrar, lab, asked.body["cases"][0]["id"], Outcome.UNFOUNDED)


def test_the_dead_enroll_nobody_and_are_still_searched(lab: Lab, registrar: Registrar) -> None:
    person = lab.people.person()
    first = ask(registrar, lab.request(person, document=card(1)))[0]
    document_id, store = first.body["document_id"], lab.store
    reported = deaths.report(registrar, store, document_id, DeathSource.REGISTRY, ANNE)
    assert reported.state == "reported"
    assert [one.status for one in store.lines_of(document_id)] == [LineStatus.DISPUTED]
    again, other = ask(
        registrar, lab.request(person, document=card(1)), lab.request(person, document=card(2))
    )
    assert Reason.HOLDER_DECEASED in again.reasons
    assert Reason.DECEASED_LOOK_ALIKE in other.reasons
    assert_replays(lab, again, other)
    with pytest.raises(FourEyes):
        deaths.confirm(registrar, store, document_id, ANNE)
    with pytest.raises(HolderMoved):
        deaths.report(registrar, store, document_id, DeathSource.FAMILY, BORIS)
    assert deaths.confirm(registrar, store, document_id, BORIS).state == "confirmed"
    assert [one.status for one in store.lines_of(document_id)] == [LineStatus.CLOSED]


def test_a_report_of_a_death_is_taken_back_by_two_people(lab: Lab, registrar: Registrar) -> None:
    person = lab.people.person()
    first = ask(registrar, lab.request(person, document=card(1)))[0]
    document_id, store = first.body["document_id"], lab.store
    deaths.report(registrar, store, document_id, DeathSource.OTHER, ANNE)
    with pytest.raises(FourEyes):
        deaths.lift(registrar, store, document_id, BORIS)
    deaths.contest(registrar, store, document_id, ANNE)
    with pytest.raises(FourEyes):
        deaths.lift(registrar, store, document_id, ANNE)
    with pytest.raises(HolderMoved):
        deaths.confirm(registrar, store, document_id, BORIS)
    assert deaths.lift(registrar, store, document_id, BORIS).state == "lifted"
    assert [one.status for one in store.lines_of(document_id)] == [LineStatus.ACTIVE]
    assert ask(registrar, lab.request(person, document=card(1)))[0].decision is Decision.APPROVED


def test_a_document_takes_the_place_of_another_of_the_same_face(
    lab: Lab, registrar: Registrar
) -> None:
    person, store = lab.people.person(), lab.store
    first = ask(registrar, lab.request(person, document=card(1)))[0]
    number = lab.request(person, document=card(1))
    kept = ask(registrar, number)[0]
    # The same number comes along: no line is opened.
    renewed = lab.request(person, document=card(2), replaces=card(1), msisdn=number.msisdn)
    answer = ask(registrar, renewed)[0]
    assert answer.decision is Decision.APPROVED, answer.reasons
    assert answer.body["line_id"] == kept.body["line_id"]
    old, new = first.body["document_id"], answer.body["document_id"]
    assert store.lines_of(old) == []
    assert {one.id for one in store.lines_of(new)} == {first.body["line_id"], kept.body["line_id"]}
    retired, later = ask(
        registrar, lab.request(person, document=card(1)), lab.request(person, document=card(2))
    )
    assert retired.reasons == (Reason.DOCUMENT_REPLACED,)
    assert later.decision is Decision.APPROVED, later.reasons
    third = ask(registrar, lab.request(person, document=card(3), replaces=card(2)))[0]
    assert third.decision is Decision.APPROVED, third.reasons
    # Nobody is asked about any two of them, in sweeps neither.
    pairs = read_decided(store).exceptions
    documents = (old, new, third.body["document_id"])
    assert pairs == {(min(a, b), max(a, b)) for a in documents for b in documents if a != b}
    assert_replays(lab, answer, retired, later, third)
    found = store.cases.newest()
    assert found == []


def test_a_stranger_replaces_nobodys_document(lab: Lab, registrar: Registrar) -> None:
    person, store = lab.people.person(), lab.store
    first = ask(registrar, lab.request(person, document=card(1)))[0]
    stranger = lab.request(document=card(2), replaces=card(1))
    unknown = lab.request(document=card(3), replaces=card(8))
    for answer in ask(registrar, stranger, unknown):
        assert answer.reasons == (Reason.REPLACEMENT_REFUSED,)
        assert answer.body["cases"] == []
        assert_replays(lab, answer)
    (case,) = store.cases.open_of([first.body["document_id"]])[first.body["document_id"]]
    assert case.kind == CaseKind.STOLEN_DOCUMENT
    # While people look into it, not even its holder leaves it.
    own = ask(registrar, lab.request(person, document=card(4), replaces=card(1)))[0]
    assert Reason.REPLACEMENT_REFUSED in own.reasons


def test_the_face_of_lines_does_not_drift_from_document_to_document(
    lab: Lab, registrar: Registrar
) -> None:
    person, store = lab.people.person(), lab.store
    first = ask(registrar, lab.request(person, document=card(1)))[0]
    own = store.document(first.body["document_id"]).reference_ids
    # Half the holder's face, and half of somebody's.
    between = lab.people.between(person, 0.7)
    answer = ask(registrar, lab.request(between, document=card(2), replaces=card(1)))[0]
    assert answer.decision is Decision.APPROVED, answer.reasons
    taken = store.document(answer.body["document_id"]).reference_ids
    kept, inherited = registrar.gallery.vectors(np.array([*own, *taken]))
    assert np.array_equal(kept, inherited)
    moved = [one for one in read_events(store, 0) if one.type is EventType.LINE_MOVED]
    assert {(one.subject, one.carrier) for one in moved} == {(first.body["line_id"], "blue")}
    (entry,) = [one.entry for one in store.audit_entries() if one.entry.action[-8:] == "replaced"]
    assert (entry.subject, entry.detail["lines"]) == (
        first.body["document_id"],
        [first.body["line_id"]],
    )


def test_lines_of_another_carrier_are_moved_when_two_people_have_looked(
    lab: Lab, registrar: Registrar
) -> None:
    person = lab.people.person()
    ask(registrar, lab.request(person, document=card(1), carrier="red", outlet="red-1"))
    refused = ask(registrar, lab.request(person, document=card(2), replaces=card(1)))[0]
    assert refused.decision is Decision.REJECTED
    assert {Reason.REPLACEMENT_REFUSED, Reason.DUPLICATE_IDENTITY} <= set(refused.reasons)
    close(registrar, lab, refused.body["cases"][0]["id"], Outcome.MISTAKE)
    answer = ask(registrar, lab.request(person, document=card(2), replaces=card(1)))[0]
    assert answer.decision is Decision.APPROVED, answer.reasons
    assert_replays(lab, refused, answer)


def test_a_guardian_answers_for_no_more_lines_than_one_person_may_have(
    lab: Lab, registrar: Registrar
) -> None:
    parent = lab.people.person()
    children = [
        lab.request(document=card(serial, CHILD), guardian=guardian(lab, parent, 2))
        for serial in range(10, 17)
    ]
    # In one batch and in later ones.
    answers = [*ask(registrar, *children[:4]), *(ask(registrar, one)[0] for one in children[4:])]
    assert [one.decision for one in answers] == [Decision.APPROVED] * 5 + [Decision.REJECTED] * 2
    assert answers[-1].reasons == (Reason.LINE_LIMIT_REACHED,)
    assert_replays(lab, *answers)
