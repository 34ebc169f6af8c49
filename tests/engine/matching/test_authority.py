"""What an authority says of documents: weighed, decided by, and replayed without it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.errors import RequestError
from engine.matching.authority import (
    AuthorityCode,
    AuthorityQuestion,
    AuthorityResult,
    AuthorityTerms,
    ListedAuthority,
    find_problem,
)
from engine.matching.documents import CheckedDocument
from engine.matching.policy import replay
from engine.reasons import Decision, Reason
from tests.engine.matching.conftest import NOW

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
    lab: Any,
    terms: AuthorityTerms,
    result: AuthorityResult | None,
    decision: str,
    reason: Reason | None,
) -> None:
    with lab.registrar(look_ups=terms) as registrar:
        _, request = lab.newcomer()
        [answer] = registrar.enroll([replace(request, authority=result)])
    assert answer.decision == decision
    assert answer.reasons == (() if reason is None else (reason,))
    kept = lab.store.enrollment(answer.enrollment_id)
    assert replay(kept).agrees
    told = kept.evidence["authority"]
    assert told["kind"] == ("none" if result is None else "http")
    assert find_problem(AuthorityCode(told["code"])) in (reason, *([] if reason else [*Reason]))


def test_nothing_is_told_of_the_document_beside_a_face_that_is_unfit(lab: Any) -> None:
    with lab.registrar(look_ups=TERMS) as registrar:
        _, request = lab.newcomer()
        dark = replace(request.live, problems=(Reason.TOO_DARK,))
        asked = replace(request, live=dark, authority=said("UNKNOWN_DOCUMENT"))
        [answer] = registrar.enroll([asked])
    assert answer.reasons == (Reason.TOO_DARK,)


def test_without_an_authority_a_result_has_no_say(lab: Any) -> None:
    with lab.registrar() as registrar:
        _, request = lab.newcomer()
        [answer] = registrar.enroll([replace(request, authority=said("NOT_VALID"))])
    assert answer.decision == "approved"
    assert "authority" not in lab.store.enrollment(answer.enrollment_id).evidence


def test_a_list_is_read_anew_when_it_changes_and_holds_no_number(lab: Any, tmp_path: Path) -> None:
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


def test_a_list_with_a_bad_line_answers_none_of_those_who_ask_at_once(
    lab: Any, tmp_path: Path
) -> None:
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
