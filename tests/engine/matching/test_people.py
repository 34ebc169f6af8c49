"""Minors and guardians, exceptions, the dead, and documents that replace one another."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from sqlalchemy import update

from engine.cases import deaths, steps
from engine.cases.decided import read_decided
from engine.cases.opening import is_grouped
from engine.errors import (
    CaseMoved,
    FourEyes,
    HolderMoved,
    NotFound,
    RequestError,
    TenantConflict,
    TooManyFailures,
)
from engine.lifecycle.reverification import exempt, report_event
from engine.lifecycle.rules import LineRules
from engine.matching.checks.order import read_evidence
from engine.matching.documents import check_document
from engine.matching.holders import block_document, erase_holder, read_erasure
from engine.matching.lines import close_line
from engine.matching.policy import decide
from engine.matching.registrar import Registrar
from engine.matching.requests import Answer, EnrollmentRequest, GuardianShown, document_look_up
from engine.matching.samples import ABSENT
from engine.registry.audit import AuditEntry
from engine.registry.enrollments import EnrollmentReader
from engine.registry.events import read_events
from engine.registry.rows import changing_rows
from engine.registry.watchlist import WatchEntry
from engine.registry.writer import Writer
from schema.actors import Caller
from schema.cases import CLAIMED, CaseKind, Outcome
from schema.events import EventType
from schema.lines import LineEventKind, LineStatus
from schema.options import NO_LIMITS, NO_RULES, CarrierPeople, LineLimits, PeopleRules
from schema.people import DeathSource, ExceptionCause
from schema.reasons import Decision, Reason
from tests.engine.matching.conftest import ANNE, BORIS, CHILD, NOW, card, close
from tests.engine.records import newest_cases
from tests.tables import tables

RULES = PeopleRules(age_of_majority=17, exceptions=True, exceptions_per_outlet=2)
RED: dict[str, Any] = {"carrier": "red", "outlet": "red-1"}
FACELESS: dict[str, Any] = {"live": ABSENT, "portrait": ABSENT}
EXCUSED: dict[str, Any] = {"portrait": ABSENT, "exception": ExceptionCause.INJURY}
UNSEEN = FACELESS | EXCUSED


@pytest.fixture
def registrar(lab) -> Iterator[Registrar]:
    terms = replace(RULES, carriers={"red": CarrierPeople(minor_face="guardian")})
    with lab.registrar(people=terms) as opened:
        yield opened


def ask(registrar: Registrar, *requests: EnrollmentRequest) -> list[Answer]:
    answers = registrar.enroll(requests)
    assert all(isinstance(one, Answer) for one in answers), answers
    return [one for one in answers if isinstance(one, Answer)]


def approve(registrar: Registrar, request: EnrollmentRequest) -> Answer:
    (answer,) = ask(registrar, request)
    assert answer.decision is Decision.APPROVED, answer.reasons
    return answer


def test_a_minor_is_enrolled_with_a_guardian_who_is_bound(lab, registrar) -> None:
    child, parent = lab.people.person(), lab.people.person()
    alone = lab.request(child, document=card(1, CHILD))
    together = lab.request(child, document=card(1, CHILD), guardian=lab.guardian(parent, 2))
    second = lab.request(
        child, document=card(1, CHILD), guardian=lab.guardian(parent, 2, portrait=False)
    )
    refused, answer, again = ask(registrar, alone, together, second)
    assert refused.reasons == (Reason.GUARDIAN_MISSING,)
    assert (answer.decision, again.decision) == (Decision.APPROVED, Decision.APPROVED)
    bound = lab.store.people.guardians([answer.decided.line_id, again.decided.line_id])
    (guardian_id,) = {one.guardian_id for one in bound.values()}
    assert len(bound) == 2
    assert guardian_id == answer.decided.guardian_document_id
    assert {one.ends_in for one in bound.values()} == {2012 + 17}
    # The guardian is a holder: another document for their face is a second identity.
    assert lab.store.document(guardian_id).reference_ids
    other = ask(registrar, lab.request(parent, document=card(3)))[0]
    assert Reason.DUPLICATE_IDENTITY in other.reasons
    assert lab.replays(refused, answer, again, other)


def test_a_guardian_must_be_somebody_else_grown_up_and_themselves(lab, registrar) -> None:
    child, parent, stranger = (lab.people.person() for _ in range(3))
    approve(registrar, lab.request(parent, document=card(2)))
    sample = lab.people.sample

    def attempt(shown: GuardianShown | None) -> tuple[Reason, ...]:
        request = lab.request(child, document=card(1, CHILD), guardian=shown)
        answer = ask(registrar, request)[0]
        assert lab.replays(answer)
        return answer.reasons

    honest = lab.guardian(parent, 2)
    theirs = lab.guardian(stranger, 2)
    assert attempt(replace(honest, live=sample(stranger))) == (Reason.GUARDIAN_MISMATCH,)
    assert attempt(theirs) == (Reason.GUARDIAN_MISMATCH,)
    # A document that nobody holds proves nothing by itself, and answers the same.
    assert attempt(lab.guardian(stranger, 9, portrait=False)) == (Reason.GUARDIAN_MISMATCH,)
    assert attempt(lab.guardian(child, 4)) == (Reason.GUARDIAN_REFUSED,)
    assert attempt(replace(honest, document=card(1, CHILD))) == (Reason.GUARDIAN_REFUSED,)
    young = lab.guardian(stranger, 5, document=card(5, CHILD))
    assert attempt(young) == (Reason.GUARDIAN_REFUSED,)
    ageless = lab.guardian(stranger, 6, document=card(6, None))
    assert attempt(ageless) == (Reason.BIRTH_DATE_MISSING,)
    blurred = replace(honest, live=sample(parent, Reason.BLURRED))
    assert attempt(blurred) == (Reason.GUARDIAN_UNUSABLE,)
    # Known under another document already: no second identity by way of a child.
    assert attempt(lab.guardian(parent, 7)) == (Reason.GUARDIAN_DUPLICATE,)
    kinds = {one.kind for one in newest_cases(lab.store.cases, None)}
    assert {CaseKind.STOLEN_DOCUMENT, CaseKind.DUPLICATE_IDENTITY} <= kinds
    assert attempt(honest) == ()


def test_a_guardian_of_another_name_or_on_the_watch_list_goes_to_review(lab, registrar) -> None:
    parent, stranger = lab.people.person(), lab.people.person()
    approve(registrar, lab.request(parent, document=card(2)))

    def attempt(shown: GuardianShown) -> Answer:
        answer = ask(registrar, lab.request(document=card(1, CHILD), guardian=shown))[0]
        assert lab.replays(answer)
        return answer

    renamed = structs.replace(card(2), name="Somebody Else")
    lookup = document_look_up(lab.vault, check_document(card(3), NOW.date()))
    registrar.watchlist.add(WatchEntry(1, lookup, None, "stolen", NOW))
    registrar.watchlist.add(WatchEntry(2, None, parent, "fraud", NOW))
    for shown, reasons in (
        (lab.guardian(stranger, 3), (Reason.WATCHLISTED,)),
        (lab.guardian(parent, 2), (Reason.WATCHLISTED,)),
        (lab.guardian(parent, 2, document=renamed), (Reason.NAME_MISMATCH, Reason.WATCHLISTED)),
        # Who does not show the holder's face is told of neither.
        (lab.guardian(stranger, 2, document=renamed), (Reason.GUARDIAN_MISMATCH,)),
    ):
        answer = attempt(shown)
        assert answer.reasons == reasons
        assert answer.decided.line_id is None
    # Nothing is kept of a guardian whom nobody is asked about.
    assert lab.store.documents([lookup]) == {}
    registrar.watchlist.remove(2)
    assert attempt(lab.guardian(parent, 2)).decision is Decision.APPROVED


def test_one_new_guardian_is_one_identity_within_a_batch_too(lab, registrar) -> None:
    parent = lab.people.person()
    requests = [
        lab.request(document=card(serial, CHILD), guardian=lab.guardian(parent, 90 + serial))
        for serial in range(4)
    ]
    decisions = [one.decision for one in ask(registrar, *requests)]
    assert decisions.count(Decision.APPROVED) == 1


def test_whose_age_is_not_known_is_asked_for_it(lab, registrar) -> None:
    unknown, told = ask(
        registrar, lab.request(document=card(1, None)), lab.request(document=card(2))
    )
    assert unknown.reasons == (Reason.BIRTH_DATE_MISSING,)
    assert told.decision is Decision.APPROVED
    # The date itself is kept nowhere.
    record = lab.store.enrollment(told.enrollment_id)
    assert "1980" not in str(record.evidence)


def test_a_minor_may_come_without_a_face_where_the_guardians_is_enough(lab, registrar) -> None:
    parent = lab.people.person()
    faceless = lab.request(document=card(1, CHILD), **FACELESS, guardian=lab.guardian(parent, 2))
    strict = ask(registrar, faceless)[0]
    assert strict.decision is Decision.REJECTED
    waived = replace(faceless, carrier="red", outlet="red-1", idempotency_key="red")
    answer = approve(registrar, waived)
    assert lab.store.document(answer.decided.document_id).reference_ids == ()
    assert lab.replays(strict, answer)


def test_without_rules_nobody_is_asked_for_anything(lab) -> None:
    with lab.registrar(people=NO_RULES) as registrar:
        child, excused = ask(
            registrar,
            lab.request(document=card(1, CHILD)),
            lab.request(live=ABSENT, exception=ExceptionCause.INJURY),
        )
    assert child.decision is Decision.APPROVED
    assert excused.reasons == (Reason.EXCEPTION_NOT_OFFERED,)


def test_an_exception_opens_its_line_when_two_people_grant_it(lab, registrar) -> None:
    person = lab.people.person()
    request = lab.request(
        person, document=card(1), portrait=ABSENT, exception=ExceptionCause.PORTRAIT_UNREADABLE
    )
    answer = ask(registrar, request)[0]
    assert (answer.decision, answer.reasons) == (Decision.REVIEW, (Reason.EXCEPTION_ASKED,))
    assert answer.decided.scores.live_portrait is None
    (case,) = answer.decided.cases
    assert case.kind == CaseKind.EXCEPTION
    find, key = lab.store.people.exceptions, answer.enrollment_id
    assert find([key])[key].state == "asked"
    close(registrar, lab, case.id, Outcome.UNFOUNDED)
    granted = find([key])[key]
    assert granted.state == "granted"
    (line,) = lab.store.lines_of(answer.decided.document_id)
    assert granted.line_id == line.id
    assert lab.store.people.exceptions_of_lines([line.id])[line.id].cause == "portrait_unreadable"
    assert lab.store.numbers([line.id]) == {line.id: request.msisdn}
    # The face that could be used is the holder's from now on.
    other = ask(registrar, lab.request(person, document=card(2)))[0]
    assert Reason.DUPLICATE_IDENTITY in other.reasons
    assert lab.replays(answer, other)


def test_an_exception_without_any_face_is_granted_or_refused_and_its_number_forgotten(
    lab, registrar
) -> None:
    asked = [lab.request(document=card(serial), **UNSEEN) for serial in (1, 2, 3)]
    first, second, third = ask(registrar, *asked)
    # The bound on an outlet: two in thirty days, whatever became of them.
    assert third.reasons == (Reason.EXCEPTION_LIMIT_REACHED,)
    close(registrar, lab, first.decided.cases[0].id, Outcome.UNFOUNDED)
    close(registrar, lab, second.decided.cases[0].id, Outcome.MISTAKE)
    found = lab.store.people.exceptions([first.enrollment_id, second.enrollment_id])
    assert [found[one.enrollment_id].state for one in (first, second)] == ["granted", "refused"]
    refused = lab.store.people.exception_of_case(second.decided.cases[0].id)
    assert refused.line is None
    (outlet,) = lab.store.people.count_by_outlet(NOW.replace(year=2000))
    assert (outlet.outlet, outlet.asked, outlet.granted) == ("blue-1", 2, 1)
    assert lab.store.lines_of(second.decided.document_id) == []
    # The first face later may be anybody's.
    person = lab.people.person()
    shown = ask(registrar, lab.request(person, document=card(1)))[0]
    assert shown.reasons == (Reason.EXCEPTION_ASKED,)
    close(registrar, lab, shown.decided.cases[0].id, Outcome.UNFOUNDED)
    approve(registrar, lab.request(person, document=card(1)))


@pytest.mark.parametrize(
    "limits",
    [LineLimits(1), LineLimits(0, 1), LineLimits(0, 0, 1), LineLimits(outlets={"blue-1": 1})],
)
def test_no_exception_is_granted_beyond_a_limit_of_the_person(lab, limits: LineLimits) -> None:
    with lab.registrar(people=RULES, lines=limits) as registrar:
        asked = ask(registrar, *(lab.request(document=card(1), **UNSEEN) for _ in range(2)))
        first, second = (one.decided.cases[0].id for one in asked)
        close(registrar, lab, first, Outcome.UNFOUNDED)
        with pytest.raises(CaseMoved, match="refuse the exception, or wait"):
            close(registrar, lab, second, Outcome.UNFOUNDED)


def test_an_approval_holds_when_an_exception_is_granted_and_not_when_it_was_asked_for(lab) -> None:
    now = [NOW]
    terms = {"people": RULES, "lines": LineLimits(approval_h=24), "clock": lambda: now[0]}
    with lab.registrar(**terms) as registrar:
        line = approve(registrar, lab.request(document=card(1))).decided.line_id

        def tell() -> None:
            told = {"kind": LineEventKind.OPENING_APPROVED, "at": now[0], "actor": "key:k"}
            report_event(registrar, lab.store, LineRules(), line_text=line, **told)

        now[0] += timedelta(hours=1)
        tell()
        asked = ask(registrar, *(lab.request(document=card(1), **UNSEEN) for _ in range(2)))
        first, second = (one.decided.cases[0].id for one in asked)
        now[0] += timedelta(hours=24)
        with pytest.raises(CaseMoved, match="an approval over the first"):
            close(registrar, lab, first, Outcome.UNFOUNDED)
        tell()
        steps.close(registrar, lab.store, first, Outcome.UNFOUNDED, (), BORIS, keep_lines=True)
        with pytest.raises(CaseMoved):
            close(registrar, lab, second, Outcome.UNFOUNDED)


def test_an_exception_of_which_retention_has_left_nothing_is_not_granted(
    lab, registrar, monkeypatch
) -> None:
    asked = ask(registrar, lab.request(portrait=ABSENT, exception=ExceptionCause.INJURY))[0]
    find = EnrollmentReader.enrollment
    monkeypatch.setattr(
        EnrollmentReader, "enrollment", lambda *given: replace(find(*given), expired_at=NOW)
    )
    with pytest.raises(CaseMoved, match="has left"):
        close(registrar, lab, asked.decided.cases[0].id, Outcome.UNFOUNDED)


def test_a_granted_exception_activates_the_document_of_who_asked_for_it(lab, registrar) -> None:
    person, store = lab.people.person(), lab.store
    # Tried first by somebody of another name, who asks for an exception as well.
    squatter = structs.replace(card(1), name="Somebody Else", expires_on=date(2031, 1, 1))
    tried = ask(registrar, lab.request(document=squatter, **EXCUSED))[0]
    honest = lab.request(person, document=card(1), **EXCUSED)
    asked = ask(registrar, honest)[0]
    document_id = asked.decided.document_id
    assert document_id == tried.decided.document_id
    assert store.identity(document_id).name == "Somebody Else"
    close(registrar, lab, asked.decided.cases[0].id, Outcome.UNFOUNDED)
    record = store.document(document_id)
    assert (store.identity(document_id).name, record.expires_on) == (card(1).name, None)
    # From now on it is the holder's, in whichever spelling: the other's is granted no more.
    with pytest.raises(CaseMoved, match="another name"):
        close(registrar, lab, tried.decided.cases[0].id, Outcome.UNFOUNDED)
    later = lab.request(person, document=structs.replace(card(1), name=card(1).name.upper()))
    approve(registrar, later)


def test_an_exception_of_a_version_that_kept_no_name_activates_nobody(lab, registrar) -> None:
    request = lab.request(document=card(1), live=ABSENT, exception=ExceptionCause.INJURY)
    asked = ask(registrar, request)[0]
    case = asked.decided.cases[0].id

    def forget_name(writer: Writer, now: datetime) -> None:
        del now
        sealed = lab.vault.seal("exceptions.msisdn", asked.enrollment_id, request.msisdn.encode())
        table = tables.exceptions
        with (
            writer.changing(AuditEntry("test", "test", "test")) as connection,
            changing_rows(connection, lab.vault, table, [asked.enrollment_id]),
        ):
            connection.execute(update(table).values(msisdn=sealed))

    registrar.run(forget_name)
    with pytest.raises(CaseMoved, match="asked for again"):
        close(registrar, lab, case, Outcome.UNFOUNDED)
    steps.withdraw(registrar, lab.store, case, ANNE)
    close(registrar, lab, case, Outcome.MISTAKE)
    assert lab.store.lines_of(asked.decided.document_id) == []


def test_no_exception_is_rejected_for_what_is_known_of_its_document_or_number(lab) -> None:
    rules = replace(RULES, exceptions_per_outlet=9)
    person, store = lab.people.person(), lab.store
    with lab.registrar(people=rules) as registrar:
        held = lab.request(person, document=card(1), **RED)
        blocked, dead = (lab.request(document=card(serial), **RED) for serial in (2, 3))
        first = ask(registrar, held, blocked, dead)
        deaths.report(registrar, store, first[2].decided.document_id, DeathSource.REGISTRY, ANNE)
        block_document(registrar, store, card(2), "test")
        asked = ask(
            registrar,
            lab.request(document=card(9), **UNSEEN),
            lab.request(document=card(10), msisdn=held.msisdn, **UNSEEN),
            lab.request(document=card(1), **EXCUSED),
            lab.request(document=card(2), **UNSEEN),
            lab.request(document=card(3), **UNSEEN),
        )
        told = [one.reasons for one in asked]
        assert told == [
            (Reason.EXCEPTION_ASKED,),
            (Reason.LINE_IN_USE, Reason.EXCEPTION_ASKED),
            (Reason.DOCUMENT_HELD_BY_ANOTHER_FACE, Reason.EXCEPTION_ASKED),
            (Reason.DOCUMENT_BLOCKED, Reason.EXCEPTION_ASKED),
            (Reason.HOLDER_DECEASED, Reason.EXCEPTION_ASKED),
        ]
        assert {one.decision for one in asked} == {Decision.REVIEW}
        assert lab.replays(*asked)
        # An earlier version's decision replays as it was.
        record = store.enrollment(asked[1].enrollment_id)
        evidence = read_evidence(record.evidence.inputs)
        assert decide(evidence, "3").decision is Decision.REJECTED
        for one in asked[1:]:
            case = next(each for each in one.decided.cases if each.kind == CaseKind.EXCEPTION)
            with pytest.raises(CaseMoved, match="refuse the exception"):
                close(registrar, lab, case.id, Outcome.UNFOUNDED)


def test_an_exception_takes_nobody_past_a_guardian_or_a_face(lab, registrar) -> None:
    child = lab.request(document=card(1, CHILD), **EXCUSED)
    assert ask(registrar, child)[0].reasons == (Reason.EXCEPTION_NOT_OFFERED,)
    renewed = lab.request(document=card(2), replaces=card(3), **EXCUSED)
    (refused,) = registrar.enroll([renewed])
    assert isinstance(refused, RequestError)


def test_an_exception_is_no_way_round_the_search(lab, registrar) -> None:
    person = lab.people.person()
    approve(registrar, lab.request(person, document=card(1)))
    twice = ask(registrar, lab.request(person, document=card(2), **EXCUSED))[0]
    assert twice.decision is Decision.REJECTED
    assert Reason.DUPLICATE_IDENTITY in twice.reasons
    # Nor is what comes between the asking and the granting.
    late = lab.people.person()
    asked = ask(registrar, lab.request(late, document=card(3), **EXCUSED))[0]
    approve(registrar, lab.request(late, document=card(4)))
    with pytest.raises(CaseMoved, match="enrolled under another document"):
        close(registrar, lab, asked.decided.cases[0].id, Outcome.UNFOUNDED)


def test_an_exception_whose_face_can_no_longer_be_compared_opens_no_line(lab) -> None:
    rules = replace(RULES, exceptions_per_outlet=9)
    holder, other = lab.people.person(), lab.people.person()
    with lab.registrar(people=rules) as registrar:
        asked = ask(
            registrar,
            lab.request(other, document=card(1), **EXCUSED),
            lab.request(other, document=card(2), **EXCUSED),
            lab.request(holder, document=card(2), **EXCUSED),
        )
        # Enrolled under the first meanwhile, and by an exception under the second.
        held = approve(registrar, lab.request(holder, document=card(1)))
        assert held.decided.document_id == asked[0].decided.document_id
        close(registrar, lab, asked[1].decided.cases[0].id, Outcome.UNFOUNDED)
        for one in (asked[0], asked[2]):
            with pytest.raises(CaseMoved, match="is gone"):
                close(registrar, lab, one.decided.cases[0].id, Outcome.UNFOUNDED)
    for document_id in (one.decided.document_id for one in asked[:2]):
        assert len(lab.store.lines_of(document_id)) == 1


def test_the_dead_enroll_nobody_and_are_still_searched(lab, registrar) -> None:
    person = lab.people.person()
    first = ask(registrar, lab.request(person, document=card(1)))[0]
    document_id, store = first.decided.document_id, lab.store
    reported = deaths.report(registrar, store, document_id, DeathSource.REGISTRY, ANNE)
    assert reported.state == "reported"
    assert [one.status for one in store.lines_of(document_id)] == [LineStatus.DISPUTED]
    again, other = ask(
        registrar, lab.request(person, document=card(1)), lab.request(person, document=card(2))
    )
    assert Reason.HOLDER_DECEASED in again.reasons
    assert Reason.DECEASED_LOOK_ALIKE in other.reasons
    assert lab.replays(again, other)
    with pytest.raises(FourEyes):
        deaths.confirm(registrar, store, document_id, ANNE)
    with pytest.raises(HolderMoved):
        deaths.report(registrar, store, document_id, DeathSource.FAMILY, BORIS)
    assert deaths.confirm(registrar, store, document_id, BORIS).state == "confirmed"
    assert [one.status for one in store.lines_of(document_id)] == [LineStatus.CLOSED]


def test_a_report_of_a_death_is_taken_back_by_two_people(lab, registrar) -> None:
    person = lab.people.person()
    first = ask(registrar, lab.request(person, document=card(1)))[0]
    document_id, store = first.decided.document_id, lab.store
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
    approve(registrar, lab.request(person, document=card(1)))


def test_a_document_takes_the_place_of_another_of_the_same_face(lab, registrar) -> None:
    person, store = lab.people.person(), lab.store
    first = ask(registrar, lab.request(person, document=card(1)))[0]
    number = lab.request(person, document=card(1))
    kept = ask(registrar, number)[0]
    # The same number comes along: no line is opened.
    renewed = lab.request(person, document=card(2), replaces=card(1), msisdn=number.msisdn)
    answer = approve(registrar, renewed)
    assert answer.decided.line_id == kept.decided.line_id
    old, new = first.decided.document_id, answer.decided.document_id
    assert store.lines_of(old) == []
    assert {one.id for one in store.lines_of(new)} == {first.decided.line_id, kept.decided.line_id}
    retired, later = ask(
        registrar, lab.request(person, document=card(1)), lab.request(person, document=card(2))
    )
    assert retired.reasons == (Reason.DOCUMENT_REPLACED,)
    assert later.decision is Decision.APPROVED, later.reasons
    third = approve(registrar, lab.request(person, document=card(3), replaces=card(2)))
    # Nobody is asked about any two of them, in sweeps neither.
    pairs = read_decided(store).exceptions
    documents = (old, new, third.decided.document_id)
    assert pairs == {(min(a, b), max(a, b)) for a in documents for b in documents if a != b}
    assert lab.replays(answer, retired, later, third)
    found = newest_cases(store.cases)
    assert found == []


def test_a_stranger_replaces_nobodys_document(lab, registrar) -> None:
    person, store = lab.people.person(), lab.store
    first = ask(registrar, lab.request(person, document=card(1)))[0]
    stranger = lab.request(document=card(2), replaces=card(1))
    unknown = lab.request(document=card(3), replaces=card(8))
    for answer in ask(registrar, stranger, unknown):
        assert answer.reasons == (Reason.REPLACEMENT_REFUSED,)
        assert answer.decided.cases == []
        assert lab.replays(answer)
    (case,) = store.cases.open_of([first.decided.document_id])[first.decided.document_id]
    assert case.kind == CaseKind.STOLEN_DOCUMENT
    # Another's claim does not bar its holder, however often it is made.
    assert ask(registrar, replace(stranger, idempotency_key="again"))[0].decided.cases == []
    own = approve(registrar, lab.request(person, document=card(4), replaces=card(1)))
    assert lab.replays(own)
    assert [one.id for one in newest_cases(store.cases)] == [case.id]


def test_a_minor_does_not_take_the_place_of_their_guardian(lab, registrar) -> None:
    parent, store = lab.people.person(), lab.store
    own = ask(registrar, lab.request(parent, document=card(2)))[0]
    # As much like the parent as kin are: the same face to a document, and nobody to a search.
    child = lab.people.between(parent, 0.5)
    shown = lab.guardian(parent, 2)
    taken = {"document": card(1, CHILD), "replaces": card(2), "guardian": shown}
    answer = ask(registrar, lab.request(child, noise=0.05, **taken))[0]
    assert answer.reasons == (Reason.REPLACEMENT_REFUSED,)
    assert [one.id for one in store.lines_of(own.decided.document_id)] == [own.decided.line_id]
    assert lab.replays(answer)
    # Whom no rule asks for a guardian is judged without the one who came along.
    renewed = lab.request(parent, document=card(3), replaces=card(2), guardian=shown)
    approve(registrar, renewed)


@pytest.mark.parametrize("is_claimed_first", [True, False])
def test_who_is_looked_into_does_not_leave_under_another_number(
    lab, registrar, is_claimed_first: bool
) -> None:
    holder, other, store = lab.people.person(), lab.people.person(), lab.store
    first = ask(registrar, lab.request(holder, document=card(1)))[0]
    # Whose document is it: the face on file may be the thief's, and a claim by another hides none.
    claim = lab.request(document=card(2), replaces=card(1))
    contest = lab.request(other, document=card(1))
    ask(registrar, *((claim, contest) if is_claimed_first else (contest, claim)))
    cases = store.cases.open_of([first.decided.document_id])[first.decided.document_id]
    assert sorted(is_grouped(one, CLAIMED) for one in cases) == [False, True]
    renewed = lab.request(holder, document=card(3), replaces=card(1))
    refused = ask(registrar, renewed)[0]
    assert Reason.REPLACEMENT_REFUSED in refused.reasons
    contested = next(one for one in cases if not is_grouped(one, CLAIMED))
    close(registrar, lab, contested.id, Outcome.MISTAKE)
    approve(registrar, replace(renewed, idempotency_key="again"))


def test_nor_do_exceptions_and_tries_of_others_bar_the_holder(lab) -> None:
    holder, store = lab.people.person(), lab.store
    limits = replace(NO_LIMITS, holder_failures=1, holder_h=1 / 3600)
    caller = Caller("key:a", "blue-1", "blue")
    with lab.registrar(people=RULES, limits=limits) as registrar:
        first = ask(registrar, lab.request(holder, document=card(1)))[0]
        asked = ask(registrar, lab.request(document=card(1), **UNSEEN))[0]
        ask(registrar, lab.request(document=card(2), replaces=card(1), caller=caller))
        kinds = {one.kind for one in store.cases.open_of([first.decided.document_id]).popitem()[1]}
        assert {CaseKind.EXCEPTION, CaseKind.PROBING} < kinds
        approve(registrar, lab.request(holder, document=card(3), replaces=card(1)))
        # The exception is judged as the document is by now.
        with pytest.raises(CaseMoved, match="enrolls nobody"):
            close(registrar, lab, asked.decided.cases[0].id, Outcome.UNFOUNDED)


def test_the_face_of_lines_does_not_drift_from_document_to_document(lab, registrar) -> None:
    person, store = lab.people.person(), lab.store
    first = ask(registrar, lab.request(person, document=card(1)))[0]
    own = store.document(first.decided.document_id).reference_ids
    # Half the holder's face, and half of somebody's: two people have to let it pass.
    between = lab.people.between(person, 0.7)
    renewed = lab.request(between, document=card(2), replaces=card(1))
    asked = ask(registrar, renewed)[0]
    assert asked.reasons == (Reason.REPLACEMENT_ASKED,)
    close(registrar, lab, asked.decided.cases[0].id, Outcome.UNFOUNDED)
    answer = approve(registrar, replace(renewed, idempotency_key="again"))
    taken = store.document(answer.decided.document_id).reference_ids
    kept, inherited = registrar.gallery.vectors(np.array([*own, *taken]))
    assert np.array_equal(kept, inherited)
    moved = [one for one in read_events(store, 0) if one.type is EventType.LINE_MOVED]
    assert {(one.subject, one.carrier) for one in moved} == {(first.decided.line_id, "blue")}
    (entry,) = [one.entry for one in store.audit_entries() if one.entry.action[-8:] == "replaced"]
    told = first.decided.document_id, [first.decided.line_id]
    assert (entry.subject, entry.detail["lines"]) == told


@pytest.mark.parametrize("doubt", ["document", "live", "portrait"])
def test_two_people_decide_of_a_replacement_in_doubt_and_the_lines_stay_until_then(
    lab, registrar, doubt: str
) -> None:
    person, store = lab.people.person(), lab.store
    first = ask(registrar, lab.request(person, document=card(1)))[0]
    old = first.decided.document_id
    alike = lab.people.sample(lab.people.between(person, 0.66), noise=0.05)
    if doubt == "document":
        shown = {"document": structs.replace(card(2), name="Somebody Else")}
    else:
        shown = {doubt: alike}
    renewed = lab.request(person, **{"document": card(2), "replaces": card(1)} | shown)
    again = replace(renewed, idempotency_key="again")
    asked, repeated = ask(registrar, renewed)[0], ask(registrar, again)[0]
    for answer in (asked, repeated):
        assert (answer.decision, answer.reasons) == (Decision.REVIEW, (Reason.REPLACEMENT_ASKED,))
        assert lab.replays(answer)
    assert [one.id for one in store.lines_of(old)] == [first.decided.line_id]
    told = [one for one in read_events(store, 0) if one.type is EventType.LINE_MOVE_ASKED]
    assert {(one.subject, one.carrier) for one in told} == {(first.decided.line_id, "blue")}
    # However often it is sent, it is one question.
    (case,) = newest_cases(store.cases)
    assert [one.id for one in asked.decided.cases + repeated.decided.cases] == [case.id] * 2
    with pytest.raises(FourEyes):
        steps.close(registrar, store, case.id, Outcome.UNFOUNDED, (), ANNE)
    close(registrar, lab, case.id, Outcome.UNFOUNDED)
    moved = approve(registrar, replace(renewed, idempotency_key="moved"))
    assert first.decided.line_id in {one.id for one in store.lines_of(moved.decided.document_id)}
    assert lab.replays(moved)


@pytest.mark.parametrize("outcome", [Outcome.FRAUD, Outcome.MISTAKE, Outcome.TWINS])
def test_a_replacement_that_people_do_not_let_pass_is_asked_again(
    lab, registrar, outcome: Outcome
) -> None:
    person, store = lab.people.person(), lab.store
    first = ask(registrar, lab.request(person, document=card(1)))[0]
    alike = lab.people.between(person, 0.55)
    taking = lab.request(alike, noise=0.1, document=card(2), replaces=card(1))
    asked = ask(registrar, taking)[0]
    assert asked.reasons == (Reason.REPLACEMENT_ASKED,)
    close(registrar, lab, asked.decided.cases[0].id, outcome)
    again = ask(registrar, replace(taking, idempotency_key="again"))[0]
    assert again.reasons == (Reason.REPLACEMENT_ASKED,)
    assert again.decided.cases != asked.decided.cases
    close(registrar, lab, again.decided.cases[0].id, Outcome.UNFOUNDED)
    # What was decided is about the face that they saw.
    other = lab.people.between(person, 0.55)
    face = {"live": lab.people.sample(other, noise=0.1), "portrait": lab.people.sample(other)}
    taken = ask(registrar, replace(taking, idempotency_key="taken", **face))[0]
    assert Reason.REPLACEMENT_ASKED in taken.reasons
    # Its holder goes on under their own document, and may replace it.
    assert [one.id for one in store.lines_of(first.decided.document_id)] == [first.decided.line_id]
    approve(registrar, lab.request(person, document=card(3), replaces=card(1)))


def test_a_delay_passes_between_what_people_decide_and_the_move_of_lines(lab) -> None:
    person = lab.people.person()
    rules = replace(RULES, replacement_delay_h=48)
    renewed = lab.request(person, document=card(2), replaces=card(1))
    clock = NOW
    with lab.registrar(people=rules, clock=lambda: clock) as registrar:
        ask(registrar, lab.request(person, document=card(1)))
        asked = ask(registrar, renewed)[0]
        assert asked.reasons == (Reason.REPLACEMENT_ASKED,), "of every face, however alike"
        close(registrar, lab, asked.decided.cases[0].id, Outcome.UNFOUNDED)
        clock = NOW + timedelta(hours=47)
        early = ask(registrar, replace(renewed, idempotency_key="early"))[0]
        assert early.reasons == (Reason.REPLACEMENT_ASKED,)
        # Nobody is asked again what has been decided.
        assert early.decided.cases == []
        clock = NOW + timedelta(hours=49)
        moved = ask(registrar, replace(renewed, idempotency_key="late"))[0]
    assert moved.decision is Decision.APPROVED, moved.reasons


def test_a_minors_document_is_no_ones_who_brings_another_guardian(lab) -> None:
    child, parent, other = (lab.people.person() for _ in range(3))
    faceless = {"document": card(1, CHILD), "live": ABSENT, "portrait": ABSENT}
    waived = replace(RULES, minor_face="guardian")
    with lab.registrar(people=waived) as registrar:
        with_parent = lab.request(**faceless, guardian=lab.guardian(parent, 2))
        with_other = lab.request(**faceless, guardian=lab.guardian(other, 3))
        # The second of one batch, too.
        first, taken = ask(registrar, with_parent, with_other)
        assert first.decision is Decision.APPROVED, first.reasons
        assert (taken.decision, taken.reasons) == (Decision.REVIEW, (Reason.GUARDIAN_CHANGED,))
        shown = {"live": lab.people.sample(child), "portrait": lab.people.sample(child)}
        face = lab.request(
            **faceless | shown, guardian=lab.guardian(other, 3), idempotency_key="a face"
        )
        assert ask(registrar, face)[0].reasons == (Reason.GUARDIAN_CHANGED,)
        own = lab.request(**faceless | shown, guardian=lab.guardian(parent, 2, portrait=False))
        approve(registrar, own)
        # Now the document has a face: with that anybody may come, and without it nobody new.
        assert ask(registrar, replace(face, idempotency_key="the face"))[0].reasons == ()
        third = lab.guardian(lab.people.person(), 4)
        new = lab.request(**faceless, guardian=third)
        asked = ask(registrar, new)[0]
        assert asked.reasons == (Reason.GUARDIAN_CHANGED,)
        close(registrar, lab, asked.decided.cases[0].id, Outcome.UNFOUNDED)
        granted = approve(registrar, replace(new, idempotency_key="granted"))
    assert lab.replays(first, taken, asked, granted)
    assert {one.kind for one in newest_cases(lab.store.cases)} == {CaseKind.STOLEN_DOCUMENT}


def test_people_are_asked_of_what_is_in_doubt_alone(lab) -> None:
    child, store = lab.people.person(), lab.store
    waived = replace(RULES, minor_face="guardian")

    def bring(serial: int) -> GuardianShown:
        return lab.guardian(lab.people.person(), serial)

    with lab.registrar(people=waived) as registrar:
        ask(registrar, lab.request(child, document=card(1, CHILD), guardian=bring(2)))
        ask(registrar, lab.request(document=card(3, CHILD), **FACELESS, guardian=bring(4)))
        # Beyond doubt the old document's holder, and a guardian whom the new one does not know.
        renewed = {"document": card(3, CHILD), "replaces": card(1, CHILD), "guardian": bring(5)}
        asked = ask(registrar, lab.request(child, **renewed))[0]
        assert asked.reasons == (Reason.GUARDIAN_CHANGED,)
        (case,) = asked.decided.cases
        own = store.cases.get(case.id)
        assert own.document_ids[0] == asked.decided.document_id
        close(registrar, lab, case.id, Outcome.UNFOUNDED)
        approve(registrar, lab.request(child, **renewed))


def test_an_exemption_goes_along_with_the_document_that_replaces_another(lab) -> None:
    person, store = lab.people.person(), lab.store
    with lab.registrar(people=RULES, lines=LineLimits(person_limit=1)) as registrar:
        first = ask(registrar, lab.request(person, document=card(1)))[0]
        exempt(registrar, store, first.decided.document_id, "business", "fraud")
        answers = ask(
            registrar,
            # The first of them in the batch of the replacement.
            lab.request(person, document=card(2), replaces=card(1)),
            lab.request(person, document=card(2)),
        )
        answers += ask(registrar, lab.request(person, document=card(2)))
    assert [one.decision for one in answers] == [Decision.APPROVED] * 3
    old, new = first.decided.document_id, answers[0].decided.document_id
    assert [(key, one.cause) for key, one in store.exemptions([old, new]).items()] == [
        (new, "business")
    ]
    assert lab.replays(*answers)


def test_a_number_that_comes_along_with_its_document_is_no_new_line_of_the_day(lab) -> None:
    person, limits = (
        lab.people.person(),
        LineLimits(day_limit=1, outlets={"blue-1": 1}, approval_h=1),
    )
    with lab.registrar(people=RULES, lines=limits) as registrar:
        first = lab.request(person, document=card(1))
        renewed = {"document": card(2), "replaces": card(1)}
        answers = ask(registrar, first)
        answers += ask(registrar, lab.request(person, **renewed))
        answers += ask(registrar, lab.request(person, msisdn=first.msisdn, **renewed))
        answers += ask(registrar, lab.request(person, document=card(2)))
        both = Reason.CHANNEL_LIMIT_REACHED, Reason.DAY_LIMIT_REACHED, Reason.APPROVAL_MISSING
        assert [one.reasons for one in answers] == [(), both, (), both]
    assert lab.replays(*answers)


@pytest.mark.parametrize("is_one_batch", [True, False])
def test_a_guardian_answers_for_the_same_lines_under_a_renewed_document(
    lab, registrar, is_one_batch: bool
) -> None:
    parent, store = lab.people.person(), lab.store
    children = [
        lab.request(document=card(serial, CHILD), guardian=lab.guardian(parent, 2))
        for serial in range(10, 14)
    ]
    before = ask(registrar, *children)
    # The parent's own line is the fifth: one more child would be beyond the limit.
    renewed = lab.request(parent, document=card(3), replaces=card(2))
    more = lab.request(document=card(20, CHILD), guardian=lab.guardian(parent, 3, portrait=False))
    batches = [(renewed, more)] if is_one_batch else [(renewed,), (more,)]
    answers = [one for batch in batches for one in ask(registrar, *batch)]
    assert [one.decision for one in answers] == [Decision.APPROVED, Decision.REJECTED]
    assert answers[1].reasons == (Reason.LINE_LIMIT_REACHED,)
    bound = store.people.guardians([one.decided.line_id for one in before])
    assert {one.guardian_id for one in bound.values()} == {answers[0].decided.document_id}


def test_a_minors_line_keeps_its_guardian_when_the_minors_document_is_renewed(
    lab, registrar
) -> None:
    child, parent = lab.people.person(), lab.people.person()
    shown = lab.guardian(parent, 2)
    first = ask(registrar, lab.request(child, document=card(1, CHILD), guardian=shown))[0]
    renewed = lab.request(child, document=card(3, CHILD), replaces=card(1), guardian=shown)
    answer = approve(registrar, renewed)
    lines = [first.decided.line_id, answer.decided.line_id]
    bound = lab.store.people.guardians(lines)
    assert {one.document_id for one in bound.values()} == {answer.decided.document_id}
    assert len(bound) == 2


def test_a_minor_renews_a_document_keeps_the_number_and_is_bound_anew(lab, registrar) -> None:
    child, parents = lab.people.person(), [lab.people.person(), lab.people.person()]
    before, now = (lab.guardian(one, 2 + place) for place, one in enumerate(parents))
    old = lab.request(child, document=card(1, CHILD), guardian=before)
    first = ask(registrar, old)[0]
    renewed = lab.request(
        child, document=card(4, CHILD), replaces=card(1), guardian=now, msisdn=old.msisdn
    )
    answer = ask(registrar, renewed, lab.request(document=card(9)))[0]
    assert answer.decision is Decision.APPROVED, answer.reasons
    line_id = answer.decided.line_id
    assert line_id == first.decided.line_id
    bound = lab.store.people.guardians([line_id])[line_id]
    assert bound.document_id == answer.decided.document_id
    assert bound.guardian_id == answer.decided.guardian_document_id
    assert bound.guardian_id != first.decided.guardian_document_id
    # Who answers for it no longer may go.
    made = erase_holder(registrar, lab.store, first.decided.guardian_document_id, "test", "blue")
    assert made.references == 1


def test_what_was_tried_on_a_holder_counts_under_a_renewed_document(lab) -> None:
    person = lab.people.person()
    limits = replace(NO_LIMITS, holder_failures=3, holder_h=96)
    caller = Caller("key:a", "blue-1", "blue")
    with lab.registrar(people=RULES, limits=limits) as registrar:
        ask(registrar, lab.request(person, document=card(1)))
        taking = {"replaces": card(1), "caller": caller}
        ask(registrar, *(lab.request(document=card(serial), **taking) for serial in (5, 6)))
        ask(registrar, lab.request(person, document=card(2), replaces=card(1)))
        tried = [lab.request(document=card(2), caller=caller) for _ in range(2)]
        third, fourth = registrar.enroll(tried)
    assert isinstance(third, Answer)
    assert isinstance(fourth, TooManyFailures)


def test_a_document_on_the_watch_list_is_not_shed_by_another(lab, registrar) -> None:
    person = lab.people.person()
    ask(registrar, lab.request(person, document=card(1)))
    lookup = document_look_up(lab.vault, check_document(card(1), NOW.date()))
    registrar.watchlist.add(WatchEntry(1, lookup, None, "stolen", NOW))
    answer = ask(registrar, lab.request(person, document=card(2), replaces=card(1)))[0]
    assert (answer.decision, answer.reasons) == (Decision.REVIEW, (Reason.WATCHLISTED,))
    # Somebody else's face is not told.
    other = ask(registrar, lab.request(document=card(3), replaces=card(1)))[0]
    assert other.reasons == (Reason.REPLACEMENT_REFUSED,)
    assert lab.replays(answer, other)


def test_a_carrier_erases_its_guardian_once_no_minors_line_hangs_on_it(lab, registrar) -> None:
    parent, store = lab.people.person(), lab.store
    child = lab.request(document=card(1, CHILD), guardian=lab.guardian(parent, 2))
    answer = ask(registrar, child)[0]
    document_id = answer.decided.guardian_document_id
    with pytest.raises(NotFound):
        erase_holder(registrar, store, document_id, "test", "red")
    with pytest.raises(HolderMoved, match="minor's line in use"):
        erase_holder(registrar, store, document_id, "test", "blue")
    close_line(registrar, store, answer.decided.line_id, "test")
    with pytest.raises(NotFound):
        erase_holder(registrar, store, document_id, "test", "red")
    made = erase_holder(registrar, store, document_id, "test", "blue")
    assert (made.references, made.lines) == (1, 0)
    assert store.people.guardians([answer.decided.line_id]) == {}
    # Whoever asked is told how far it is, and nobody else.
    assert read_erasure(store, document_id, "blue").state == "done"
    with pytest.raises(NotFound):
        read_erasure(store, document_id, "red")


def test_a_guardian_of_two_carriers_is_erased_by_the_operator_alone(lab, registrar) -> None:
    parent, store = lab.people.person(), lab.store
    answers = ask(
        registrar,
        lab.request(document=card(1, CHILD), guardian=lab.guardian(parent, 2)),
        lab.request(document=card(3, CHILD), guardian=lab.guardian(parent, 2), **RED),
    )
    assert [one.decision for one in answers] == [Decision.APPROVED] * 2
    document_id = answers[0].decided.guardian_document_id
    for carrier in ("blue", "red"):
        with pytest.raises(TenantConflict):
            erase_holder(registrar, store, document_id, "test", carrier)
    assert erase_holder(registrar, store, document_id, "test").references == 1


def test_lines_of_another_carrier_are_moved_when_two_people_have_looked(lab, registrar) -> None:
    person = lab.people.person()
    ask(registrar, lab.request(person, document=card(1), carrier="red", outlet="red-1"))
    refused = ask(registrar, lab.request(person, document=card(2), replaces=card(1)))[0]
    assert refused.decision is Decision.REJECTED
    assert {Reason.REPLACEMENT_REFUSED, Reason.DUPLICATE_IDENTITY} <= set(refused.reasons)
    close(registrar, lab, refused.decided.cases[0].id, Outcome.MISTAKE)
    answer = approve(registrar, lab.request(person, document=card(2), replaces=card(1)))
    assert lab.replays(refused, answer)


def test_a_guardian_answers_for_no_more_lines_than_one_person_may_have(lab, registrar) -> None:
    parent = lab.people.person()
    children = [
        lab.request(document=card(serial, CHILD), guardian=lab.guardian(parent, 2))
        for serial in range(10, 17)
    ]
    # In one batch and in later ones.
    answers = [*ask(registrar, *children[:4]), *(ask(registrar, one)[0] for one in children[4:])]
    assert [one.decision for one in answers] == [Decision.APPROVED] * 5 + [Decision.REJECTED] * 2
    assert answers[-1].reasons == (Reason.LINE_LIMIT_REACHED,)
    assert lab.replays(*answers)
