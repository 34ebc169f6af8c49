"""The decision table: a pure function from evidence to decision and reasons.

A recorded decision can therefore be replayed from its recorded evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from engine.errors import NotFound
from engine.matching.calibration import Thresholds
from engine.registry.enrollments import EnrollmentRecord
from schema.cases import CaseKind
from schema.people import ExceptionCause
from schema.reasons import Decision, Photograph, Reason

POLICY_VERSION = "5"
"""Changes whenever the same evidence could lead to another decision, or to other reasons."""
_TELLS_ALL = frozenset({"1"})
"""Versions that gave findings on document and number beside an unusable photograph."""
_REJECTS_EXCUSED = frozenset({"1", "2", "3"})
"""Versions that rejected an exception for what is known of its document or number."""
_REPLACES_AT_ONCE = frozenset({"1", "2", "3", "4"})
"""Versions that let any face of the old holder replace a document, under whatever name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceScores:
    """The cosines of the live face, of the portrait and of their mean with one stored face; None
    where it was not compared, and where it is below what it was searched for at."""

    live: float | None = None
    portrait: float | None = None
    mean: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A reference of another document that looks like what is shown.

    `score` is the gravest of `each`, on the scale of fused comparisons (`on_fused_scale` of
    `Thresholds`); of the mean alone in decisions that have no `each`.
    """

    reference_id: int
    document_id: str
    score: float
    each: FaceScores | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardianEvidence:
    """What there is of the guardian who came with a minor; scores as in `Evidence`.

    `findings` are on the document, `is_same_person` where it is the minor's own, or the face is
    the minor's.
    """

    findings: tuple[Reason, ...] = ()
    problems: tuple[Reason, ...] = ()
    is_grown_up: bool | None = None
    """None where the date of birth is not known."""
    is_same_person: bool = False
    is_barred: bool = False
    """The document is blocked, replaced, about to be erased, or its holder reported dead."""
    is_other: bool = False
    """The minor's document has a face or another guardian already, and neither has come."""
    name_differs: bool = False
    is_watchlisted: bool = False
    has_all_lines: bool = False
    """As many with the carrier, own ones and those answered for, as one person may have."""
    verify: float
    live_portrait_score: float | None = None
    holder_score: float | None = None
    holder_each: FaceScores | None = None
    candidates: tuple[Candidate, ...] = ()
    searched: int | None = None
    authority_problem: Reason | None = None
    authority_brings: Decision | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacementEvidence:
    """What there is of a document that is said to be replaced: `score` and `each` are those of the
    faces shown with its references, as a holder's, None without any; `is_free` whether nothing
    else stands against it."""

    document_id: str | None = None
    score: float | None = None
    each: FaceScores | None = None
    is_free: bool = False
    name_differs: bool = False
    is_always_asked: bool = False
    """Whether two people decide of every one: a delay is set."""
    is_confirmed: bool = False
    """Two people have decided of this face and these two documents, and the delay has passed."""
    is_waiting: bool = False
    """They have, and it has not."""
    authority_problem: Reason | None = None
    authority_brings: Decision | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleEvidence:
    """What rules of their own go by: on minors, exceptions, the dead and replaced documents.

    `is_minor` is None where no rule asks, or no date of birth is known; `is_age_asked` tells
    which. `asked_exceptions` are the outlet's of late, before this one.
    """

    is_age_asked: bool = False
    is_minor: bool | None = None
    is_face_waived: bool = False
    """A minor who shows no face, where the guardian's is enough."""
    guardian: GuardianEvidence | None = None
    exception: ExceptionCause | None = None
    is_exception_offered: bool = False
    asked_exceptions: int = 0
    exception_limit: int = 0
    is_deceased: bool = False
    deceased_look_alikes: tuple[str, ...] = ()
    is_replaced: bool = False
    replacement: ReplacementEvidence | None = None

    @property
    def is_excused(self) -> bool:
        """Whether what is wrong with the photographs goes before two people."""
        return self.exception is not None and self.exception_refusal is None

    @property
    def exception_refusal(self) -> Reason | None:
        if self.exception is None:
            return None
        if not self.is_exception_offered:
            return Reason.EXCEPTION_NOT_OFFERED
        is_full = self.asked_exceptions >= self.exception_limit
        return Reason.EXCEPTION_LIMIT_REACHED if is_full else None


