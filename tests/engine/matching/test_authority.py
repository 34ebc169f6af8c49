"""What an authority says of documents: weighed, decided by, and replayed without it."""

import asyncio
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from engine.errors import CaseMoved, RequestError
from engine.matching.checks.document import (
    AuthorityQuestion,
    AuthorityTerms,
    ListedAuthority,
    ask_of,
    find_problem,
)
from engine.matching.checks.liveness import LivenessTerms
from engine.matching.checks.order import replay
from engine.matching.documents import CheckedDocument
from engine.matching.requests import Intake
from engine.matching.samples import ABSENT
from schema.cases import Outcome
from schema.documents import AuthorityCode, AuthorityResult, Document, DocumentRole
from schema.options import NO_RULES, LivenessRules, PeopleRules
from schema.people import ExceptionCause
from schema.reasons import Decision, LivenessMode, Reason
from tests.engine.matching.conftest import CHILD, GROWN_UP, NOW, card, close

TERMS = AuthorityTerms()
SCORED = AuthorityTerms(min_face_score=0.9)


def said(code: str, **more: Any) -> AuthorityResult:
    return AuthorityResult("http", AuthorityCode(code), NOW, **more)


@pytest.mark.parametrize(
    ("terms", "result", "decision", "reason"),
    [
        (TERMS, said("CONFIRMED"), "approved", None),
        (TERMS, said("TIMEOUT"), "review", Reason.AUTHORITY_UNAVAILABLE),
        (TERMS, None, "review", Reason.AUTHORITY_UNAVAILABLE),
        (replace(TERMS, unavailable=None), said("TIMEOUT"), "approved", None),
        (
            replace(TERMS, unavailable=Decision.REJECTED),
            said("BREAKER_OPEN"),
            "rejected",
            Reason.AUTHORITY_UNAVAILABLE,
        ),
        (TERMS, said("UNKNOWN_DOCUMENT"), "rejected", Reason.AUTHORITY_UNKNOWN_DOCUMENT),
        (replace(TERMS, unknown=None), said("UNKNOWN_DOCUMENT"), "approved", None),
        *(
            (TERMS, said(code), "review", Reason.AUTHORITY_CONTRADICTS)
            for code in ("NOT_VALID", "DIFFERS", "AMBIGUOUS", "INCONSISTENT")
        ),
        (SCORED, said("CONFIRMED", face_score=0.9), "approved", None),
        (SCORED, said("CONFIRMED", face_score=0.89), "review", Reason.AUTHORITY_CONTRADICTS),
        (SCORED, said("CONFIRMED"), "review", Reason.AUTHORITY_UNAVAILABLE),
    ],
)
def test_what_was_looked_up_decides_and_replays_without_asking_again(
    lab, terms: AuthorityTerms, result: AuthorityResult | None, decision: str, reason: Reason | None
) -> None:
    told = {DocumentRole.OWN: result} if result else {}
    [answer] = lab.enroll(lab.request(authority=told), look_ups=terms)
    assert answer.decision == decision
    assert answer.reasons == (() if reason is None else (reason,))
    kept = lab.store.enrollment(answer.enrollment_id)
    assert replay(kept).agrees
    told = kept.evidence.authority
    assert told.kind == ("none" if result is None else "http")
    assert find_problem(told.code) in (reason, *([] if reason else [*Reason]))


RULES = PeopleRules(age_of_majority=17)


def all_confirmed(**others: AuthorityResult) -> dict[DocumentRole, AuthorityResult]:
    given = {DocumentRole[name.upper()]: one for name, one in others.items()}
    return {DocumentRole.OWN: said("CONFIRMED")} | given


@pytest.mark.parametrize(
    ("result", "decision", "reason"),
    [
        (said("CONFIRMED"), "approved", None),
        (None, "review", Reason.AUTHORITY_UNAVAILABLE),
        (said("TIMEOUT"), "review", Reason.AUTHORITY_UNAVAILABLE),
        (said("UNKNOWN_DOCUMENT"), "rejected", Reason.AUTHORITY_UNKNOWN_DOCUMENT),
        (said("NOT_VALID", standings=("deceased",)), "review", Reason.AUTHORITY_CONTRADICTS),
        (said("DIFFERS", differs=("name",)), "review", Reason.AUTHORITY_CONTRADICTS),
    ],
)
def test_a_guardians_document_is_looked_up_as_the_minors_own(
    lab, result: AuthorityResult | None, decision: str, reason: Reason | None
) -> None:
    shown = lab.guardian(lab.people.person(), 2)
    given = all_confirmed(guardian=result) if result else all_confirmed()
    request = lab.request(document=card(1, CHILD), guardian=shown, authority=given)
    # Of somebody else's face nothing is told that the authority says of the document.
    other = replace(shown, live=lab.people.sample(lab.people.person()))
    strange = replace(request, idempotency_key="strange", guardian=other)
    mismatched, answer = lab.enroll(strange, request, look_ups=TERMS, people=RULES)
    assert answer.decision == decision
    assert answer.reasons == (() if reason is None else (reason,))
    assert mismatched.reasons == (Reason.GUARDIAN_MISMATCH,)
    kept = lab.store.enrollment(answer.enrollment_id)
    assert replay(kept).agrees
    assert find_problem(kept.evidence.guardian_authority.code) == reason


