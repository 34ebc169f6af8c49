import json
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from math import nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.matching.calibration import Thresholds
from engine.matching.checks.face import FacePart
from engine.matching.checks.guardians import GuardianEvidence
from engine.matching.checks.order import BLANK, read_evidence, replay
from engine.matching.checks.people import PeoplePart, ReplacementEvidence
from engine.matching.checks.proofs import ProofEvidence
from engine.matching.policy import Candidate, Evidence, decide
from engine.registry.enrollments import EnrollmentRecord
from schema.cases import CaseKind
from schema.decisions import RecordedEvidence
from schema.people import ExceptionCause, ProofWay
from schema.reasons import About, Decision, Photograph, Reason

IMAGE_REASONS = {one for one in Reason if one.row.about is About.PHOTOGRAPH}
THRESHOLDS = Thresholds(verify=0.40, same_document=0.42, review=0.55, certain=0.65)
HONEST = Evidence(THRESHOLDS, BLANK).having(
    FacePart(live_portrait_score=0.7, holder_score=0.8, searched=100_000)
)


def change(evidence: Evidence, people: PeoplePart | None = None, **changes: Any) -> Evidence:
    """The evidence with other values of these fields, whichever check they are of."""
    assert set(changes) <= set(evidence.write())
    before = evidence.parts.values()
    own = [{name: changes[name] for name in {*changes} & {*a.__slots__}} for a in before]
    parts = [replace(part, **its) for part, its in zip(before, own, strict=True)]  # type: ignore[type-var]
    return evidence.having(*parts, *(() if people is None else (people,)))


def other(score: float) -> Candidate:
    return Candidate(reference_id=7, document_id="another", score=score)


GUARDIAN = GuardianEvidence(
    is_grown_up=True, verify=0.40, live_portrait_score=0.7, holder_score=0.8, searched=100_000
)
DOUBTED = ReplacementEvidence(document_id="old", score=0.42, is_free=True)
FREE = ReplacementEvidence(document_id="old", score=0.65, is_free=True)


def minor(**guardian: Any) -> dict[str, Any]:
    """A minor whose guardian differs so from a sound one."""
    return {"is_age_asked": True, "is_minor": True, "guardian": replace(GUARDIAN, **guardian)}


Row = tuple[dict[str, Any], Decision, tuple[Reason, ...], tuple[CaseKind, ...]]
"""What differs from honest evidence; what is decided for which reasons, and the cases opened."""


def approves(*told: Reason | CaseKind, **changes: Any) -> Row:
    return _tell(Decision.APPROVED, told, changes)


def reviews(*told: Reason | CaseKind, **changes: Any) -> Row:
    return _tell(Decision.REVIEW, told, changes)


def rejects(*told: Reason | CaseKind, **changes: Any) -> Row:
    return _tell(Decision.REJECTED, told, changes)


def _tell(decision: Decision, told: tuple[Reason | CaseKind, ...], changes: dict[str, Any]) -> Row:
    reasons = tuple(one for one in told if isinstance(one, Reason))
    return changes, decision, reasons, tuple(one for one in told if isinstance(one, CaseKind))