ORDINARY = PeopleEvidence()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that a decision depends on; scores are cosines, `None` where not compared.

    Of the faces shown the one that is least like the holder counts: `holder_score` is the lowest of
    `holder_each`, on the scale of fused comparisons, so that `thresholds.same_document` holds for
    it (`on_fused_scale` of `Thresholds`). Decisions without `holder_each` have the mean's alone.
    `candidates` are references under other documents with a score at or above
    `thresholds.review`, best first; `searched` is how many references were compared, `None`
    when the duplicate search did not run. The document was checked on the date `judged_on`, in
    the outlet's `time_zone`; decisions from before there were time zones have neither.
    """

    thresholds: Thresholds
    document_findings: tuple[Reason, ...] = ()
    judged_on: str | None = None
    time_zone: str | None = None
    name_differs: bool = False
    live_problems: tuple[Reason, ...] = ()
    portrait_problems: tuple[Reason, ...] = ()
    is_same_photograph: bool = False
    live_portrait_score: float | None = None
    holder_score: float | None = None
    holder_each: FaceScores | None = None
    candidates: tuple[Candidate, ...] = ()
    searched: int | None = None
    is_number_in_use: bool = False
    open_lines: int = 0
    line_limit: int = 5
    person_lines: int = 0
    """Lines in use over all carriers, under every document of the person."""
    person_limit: int = 0
    """Of these; 0: none, as in decisions from before there was one."""
    is_exempt: bool = False
    """Whether no limit holds for the document; asked only where one is reached."""
    is_watchlisted: bool = False
    liveness_problem: Reason | None = None
    """What is wrong with the evidence of liveness, where it is required."""
    liveness_brings: Decision | None = None
    judge_problem: Reason | None = None
    """What a judge of the picture itself found, where it is to decide."""
    judge_brings: Decision | None = None
    authority_problem: Reason | None = None
    """What the look-up of the document brought, where an authority is asked."""
    authority_brings: Decision | None = None
    people: PeopleEvidence | None = None
    """None where no rule treats this person apart."""
    excepted: tuple[Candidate, ...] = ()
    """Look-alikes whom people have judged to be other people than the document's holder, whom the
    face is more like, and no more alike than when that was judged: they bring no finding."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason, the decision that it alone would bring, and the photograph it is about."""

    reason: Reason
    decision: Decision
    photograph: Photograph | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gravest decision of all findings, the findings in the table's order, and what an
    analyst is asked to decide."""

    decision: Decision
    findings: tuple[Finding, ...]
    cases: tuple[CaseKind, ...]

    @property
    def reasons(self) -> tuple[Reason, ...]:
        return tuple(dict.fromkeys(finding.reason for finding in self.findings))


_GRAVITY = {Decision.APPROVED: 0, Decision.REVIEW: 1, Decision.REJECTED: 2}


def decide(evidence: Evidence, version: str = POLICY_VERSION) -> Verdict:
    """The whole table; every row that applies leaves a finding.

    An unusable photograph, or a face that is not shown to be alive, is the only thing told: who
    shows no face asks about nobody's document or number. `version` is the policy's that is applied.
    Raises `ValueError` for evidence that compared nothing and gives no reason for it: what was not
    looked at is never approved.
    """
    people = evidence.people or ORDINARY
    if people.exception_refusal is not None:
        refused = Finding(people.exception_refusal, Decision.REJECTED)
        return Verdict(Decision.REJECTED, (refused,), ())
    alive = _liveness_findings(evidence)
    photographs = [
        *_photograph_findings(evidence),
        *(one for one in alive if one.decision is Decision.REJECTED),
    ]
    if photographs and version not in _TELLS_ALL:
        return Verdict(Decision.REJECTED, tuple(photographs), ())
    each = (
        *_document_findings(evidence),
        *_authority_findings(evidence),
        *photographs,
        *(one for one in alive if one not in photographs),
        *_face_findings(evidence),
        *_line_findings(evidence),
        *_people_findings(people, evidence.thresholds, version),
    )
    # Of a minor and of the guardian the same may be found.
    findings = tuple(dict.fromkeys(each))
    if people.is_excused and version not in _REJECTS_EXCUSED:
        findings = tuple(map(_leave_to_people, findings))
    decision = max(
        (finding.decision for finding in findings),
        key=_GRAVITY.__getitem__,
        default=Decision.APPROVED,
    )
    guardian = people.guardian if people.is_face_waived else None
    shown = evidence if guardian is None else guardian
    is_compared = shown.searched is not None and (
        shown.live_portrait_score is not None or (guardian is not None and _is_known(guardian))
    )
    if people.is_excused and decision is Decision.REVIEW:
        is_compared = True
    if decision is not Decision.REJECTED and not is_compared:
        raise ValueError("evidence without a comparison approves nobody")
    kinds = (finding.reason.row.opens for finding in findings)
    asked = {CaseKind.EXCEPTION} if decision is Decision.REJECTED else set()
    return Verdict(
        decision,
        findings,
        tuple(dict.fromkeys(one for one in kinds if one is not None and one not in asked)),
    )


def _leave_to_people(finding: Finding) -> Finding:
    """Two people look at an exception, and what is granted is checked once more.

    Who shows no face of a document or number must not tell by the decision what is known of it.
    """
    if not finding.reason.is_of_holder:
        return finding
    return replace(finding, decision=Decision.REVIEW)


def _document_findings(evidence: Evidence) -> list[Finding]:
    findings = [Finding(reason, Decision.REJECTED) for reason in evidence.document_findings]
    if evidence.name_differs:
        findings.append(Finding(Reason.NAME_MISMATCH, Decision.REVIEW))
    return findings


def _authority_findings(
    looked_up: Evidence | GuardianEvidence | ReplacementEvidence,
) -> list[Finding]:
    problem, brings = looked_up.authority_problem, looked_up.authority_brings
    return [] if problem is None or brings is None else [Finding(problem, brings)]


def _photograph_findings(evidence: Evidence) -> list[Finding]:
    people = evidence.people or ORDINARY
    is_excused = people.is_excused or people.is_face_waived
    findings = (
        []
        if is_excused
        else [
            Finding(reason, Decision.REJECTED, photograph)
            for photograph, problems in (
                (Photograph.LIVE, evidence.live_problems),
                (Photograph.PORTRAIT, evidence.portrait_problems),
            )
            for reason in problems
        ]
    )
    if evidence.is_same_photograph:
        findings.append(Finding(Reason.SAME_PHOTOGRAPH, Decision.REJECTED))
    return findings


def _liveness_findings(evidence: Evidence) -> list[Finding]:
    told = (
        (evidence.liveness_problem, evidence.liveness_brings),
        (evidence.judge_problem, evidence.judge_brings),
    )
    findings = (
        Finding(problem, brings, Photograph.LIVE)
        for problem, brings in told
        if problem is not None and brings is not None
    )
    return list(dict.fromkeys(findings))


def _face_findings(evidence: Evidence) -> list[Finding]:
    thresholds = evidence.thresholds
    findings = []
    if _is_below(evidence.live_portrait_score, thresholds.verify):
        # Whose face is hurt may not be like their portrait: two people look at both.
        is_excused = evidence.people is not None and evidence.people.is_excused
        brings = Decision.REVIEW if is_excused else Decision.REJECTED
        findings.append(Finding(Reason.FACE_MISMATCH, brings))
    if _is_below(evidence.holder_score, thresholds.same_document):
        findings.append(Finding(Reason.DOCUMENT_HELD_BY_ANOTHER_FACE, Decision.REJECTED))
    best = max((candidate.score for candidate in evidence.candidates), default=None)
    if best is not None and best >= thresholds.certain:
        findings.append(Finding(Reason.DUPLICATE_IDENTITY, Decision.REJECTED))
    elif best is not None and best >= thresholds.review:
        findings.append(Finding(Reason.POSSIBLE_DUPLICATE, Decision.REVIEW))
    if evidence.is_watchlisted:
        findings.append(Finding(Reason.WATCHLISTED, Decision.REVIEW))
    return findings


def _line_findings(evidence: Evidence) -> list[Finding]:
    findings = []
    if evidence.is_number_in_use:
        findings.append(Finding(Reason.LINE_IN_USE, Decision.REJECTED))
    if evidence.open_lines >= evidence.line_limit and not evidence.is_exempt:
        findings.append(Finding(Reason.LINE_LIMIT_REACHED, Decision.REJECTED))
    if 0 < evidence.person_limit <= evidence.person_lines and not evidence.is_exempt:
        findings.append(Finding(Reason.PERSON_LIMIT_REACHED, Decision.REJECTED))
    return findings


def _people_findings(people: PeopleEvidence, thresholds: Thresholds, version: str) -> list[Finding]:
    found = [
        (people.is_deceased, Reason.HOLDER_DECEASED, Decision.REJECTED),
        (people.is_replaced, Reason.DOCUMENT_REPLACED, Decision.REJECTED),
        (bool(people.deceased_look_alikes), Reason.DECEASED_LOOK_ALIKE, Decision.REVIEW),
        (people.is_excused, Reason.EXCEPTION_ASKED, Decision.REVIEW),
        (
            people.is_age_asked and people.is_minor is None,
            Reason.BIRTH_DATE_MISSING,
            Decision.REJECTED,
        ),
    ]
    findings = [Finding(reason, brings) for applies, reason, brings in found if applies]
    if people.replacement is not None:
        findings += _replacement_findings(people.replacement, thresholds, version)
    if people.is_minor:
        findings += _guardian_findings(people.guardian, thresholds)
    return findings


def _replacement_findings(
    replacement: ReplacementEvidence, thresholds: Thresholds, version: str
) -> list[Finding]:
    """All lines move with a document: only a face beyond doubt under the same name does it alone,
    for a look-alike of one holder among many is soon found."""
    score = replacement.score
    if score is None or not score >= thresholds.same_document or not replacement.is_free:
        # Whoever is not its holder is not told what is known of it, either.
        return [Finding(Reason.REPLACEMENT_REFUSED, Decision.REJECTED)]
    is_sure = score >= thresholds.certain and not replacement.name_differs
    is_asked = replacement.is_always_asked or not is_sure
    if version in _REPLACES_AT_ONCE or replacement.is_confirmed or not is_asked:
        return _authority_findings(replacement)
    asked = Finding(Reason.REPLACEMENT_ASKED, Decision.REVIEW)
    return [*_authority_findings(replacement), asked]


def _guardian_findings(guardian: GuardianEvidence | None, thresholds: Thresholds) -> list[Finding]:
    """Of rejections one at most: who does not show the face of the guardian's document is told no
    more of it."""
    if guardian is None:
        return [Finding(Reason.GUARDIAN_MISSING, Decision.REJECTED)]
    best = max((one.score for one in guardian.candidates), default=None)
    certain, review = (
        best is not None and best >= least for least in (thresholds.certain, thresholds.review)
    )
    is_other = _is_below(guardian.live_portrait_score, guardian.verify)
    is_other = is_other or _is_below(guardian.holder_score, thresholds.same_document)
    rows = (
        (bool(guardian.findings), Reason.GUARDIAN_REFUSED),
        (bool(guardian.problems), Reason.GUARDIAN_UNUSABLE),
        (is_other or not _is_known(guardian), Reason.GUARDIAN_MISMATCH),
        (guardian.is_barred or guardian.is_same_person, Reason.GUARDIAN_REFUSED),
        (guardian.is_grown_up is None, Reason.BIRTH_DATE_MISSING),
        (guardian.is_grown_up is False, Reason.GUARDIAN_REFUSED),
        (certain, Reason.GUARDIAN_DUPLICATE),
        (guardian.has_all_lines, Reason.LINE_LIMIT_REACHED),
    )
    said = _authority_findings(guardian)
    refused = [Finding(reason, Decision.REJECTED) for applies, reason in rows if applies]
    refused += [one for one in said if one.decision is Decision.REJECTED]
    if refused:
        return refused[:1]
    doubts = (
        (guardian.is_other, Reason.GUARDIAN_CHANGED),
        (guardian.name_differs, Reason.NAME_MISMATCH),
        (review, Reason.GUARDIAN_DUPLICATE),
        (guardian.is_watchlisted, Reason.WATCHLISTED),
    )
    return [Finding(reason, Decision.REVIEW) for applies, reason in doubts if applies] + said


def _is_known(guardian: GuardianEvidence) -> bool:
    """Whether the face was compared with a portrait of the document, or with its holder's."""
    return guardian.live_portrait_score is not None or guardian.holder_score is not None