@pytest.mark.parametrize(
    ("result", "decision", "reason"),
    [
        (said("CONFIRMED"), "approved", None),
        # What one has a new document for is no contradiction.
        (said("NOT_VALID", standings=("lost", "revoked")), "approved", None),
        (said("NOT_VALID", standings=("expired",), differs=("name",)), "approved", None),
        (said("DIFFERS", differs=("name",)), "approved", None),
        (said("UNKNOWN_DOCUMENT"), "approved", None),
        (said("NOT_VALID", standings=("deceased",)), "review", Reason.AUTHORITY_CONTRADICTS),
        (said("DIFFERS", differs=("birth_date",)), "review", Reason.AUTHORITY_CONTRADICTS),
        (
            said("NOT_VALID", standings=("lost",), differs=("face",)),
            "review",
            Reason.AUTHORITY_CONTRADICTS,
        ),
        (said("AMBIGUOUS"), "review", Reason.AUTHORITY_CONTRADICTS),
        (said("BREAKER_OPEN"), "review", Reason.AUTHORITY_UNAVAILABLE),
        (None, "review", Reason.AUTHORITY_UNAVAILABLE),
    ],
)
def test_a_replaced_document_is_looked_up_and_may_be_out_of_use(
    lab, result: AuthorityResult | None, decision: str, reason: Reason | None
) -> None:
    person = lab.people.person()
    given = all_confirmed(replaced=result) if result else all_confirmed()
    old = lab.request(person, document=card(1), authority=all_confirmed())
    renewed = lab.request(person, document=card(2), replaces=card(1), authority=given)
    stranger = lab.request(document=card(3), replaces=card(1), authority=given)
    with lab.registrar(look_ups=TERMS, people=RULES) as registrar:
        first, answer = registrar.enroll([old])[0], registrar.enroll([renewed])[0]
        told = registrar.enroll([stranger])[0]
    assert first.decision == "approved"
    assert answer.decision == decision
    assert answer.reasons == (() if reason is None else (reason,))
    assert told.reasons == (Reason.REPLACEMENT_REFUSED,)
    kept = lab.store.enrollment(answer.enrollment_id)
    assert replay(kept).agrees
    assert kept.evidence.replaced_authority is not None


@pytest.mark.parametrize(
    ("result", "is_granted"),
    [
        (said("CONFIRMED"), True),
        # For people to decide, as any review is.
        (said("NOT_VALID", standings=("stolen",)), True),
        (said("UNKNOWN_DOCUMENT"), False),
    ],
)
def test_an_exception_gets_nobody_past_an_authority_that_rejects(
    lab, result: AuthorityResult, is_granted: bool
) -> None:
    rules = PeopleRules(exceptions=True)
    excused = {"portrait": ABSENT, "exception": ExceptionCause.INJURY}
    request = lab.request(document=card(1), authority={DocumentRole.OWN: result}, **excused)
    with lab.registrar(look_ups=TERMS, people=rules) as registrar:
        [answer] = registrar.enroll([request])
        assert answer.decision == "review"
        (case,) = answer.decided.cases
        with nullcontext() if is_granted else pytest.raises(CaseMoved, match="authority"):
            close(registrar, lab, case.id, Outcome.UNFOUNDED)
    assert len(lab.store.lines_of(answer.decided.document_id)) == is_granted