EXCUSED = {
    "exception": ExceptionCause.INJURY,
    "is_exception_offered": True,
    "asked_exceptions": 4,
    "exception_limit": 5,
}
PROVEN = ProofEvidence(way=ProofWay.WALLET, is_offered=True, brings=Decision.APPROVED, limit=1)
ASKED = (Reason.EXCEPTION_ASKED, CaseKind.EXCEPTION)
OTHERS = {"name_differs": True, "is_watchlisted": True}
APART = [
    approves(is_age_asked=True, is_minor=False),
    rejects(Reason.BIRTH_DATE_MISSING, is_age_asked=True),
    rejects(Reason.GUARDIAN_MISSING, is_age_asked=True, is_minor=True),
    approves(**minor()),
    approves(**minor(live_portrait_score=None)),
    approves(**minor(holder_score=None)),
    rejects(Reason.GUARDIAN_REFUSED, **minor(findings=(Reason.DOCUMENT_EXPIRED,))),
    rejects(Reason.GUARDIAN_UNUSABLE, **minor(problems=(Reason.BLURRED,))),
    rejects(Reason.GUARDIAN_MISMATCH, **minor(live_portrait_score=0.39)),
    rejects(Reason.GUARDIAN_MISMATCH, **minor(holder_score=0.41, is_barred=True)),
    rejects(Reason.GUARDIAN_MISMATCH, **minor(live_portrait_score=None, holder_score=None)),
    rejects(Reason.GUARDIAN_REFUSED, **minor(is_barred=True)),
    rejects(Reason.GUARDIAN_REFUSED, **minor(is_same_person=True)),
    rejects(Reason.GUARDIAN_REFUSED, **minor(is_grown_up=False)),
    rejects(Reason.BIRTH_DATE_MISSING, **minor(is_grown_up=None)),
    rejects(Reason.GUARDIAN_DUPLICATE, **minor(candidates=(other(0.65),))),
    reviews(Reason.GUARDIAN_DUPLICATE, **minor(candidates=(other(0.56),))),
    reviews(Reason.NAME_MISMATCH, **minor(name_differs=True)),
    reviews(Reason.WATCHLISTED, **minor(is_watchlisted=True)),
    reviews(
        Reason.NAME_MISMATCH,
        Reason.GUARDIAN_DUPLICATE,
        Reason.WATCHLISTED,
        **minor(**OTHERS, candidates=(other(0.56),)),
    ),
    rejects(Reason.GUARDIAN_MISMATCH, **minor(**OTHERS, live_portrait_score=0.39)),
    rejects(Reason.HOLDER_DECEASED, CaseKind.DECEASED, is_deceased=True),
    reviews(Reason.DECEASED_LOOK_ALIKE, CaseKind.DECEASED, deceased_look_alikes=("another",)),
    rejects(Reason.DOCUMENT_REPLACED, is_replaced=True),
    reviews(Reason.GUARDIAN_CHANGED, **minor(is_other=True)),
    approves(replacement=FREE),
    approves(replacement=replace(DOUBTED, is_confirmed=True)),
    reviews(Reason.REPLACEMENT_ASKED, replacement=DOUBTED),
    reviews(Reason.REPLACEMENT_ASKED, replacement=replace(FREE, name_differs=True)),
    reviews(Reason.REPLACEMENT_ASKED, replacement=replace(FREE, is_always_asked=True)),
    rejects(Reason.REPLACEMENT_REFUSED, replacement=ReplacementEvidence()),
    rejects(Reason.REPLACEMENT_REFUSED, replacement=replace(FREE, score=0.419)),
    rejects(Reason.REPLACEMENT_REFUSED, replacement=replace(FREE, score=None)),
    rejects(Reason.REPLACEMENT_REFUSED, replacement=replace(FREE, is_free=False)),
]
ALONE = [
    reviews(*ASKED, **EXCUSED),
    rejects(Reason.EXCEPTION_NOT_OFFERED, **EXCUSED | {"is_exception_offered": False}),
    rejects(Reason.EXCEPTION_LIMIT_REACHED, **EXCUSED | {"asked_exceptions": 5}),
    approves(proof=PROVEN),
    reviews(*ASKED, proof=replace(PROVEN, brings=Decision.REVIEW)),
    *(
        rejects(reason, proof=replace(PROVEN, problem=reason))
        for reason in Reason
        if reason.name.startswith("PROOF_")
    ),
]
"""Rows of exceptions, which change what others bring."""
LIVENESS_REASONS = [one for one in Reason if one.row.about is About.LIVENESS]
DOCUMENT_REASONS = ("DOCUMENT_INVALID", "DOCUMENT_EXPIRED", "DOCUMENT_BLOCKED", "ERASURE_PENDING")
BRINGING = (Decision.REVIEW, Decision.REJECTED)
POSSIBLE = (Reason.POSSIBLE_DUPLICATE, CaseKind.POSSIBLE_DUPLICATE)
STOLEN = (Reason.DOCUMENT_HELD_BY_ANOTHER_FACE, CaseKind.STOLEN_DOCUMENT)
DUPLICATE = (Reason.DUPLICATE_IDENTITY, CaseKind.DUPLICATE_IDENTITY)
ROWS = [
    approves(),
    *(rejects(one, document_findings=(one,)) for one in map(Reason, DOCUMENT_REASONS)),
    reviews(Reason.NAME_MISMATCH, name_differs=True),
    *(
        rejects(reason, **{f"{photograph}_problems": (reason,)})
        for photograph, reason in product(
            Photograph, sorted(IMAGE_REASONS - {Reason.SAME_PHOTOGRAPH})
        )
    ),
    rejects(Reason.SAME_PHOTOGRAPH, is_same_photograph=True),
    rejects(Reason.FACE_MISMATCH, live_portrait_score=0.399),
    approves(live_portrait_score=0.40),
    approves(Reason.NOT_SEARCHED, is_search_refused=True),
    rejects(*STOLEN, holder_score=0.419),
    approves(holder_score=0.42),
    approves(holder_score=None),
    rejects(*DUPLICATE, candidates=(other(0.65),)),
    reviews(*POSSIBLE, candidates=(other(0.649), other(0.56))),
    reviews(*POSSIBLE, candidates=(other(0.55),)),
    *(
        ({"liveness_problem": one, "liveness_brings": brings}, brings, (one,), ())
        for one, brings in product(LIVENESS_REASONS, BRINGING)
    ),
    *(
        ({"authority_problem": one, "authority_brings": brings}, brings, (one,), ())
        for one, brings in product([r for r in Reason if r.startswith("AUTHORITY_")], BRINGING)
    ),
    approves(authority_problem=Reason.AUTHORITY_UNAVAILABLE),
    reviews(Reason.WATCHLISTED, is_watchlisted=True),
    rejects(Reason.LINE_IN_USE, is_number_in_use=True),
    approves(open_lines=4),
    rejects(Reason.LINE_LIMIT_REACHED, open_lines=5),
    approves(person_lines=9),
    approves(person_lines=8, person_limit=9),
    rejects(Reason.PERSON_LIMIT_REACHED, person_lines=9, person_limit=9),
    rejects(Reason.CHANNEL_LIMIT_REACHED, person_lines=3, channel_limit=3),
    rejects(Reason.DAY_LIMIT_REACHED, day_lines=1, day_limit=1),
    rejects(Reason.APPROVAL_MISSING, approval_h=24),
    approves(
        open_lines=5,
        person_lines=9,
        person_limit=9,
        is_exempt=True,
        channel_limit=3,
        approval_h=24,
        day_lines=1,
        day_limit=1,
    ),
    *(({"people": PeoplePart(**people)}, *told) for people, *told in APART),
]
EXCEPTIONS = [
    rejects(Reason.CONSENT_WITHDRAWN, document_findings=(Reason.CONSENT_WITHDRAWN,)),
    *(({"people": PeoplePart(**people)}, *told) for people, *told in ALONE),
]