def _is_below(score: float | None, threshold: float) -> bool:
    # Not `<`: NaN is below every threshold.
    return score is not None and not score >= threshold


_NAMED = {
    "liveness_problem": Reason,
    "liveness_brings": Decision,
    "judge_problem": Reason,
    "judge_brings": Decision,
    "authority_problem": Reason,
    "authority_brings": Decision,
}
_BARE = ("findings", "model_digest", "calibration_version", "policy_version")
_BARE_INPUTS = ("thresholds", "searched")


@dataclass(frozen=True, slots=True)
class Replay:
    """A recorded decision beside what `decide` says of its evidence today."""

    recorded: Decision
    recorded_reasons: tuple[Reason, ...]
    replayed: Decision
    replayed_reasons: tuple[Reason, ...]
    recorded_policy: str

    @property
    def agrees(self) -> bool:
        return (self.recorded, self.recorded_reasons) == (self.replayed, self.replayed_reasons)


def write_evidence(evidence: Evidence) -> dict[str, Any]:
    """The evidence as JSON values."""
    written: dict[str, Any] = msgspec.to_builtins(evidence, enc_hook=float)
    return written


def read_evidence(recorded: Mapping[str, Any]) -> Evidence:
    """The evidence that `write_evidence` wrote, after a way through JSON."""
    fields = dict(recorded)
    fields["thresholds"] = Thresholds(**fields["thresholds"])
    for name in ("candidates", "excepted"):
        fields[name] = msgspec.convert(fields.get(name, ()), tuple[Candidate, ...])
    if fields.get("holder_each") is not None:
        fields["holder_each"] = FaceScores(**fields["holder_each"])
    if fields.get("people") is not None:
        fields["people"] = msgspec.convert(fields["people"], PeopleEvidence)
    for name in ("document_findings", "live_problems", "portrait_problems"):
        fields[name] = tuple(Reason(item) for item in fields[name])
    for name, kind in _NAMED.items():
        if fields.get(name) is not None:
            fields[name] = kind(fields[name])
    return Evidence(**fields)