def test_the_authority_is_asked_of_whom_the_decision_needs_and_no_other(lab) -> None:
    shown = lab.guardian(lab.people.person(), 2)
    intake, liveness = Intake(lab.store), LivenessTerms()

    def roles(terms: PeopleRules = RULES, **changes: Any) -> dict[DocumentRole, AuthorityQuestion]:
        (attempt,) = intake.sort([lab.request(**changes)], NOW)
        return ask_of(lab.store, attempt, b"live", b"guardian", liveness, terms)

    asked = roles(document=card(1, CHILD), guardian=shown)
    named = {role: (one.document.number, one.name, one.live) for role, one in asked.items()}
    assert named == {
        DocumentRole.OWN: (card(1).number, "A Holder", b"live"),
        DocumentRole.GUARDIAN: (card(2).number, "A Holder", b"guardian"),
    }
    assert [*roles(document=card(1), guardian=shown)] == [DocumentRole.OWN]
    assert [*roles(NO_RULES, document=card(1, CHILD), guardian=shown)] == [DocumentRole.OWN]
    replaced = roles(document=card(1), replaces=Document("id-kitas", card(3).number, "any holder"))
    question = replaced[DocumentRole.REPLACED]
    assert (question.name, question.document.born_on) == ("A Holder", GROWN_UP)
    assert [*roles(document=card(1), replaces=card(1))] == [DocumentRole.OWN]
    # Of whoever lacks evidence of liveness nobody is asked; who shows no face needs none.
    liveness = LivenessTerms({None: LivenessRules(enrollment=LivenessMode.REQUIRED)})
    assert roles(document=card(1)) == {}
    assert [*roles(document=card(1), live=ABSENT)] == [DocumentRole.OWN]


def test_nothing_is_told_of_the_document_beside_a_face_that_is_unfit(lab) -> None:
    dark = lab.people.sample(lab.people.person(), Reason.TOO_DARK)
    asked = lab.request(live=dark, authority={DocumentRole.OWN: said("UNKNOWN_DOCUMENT")})
    [answer] = lab.enroll(asked, look_ups=TERMS)
    assert answer.reasons == (Reason.TOO_DARK,)


def test_without_an_authority_a_result_has_no_say(lab) -> None:
    [answer] = lab.enroll(lab.request(authority={DocumentRole.OWN: said("NOT_VALID")}))
    assert answer.decision == "approved"
    assert lab.store.enrollment(answer.enrollment_id).evidence.authority is None


def test_a_list_is_read_anew_when_it_changes_and_holds_no_number(lab, tmp_path) -> None:
    path = tmp_path / "list.csv"
    first, second = "110105198503071257", "11010519491231002X"
    path.write_text(
        f"type,number,standing\ncn-ric,{first},valid\ncn-ric,{second.lower()},valid\n"
        f"cn-ric,{second},Lost\ncn-ric,{second},lost\n"
    )
    authority = ListedAuthority(path, lab.vault)

    def look_up(number: str) -> str:
        document = CheckedDocument("cn-ric", number, "a", None)
        asked = AuthorityQuestion(document, "A", NOW.date())
        return asyncio.run(authority.look_up(asked)).code

    assert look_up(first) == "CONFIRMED"
    assert look_up(second) == "AMBIGUOUS"
    assert look_up("110101199003070134") == "UNKNOWN_DOCUMENT"
    assert first not in repr(vars(authority))
    path.write_text(f"type,number,standing\ncn-ric,{first},stolen\n")
    assert look_up(first) == "NOT_VALID"
    path.write_text(f"type,number,standing\ncn-ric,{first},perhaps\n")
    assert look_up(first) == "UNREADABLE"
    with pytest.raises(RequestError) as refused:
        authority.read()
    assert "line 2" in str(refused.value)
    assert first not in str(refused.value)
    path.unlink()
    assert look_up(first) == "UNREADABLE"


def test_a_list_with_a_bad_line_answers_none_of_those_who_ask_at_once(lab, tmp_path) -> None:
    path = tmp_path / "list.csv"
    number = "110105198503071257"
    good = "type,number,standing\n" + 1_000 * f"cn-ric,{number},valid\n"
    path.write_text(good)
    authority = ListedAuthority(path, lab.vault)
    document = CheckedDocument("cn-ric", number, "a", None)
    asked = AuthorityQuestion(document, "A", NOW.date())

    def look_up(times: int) -> set[str]:
        async def ask() -> list[AuthorityResult]:
            return await asyncio.gather(*(authority.look_up(asked) for _ in range(times)))

        return {one.code.value for one in asyncio.run(ask())}

    assert look_up(4) == {"CONFIRMED"}
    path.write_text(f"{good}cn-ric,{number},perhaps\n")
    assert look_up(1) == {"UNREADABLE"}
    assert look_up(4) == {"UNREADABLE"}
    path.unlink()
    assert look_up(4) == {"UNREADABLE"}
    path.write_text(f"type,number,standing\ncn-ric,{number},stolen\n")
    assert look_up(1) == {"NOT_VALID"}