@pytest.mark.parametrize(("changes", "decision", "reasons", "cases"), [*ROWS, *EXCEPTIONS])
def test_each_row_of_the_table_decides_as_written(
    changes: dict[str, object],
    decision: Decision,
    reasons: tuple[Reason, ...],
    cases: tuple[CaseKind, ...],
) -> None:
    verdict = decide(change(HONEST, **changes))
    assert (verdict.decision, verdict.reasons, verdict.cases) == (decision, reasons, cases)


def test_the_rows_name_every_reason_that_there_is() -> None:
    told = {reason for _, _, reasons, _ in (*ROWS, *EXCEPTIONS) for reason in reasons}
    # The checks of a document give it, with the other findings on documents.
    assert told | {Reason.BIRTH_DATE_MISMATCH} == set(Reason)


def test_an_exception_is_never_approved_whatever_the_photographs_are() -> None:
    excused = PeoplePart(**EXCUSED)
    unusable = {
        "live_problems": (Reason.NO_FACE,),
        "portrait_problems": (Reason.NO_FACE,),
        "live_portrait_score": None,
        "searched": None,
    }
    for changes in ({}, unusable, {"live_portrait_score": 0.1}):
        verdict = decide(change(HONEST, people=excused, **changes))
        assert verdict.decision is Decision.REVIEW
        assert verdict.cases == (CaseKind.EXCEPTION,)
    duplicate = decide(change(HONEST, people=excused, candidates=(other(0.7),)))
    assert duplicate.decision is Decision.REJECTED
    assert duplicate.cases == (CaseKind.DUPLICATE_IDENTITY,)


