"""A carrier that keeps no face: what is compared, and what others make of its lines."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from engine.faces.liveness_judge import Judged, JudgeTerms
from engine.lifecycle.rules import LineRules, load_rules
from engine.matching.checks.liveness import LivenessTerms
from engine.matching.checks.second_model import SecondModel, SecondModelCheck
from engine.matching.registrar import Registrar
from engine.matching.requests import Answer, EnrollmentRequest
from engine.registry.references import SecondTemplate
from schema.cases import Outcome
from schema.options import CarrierPeople, PeopleRules
from schema.people import ExceptionCause
from schema.reasons import Decision, Reason
from tests.engine.matching.conftest import CHILD, DIM, NOW, Lab, card, close
from tests.engine.matching.test_people import ask
from tests.tables import tables

NONE = PeopleRules(carriers={"blue": CarrierPeople(keep_faces="none")})
BY_LAW = PeopleRules(carriers={"blue": CarrierPeople(keep_faces="none", search_law="Act 7, 12")})
Make = Callable[..., EnrollmentRequest]


@pytest.fixture
def blue(lab) -> Make:
    return lambda serial, person=None, **more: lab.request(person, document=card(serial), **more)


@pytest.fixture
def red(blue) -> Make:
    return lambda *given, **more: blue(*given, carrier="red", outlet="red-1", **more)


def count_kept(lab: Lab) -> int:
    """References, and faces of attempts that people are asked about."""
    kept = (tables.references, tables.attempt_templates, tables.crops)
    return sum(len(lab.store.rows(one.select())) for one in kept)


def ask_at_once(busy, registrar: Registrar, *requests: EnrollmentRequest) -> list[Answer]:
    """In one batch."""
    with busy(registrar):
        waiting = [registrar.submit(one) for one in requests]
    return [cast("Answer", one.result(60)) for one in waiting]


def test_the_live_face_is_the_portraits_and_the_decision_says_that_nobody_was_searched_for(
    lab: Lab, blue: Make, red: Make
) -> None:
    person, other = lab.people.person(), lab.people.person()
    with lab.registrar(people=NONE) as registrar:
        asked = blue(2, person, captured_at=NOW)
        mixed = blue(3, person, portrait=lab.people.sample(other))
        (known,) = ask(registrar, red(1, person))
        opened, mixed = ask(registrar, asked, mixed)
        (again,) = ask(registrar, asked)
    assert (opened.decision, opened.reasons) == (Decision.APPROVED, (Reason.NOT_SEARCHED,))
    assert mixed.reasons == (Reason.FACE_MISMATCH, Reason.NOT_SEARCHED)
    folio = opened.decided.folio
    assert (folio.number, folio.captured_at) == (opened.enrollment_id, NOW.isoformat())
    assert (again.is_repeated, again.decided.folio, known.decided.folio) == (True, folio, None)
    kept = lab.store.enrollment(opened.enrollment_id).evidence
    assert (kept.is_face_kept, kept.strip().is_face_kept) == (False, False)
    assert (kept.quality, kept.inputs["searched"]) == ({}, None)
    assert lab.replays(opened, mixed)
    assert (len(lab.store.lines_of(opened.decided.document_id)), count_kept(lab)) == (1, 1)


def test_by_a_law_it_is_searched_for_among_others_faces_and_not_added(
    lab: Lab, busy, blue: Make, red: Make
) -> None:
    person, newcomer = lab.people.person(), lab.people.person()
    with lab.registrar(people=BY_LAW) as registrar:
        ask(registrar, red(1, person))
        asked = (blue(2, person), blue(3, newcomer), blue(4, newcomer))
        double, first, second = ask_at_once(busy, registrar, *asked)
        (later,) = ask(registrar, blue(5, newcomer))
    assert double.reasons == (Reason.DUPLICATE_IDENTITY,)
    # Of two whose faces are not kept neither is known to the other, at once as one after the other.
    assert [one.reasons for one in (first, second, later)] == [()] * 3
    assert later.decided.duplicate_search.searched == count_kept(lab) == 1
    assert lab.replays(double, first, later)


def test_a_guardian_shows_face_and_portrait_each_time_and_nothing_is_kept(lab: Lab) -> None:
    person, other = lab.people.person(), lab.people.person()

    def minor(serial: int, face: Any, *, portrait: bool = True, **more: Any) -> EnrollmentRequest:
        guardian = lab.guardian(face, serial, portrait=portrait)
        return lab.request(document=card(1, CHILD), guardian=guardian, **more)

    with lab.registrar(people=replace(NONE, age_of_majority=17)) as registrar:
        answers = ask(
            registrar,
            *(minor(9, person), minor(9, person), minor(9, person, portrait=False)),
            # Elsewhere their first face would answer for the minor's lines.
            *(minor(8, other), minor(9, person, carrier="red", outlet="red-1")),
        )
    first, again, bare, changed, there = answers
    assert [one.decision for one in (first, again)] == [Decision.APPROVED] * 2
    assert set(bare.reasons) == {Reason.GUARDIAN_MISMATCH, Reason.NOT_SEARCHED}
    assert (changed.decision, changed.decided.cases) == (Decision.REJECTED, [])
    assert Reason.GUARDIAN_CHANGED in changed.reasons
    assert Reason.GUARDIAN_REFUSED in there.reasons
    assert (count_kept(lab), lab.replays(*answers)) == (0, True)


def test_a_second_model_gets_no_template_of_it(lab: Lab, blue: Make, red: Make) -> None:
    person, second = lab.people.person(), SecondTemplate("second", lab.people.person())
    names = ("live", "portrait")
    shown = {one: replace(lab.people.sample(person), second=second) for one in names}
    with lab.registrar(people=NONE) as registrar:
        checks = {**registrar._judge.checks, SecondModelCheck: SecondModel("second", DIM)}
        registrar._judge = replace(registrar._judge, checks=checks)
        (known,) = ask(registrar, red(1, person))
        held = lab.store.document(known.decided.document_id or "").reference_ids
        for make, count in ((blue, 0), (red, 1)):
            ask(registrar, make(1, **shown))
            assert len(lab.store.second_templates(held, "second", DIM)) == count


def test_the_finding_of_a_liveness_judge_is_recorded_without_its_score(
    lab: Lab, blue: Make, red: Make
) -> None:
    terms = LivenessTerms(judge=JudgeTerms("judge", live=0.6, spoof=0.4))
    with lab.registrar(people=NONE, liveness=terms) as registrar:
        for make, score in ((blue, None), (red, 0.9)):
            person = lab.people.person()
            live = replace(lab.people.sample(person), judged=Judged("judge", 0.9))
            (answer,) = ask(registrar, make(3 + bool(score), person, live=live))
            told = lab.store.enrollment(answer.enrollment_id).evidence.liveness_judge
            assert told is not None
            assert (told.found, told.score) == ("live", score)
            assert lab.replays(answer)


@pytest.mark.parametrize("rules", [NONE, BY_LAW])
def test_two_people_grant_an_exception_without_a_face(
    lab: Lab, blue: Make, red: Make, rules: PeopleRules
) -> None:
    unfit = replace(lab.people.sample(lab.people.person()), problems=(Reason.BLURRED,))
    with lab.registrar(people=replace(rules, exceptions=True)) as registrar:
        (answer,) = ask(registrar, blue(1, portrait=unfit, exception=ExceptionCause.INJURY))
        assert Reason.EXCEPTION_ASKED in answer.reasons
        assert count_kept(lab) == 0
        close(registrar, lab, answer.decided.cases[0].id, Outcome.UNFOUNDED)
        assert ask(registrar, red(1))[0].reasons == (Reason.EXCEPTION_ASKED,)
    assert len(lab.store.lines_of(answer.decided.document_id)) == 1


def test_an_exception_that_was_asked_for_before_adds_no_face_either(
    lab: Lab, blue: Make, red: Make
) -> None:
    person, unfit = (
        lab.people.person(),
        replace(lab.people.sample(lab.people.person()), problems=(Reason.BLURRED,)),
    )
    asked = blue(1, person, portrait=unfit, exception=ExceptionCause.INJURY)
    with lab.registrar(people=PeopleRules(exceptions=True)) as registrar:
        (answer,) = ask(registrar, asked)
        assert count_kept(lab) == 1
    with lab.registrar(people=NONE) as registrar:
        close(registrar, lab, answer.decided.cases[0].id, Outcome.UNFOUNDED)
        assert count_kept(lab) == 0
        assert ask(registrar, red(1))[0].reasons == (Reason.EXCEPTION_ASKED,)
    assert len(lab.store.lines_of(answer.decided.document_id)) == 1


def test_a_set_of_rules_says_it_for_a_carrier_that_does_not_say_so_itself() -> None:
    sets = LineRules(load_rules("mexico"), {"red": load_rules("thailand")})
    given = PeopleRules(carriers={"green": CarrierPeople(keep_faces="all", proofs_per_outlet=3)})
    rules = sets.complete(given)
    assert rules.unkept is rules.unkept
    assert [one in rules.unkept for one in ("blue", "red", "green")] == [True, False, False]
    assert rules.of("green").proofs_per_outlet == 3
    own = LineRules(own={"red": load_rules("korea")}).complete(PeopleRules())
    assert [one in own.unsearched for one in ("blue", "red")] == [False, True]
    assert LineRules().complete(PeopleRules()) == PeopleRules()
    named = {**own.carriers, "blue": CarrierPeople(search_law="Act 7")}
    assert replace(own, carriers=named).has_idle_law
    assert not any(one.has_idle_law for one in (own, BY_LAW, replace(NONE, search_law="Act 7")))