def strip_evidence(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Evidence without what is about a person, for retention: the rules and the findings stay; no
    score, no candidate, nothing measured on a face."""
    inputs = recorded.get("inputs", {})
    stays = {name: recorded[name] for name in _BARE if name in recorded}
    return stays | {"inputs": {name: inputs[name] for name in _BARE_INPUTS if name in inputs}}


def write_findings(verdict: Verdict) -> list[dict[str, str]]:
    """The findings of a verdict for people: reason, what it brings, which photograph."""
    return [
        {"reason": finding.reason.value, "decision": finding.decision.value}
        | ({"photograph": finding.photograph.value} if finding.photograph else {})
        for finding in verdict.findings
    ]


def replay(enrollment: EnrollmentRecord) -> Replay:
    """Decides a recorded enrollment again from its recorded evidence, by the policy of its time.

    `NotFound` where retention has removed that.
    """
    if enrollment.expired_at is not None:
        raise NotFound("the evidence of this attempt has left by retention: it cannot be replayed")
    policy = str(enrollment.evidence["policy_version"])
    verdict = decide(read_evidence(enrollment.evidence["inputs"]), policy)
    return Replay(
        recorded=Decision(enrollment.decision),
        recorded_reasons=tuple(dict.fromkeys(Reason(item) for item in enrollment.reasons)),
        replayed=verdict.decision,
        replayed_reasons=verdict.reasons,
        recorded_policy=policy,
    )