def test_a_minor_without_a_face_is_approved_by_the_guardians_alone() -> None:
    waived = {"live_problems": (Reason.NO_FACE,), "portrait_problems": (Reason.NO_FACE,)}
    evidence = change(HONEST, live_portrait_score=None, searched=None, **waived)
    people = PeoplePart(**minor(), is_face_waived=True)
    assert decide(change(evidence, people=people)).decision is Decision.APPROVED
    not_compared = replace(people, guardian=replace(GUARDIAN, searched=None))
    with pytest.raises(ValueError, match="approves nobody"):
        decide(change(evidence, people=not_compared))


def test_evidence_from_before_guardians_were_asked_for_name_and_watch_list_replays() -> None:
    people = PeoplePart(**minor(candidates=(other(0.56),)))
    written = json.loads(json.dumps(change(HONEST, people=people).write()))
    for name in ("name_differs", "is_watchlisted"):
        del written["people"]["guardian"][name]
    assert decide(read_evidence(written)).reasons == (Reason.GUARDIAN_DUPLICATE,)


def test_what_holder_and_guardian_have_both_is_one_finding() -> None:
    people = PeoplePart(**minor(name_differs=True))
    verdict = decide(change(HONEST, name_differs=True, people=people))
    assert [one.reason for one in verdict.findings] == [Reason.NAME_MISMATCH]


ALL_TOLD = "1"
"""The policy that told everything beside an unusable photograph; replays ask it."""


@pytest.mark.parametrize("changes", [row[0] for row in ROWS])
@pytest.mark.parametrize(
    "fault", [{"live_problems": (Reason.BLURRED,)}, {"is_same_photograph": True}]
)
def test_beside_an_unusable_photograph_nothing_else_is_told(
    changes: dict[str, object], fault: dict[str, object]
) -> None:
    verdict = decide(change(HONEST, **changes | fault))
    assert set(verdict.reasons) <= {*IMAGE_REASONS, *LIVENESS_REASONS}
    assert (verdict.decision, verdict.cases) == (Decision.REJECTED, ())


@pytest.mark.parametrize("first", range(len(ROWS)))
def test_two_rows_together_keep_both_reasons_and_the_graver_decision(first: int) -> None:
    gravity = [Decision.APPROVED, Decision.REVIEW, Decision.REJECTED]
    for second in range(len(ROWS)):
        if set(ROWS[first][0]) & set(ROWS[second][0]):
            continue
        if Reason.REPLACEMENT_ASKED in (*ROWS[first][2], *ROWS[second][2]):
            continue  # the version that tells all asked nobody
        verdict = decide(change(HONEST, **ROWS[first][0], **ROWS[second][0]), ALL_TOLD)
        assert set(verdict.reasons) == {*ROWS[first][2], *ROWS[second][2]}
        assert gravity.index(verdict.decision) == max(
            gravity.index(ROWS[first][1]), gravity.index(ROWS[second][1])
        )
        assert set(verdict.cases) == {*ROWS[first][3], *ROWS[second][3]}


def test_an_image_reason_says_which_photograph_it_speaks_of() -> None:
    verdict = decide(change(HONEST, portrait_problems=(Reason.BLURRED,)))
    assert [finding.photograph for finding in verdict.findings] == [Photograph.PORTRAIT]


def test_beside_a_mismatch_a_second_face_is_told_first_and_brings_nothing_else() -> None:
    shown = change(HONEST, beside=(Photograph.PORTRAIT,))
    assert decide(shown).findings == ()
    verdict = decide(change(shown, live_portrait_score=0.1))
    assert verdict.reasons == (Reason.SEVERAL_FACES, Reason.FACE_MISMATCH)
    assert verdict.findings[0].photograph is Photograph.PORTRAIT
    assert verdict.decision is Decision.REJECTED


@pytest.mark.parametrize("changes", [{"live_portrait_score": None}, {"searched": None}])
def test_what_was_not_compared_is_never_approved(changes: dict[str, object]) -> None:
    evidence = change(HONEST, **changes)
    with pytest.raises(ValueError, match="without a comparison"):
        decide(evidence)
    blurred = change(evidence, live_problems=(Reason.BLURRED,))
    assert decide(blurred).decision is Decision.REJECTED


def test_a_decision_of_an_earlier_policy_replays_by_that_policy() -> None:
    told = change(
        HONEST,
        live_problems=(Reason.BLURRED,),
        name_differs=True,
        live_portrait_score=None,
        searched=None,
    )
    verdict = decide(told, ALL_TOLD)
    assert verdict.reasons == (Reason.NAME_MISMATCH, Reason.BLURRED)
    inputs = told.write()
    # As it was recorded then.
    del inputs["is_same_photograph"]
    record = EnrollmentRecord(
        id="e",
        sequence=0,
        carrier="blue",
        outlet="b1",
        document_id=None,
        decision=verdict.decision,
        reasons=tuple(verdict.reasons),
        evidence=RecordedEvidence(inputs=inputs, policy_version=ALL_TOLD),
        consent_ref=None,
        captured_at=None,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert replay(record).agrees


def test_a_decision_from_before_a_persons_limit_replays_without_one() -> None:
    full = change(HONEST, open_lines=5)
    inputs = full.write()
    limits = ("person_lines", "person_limit", "channel_limit", "day_lines", "day_limit")
    for name in (*limits, "approval_h", "is_approved", "is_exempt"):
        del inputs[name]
    read = read_evidence(inputs)
    assert read == full
    assert decide(read, "2").reasons == decide(full).reasons == (Reason.LINE_LIMIT_REACHED,)


def test_a_score_that_is_no_number_is_no_match() -> None:
    assert decide(change(HONEST, live_portrait_score=nan)).decision is Decision.REJECTED


scores = st.one_of(st.none(), st.floats(-1, 1))
evidence = st.builds(
    change,
    st.just(Evidence(THRESHOLDS, BLANK)),
    document_findings=st.lists(
        st.sampled_from([Reason.DOCUMENT_INVALID, Reason.DOCUMENT_EXPIRED]), unique=True
    ).map(tuple),
    name_differs=st.booleans(),
    live_problems=st.lists(st.sampled_from(sorted(IMAGE_REASONS)), unique=True).map(tuple),
    is_same_photograph=st.booleans(),
    live_portrait_score=scores,
    holder_score=scores,
    candidates=st.lists(
        st.builds(Candidate, st.integers(0, 2**62), st.uuids().map(str), st.floats(0.55, 1)),
        max_size=3,
    ).map(tuple),
    searched=st.one_of(st.none(), st.integers(0, 10**9)),
    is_number_in_use=st.booleans(),
    open_lines=st.integers(0, 9),
    is_watchlisted=st.booleans(),
    authority_problem=st.sampled_from([None, Reason.AUTHORITY_CONTRADICTS]),
    authority_brings=st.sampled_from([None, Decision.REVIEW]),
)


@given(evidence)
def test_recorded_evidence_decides_again_as_it_did(given_evidence: Evidence) -> None:
    recorded = json.loads(json.dumps(given_evidence.write()))
    assert read_evidence(recorded) == given_evidence
    try:
        verdict = decide(given_evidence)
    except ValueError:
        with pytest.raises(ValueError, match="without a comparison"):
            decide(read_evidence(recorded))
    else:
        assert decide(read_evidence(recorded)) == verdict
