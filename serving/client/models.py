"""What the service answers about faces, lines and itself; of more, the known part is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

# A decision of the service, as it is answered and as it is on record.


@dataclass(frozen=True, slots=True)
class Finding:
    """A reason of a decision; of one photograph (`live`, `portrait`) where it names one."""

    reason: str
    decision: str
    photograph: str | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """Cosines; None where that was not compared."""

    live_portrait: float | None = None
    holder: float | None = None
    best_candidate: float | None = None


@dataclass(frozen=True, slots=True)
class Thresholds:
    verify: float
    same_document: float
    review: float
    certain: float


@dataclass(frozen=True, slots=True)
class ExpectedFalseCandidates:
    """How many strangers such a search brings on average; at most `value` where `is_bound`."""

    value: float
    low: float
    high: float
    is_bound: bool


@dataclass(frozen=True, slots=True)
class Candidate:
    """A look-alike: to a tenant by a name of its own for that holder, to others by the ids."""

    holder: str | None
    score: float
    document_id: str | None = None
    reference_id: int | None = None


@dataclass(frozen=True, slots=True)
class DuplicateSearch:
    """The 1:N search; `candidates` is None where it did not run."""

    ran: bool
    searched: int | None = None
    gallery_sequence: int | None = None
    candidates: tuple[Candidate, ...] | None = None
    expected_false_candidates: ExpectedFalseCandidates | None = None


@dataclass(frozen=True, slots=True)
class Case:
    id: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrollment:
    """A decision (approved, review, rejected), durable before it was sent.

    `is_repeated` says that it is the stored answer of an earlier attempt.
    """

    enrollment_id: str
    decision: str
    reasons: tuple[Finding, ...]
    scores: Scores
    thresholds: Thresholds
    duplicate_search: DuplicateSearch
    cases: tuple[Case, ...]
    document_id: str | None
    line_id: str | None
    quality: dict[str, dict[str, float]]
    model_digest: str
    policy_version: str
    decided_at: datetime
    idempotency_key: str
    is_repeated: bool

    @property
    def is_approved(self) -> bool:
        return self.decision == "approved"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollmentRecord:
    """What is on record of an enrollment: no name, no number.

    Since `expired_at` scores, candidates, consent and capture time are gone by retention.
    """

    enrollment_id: str
    carrier: str
    outlet: str
    decision: str
    reasons: tuple[Finding, ...]
    scores: Scores
    thresholds: Thresholds
    duplicate_search: DuplicateSearch
    document_id: str | None
    quality: dict[str, dict[str, float]]
    model_digest: str
    policy_version: str
    consent_ref: str | None
    captured_at: datetime | None
    decided_at: datetime
    expired_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ItemError:
    """Why an item, or its `part`, was not judged; the other items are."""

    code: str
    message: str
    part: str | None = None
    problems: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ItemVerification:
    """1:1: a match at `score >= threshold`."""

    is_match: bool
    score: float
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemIdentification:
    """1:N: best first; an empty tuple is a true "nobody". `found` counts those not listed too."""

    candidates: tuple[Candidate, ...]
    found: int
    searched: int
    gallery_sequence: int
    threshold: float
    expected_false_candidates: ExpectedFalseCandidates | None = None


@dataclass(frozen=True, slots=True)
class MatchResult:
    """The answer to one item: what it asked for, or an error; both where one part failed."""

    id: str | None = None
    verification: ItemVerification | None = None
    identification: ItemIdentification | None = None
    error: ItemError | None = None


@dataclass(frozen=True, slots=True)
class MatchAnswer:
    items: tuple[MatchResult, ...]


@dataclass(frozen=True, slots=True)
class TemplateResult:
    """A template, or why there is none."""

    id: str | None = None
    template: bytes | None = field(default=None, repr=False)
    quality: dict[str, float] | None = None
    error: ItemError | None = None


@dataclass(frozen=True, slots=True)
class Templates:
    """One result for each photograph, in their order; all end at `expires_at`."""

    expires_at: datetime
    model_digest: str
    items: tuple[TemplateResult, ...]


@dataclass(frozen=True, slots=True)
class Verification:
    """A match at `score >= threshold`; no score where the holder has no reference."""

    is_match: bool
    score: float | None
    threshold: float
    document_id: str | None = None
    line_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line with its number masked; no number once it is closed."""

    line_id: str
    number: str | None
    carrier: str
    outlet: str
    status: str
    opened_at: datetime
    closed_at: datetime | None


@dataclass(frozen=True, slots=True)
class OpenCase:
    id: str
    kind: str
    score: float | None
    opened_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentifiedHolder:
    """The holder of one document, with the lines in use and the open cases."""

    document_id: str
    document_status: str
    score: float
    lines: tuple[Line, ...]
    cases: tuple[OpenCase, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identification:
    """Every holder at or above the threshold, best first; an empty tuple is a true "nobody"."""

    candidates: tuple[IdentifiedHolder, ...]
    found: int
    searched: int
    gallery_sequence: int
    threshold: float
    expected_false_candidates: ExpectedFalseCandidates | None = None


@dataclass(frozen=True, slots=True)
class HolderLines:
    """The lines under a document; neither lines nor score where the face is not its holder's."""

    is_holder: bool
    score: float | None
    threshold: float
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Dispute:
    case_id: str
    line_id: str
    opened_at: datetime


@dataclass(frozen=True, slots=True)
class ClosedLine:
    line_id: str
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureCertificate:
    """From `gallery_sequence` on no search sees the holder."""

    document_id: str
    references: int
    lines: int
    gallery_sequence: int
    erased_at: datetime
    audit_number: int
    audit_hash: str


@dataclass(frozen=True, slots=True)
class Check:
    is_ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """Ready where every check is; the phase is None where the registrar cannot be reached."""

    is_ready: bool
    phase: str | None
    checks: dict[str, Check]


@dataclass(frozen=True, slots=True)
class Version:
    version: str
    api: str
    model_digest: str


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """What the key stands for."""

    key_id: str
    role: str
    carrier: str | None
    outlet: str | None


# What the service answers fraud teams about people and cases.


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseProposal:
    """Who closes lines by it must be another than `by`."""

    outcome: str
    close_lines: tuple[str, ...]
    by: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRow:
    """A case as lists have it; alive while it is open, assigned or proposed."""

    case_id: str
    kind: str
    origin: str
    state: str
    assignee: str | None
    outcome: str | None
    proposal: CaseProposal | None
    merged_into: str | None
    document_ids: tuple[str, ...]
    line_ids: tuple[str, ...]
    enrollment_id: str | None
    sweep_id: str | None
    group_key: str | None
    score: float | None
    risk: float | None
    opened_at: datetime
    updated_at: datetime
    closed_at: datetime | None


@dataclass(frozen=True, slots=True)
class CasePage:
    """`next` is `after` of the next page, None on the last."""

    cases: tuple[CaseRow, ...]
    next: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseNote:
    at: datetime
    actor: str
    kind: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseDocument:
    document_id: str
    document_status: str
    is_suspect: bool
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedCase:
    """A case that went into another, with its own enrollment."""

    case_id: str
    kind: str
    origin: str
    enrollment_id: str | None
    score: float | None
    opened_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFile(CaseRow):
    """A case with its history, oldest first, and its documents."""

    notes: tuple[CaseNote, ...]
    merged: tuple[MergedCase, ...]
    documents: tuple[CaseDocument, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An enrollment in short."""

    enrollment_id: str
    carrier: str
    outlet: str
    decision: str
    reasons: tuple[str, ...]
    decided_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What stands under one document, masked; a score where a face was asked for."""

    document_id: str
    document_type: str
    document_status: str
    number: str
    name: str
    score: float | None
    lines: tuple[Line, ...]
    enrollments: tuple[Attempt, ...]
    cases: tuple[CaseRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """Whom was found, best first; an empty tuple is a true "nobody"."""

    people: tuple[Person, ...]
    found: int
    searched: int | None
    gallery_sequence: int | None
    threshold: float | None
    expected_false_candidates: ExpectedFalseCandidates | None


@dataclass(frozen=True, slots=True)
class Crop:
    """An aligned face as a JPEG or PNG file."""

    photograph: str
    image: bytes = field(repr=False)
    kept_until: datetime


@dataclass(frozen=True, slots=True)
class Crops:
    """None where crops are not kept, or not any more."""

    enrollment_id: str
    crops: tuple[Crop, ...]


# What the service answers about sweeps.


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepProposal:
    """The lowest calibrated threshold whose false pairs keep to the budget, or the highest."""

    threshold: float
    fmr: float
    false_pairs: ExpectedFalseCandidates
    budget: float
    is_within_budget: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a sweep would cost and bring."""

    threshold: float
    scope: str
    references: int
    new_references: int
    gallery_sequence: int
    comparisons: int
    duration_s: float
    memory_bytes: int
    false_pairs: ExpectedFalseCandidates
    is_supported: bool
    proposal: SweepProposal


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    comparisons: int
    comparisons_total: int
    share: float
    pairs: int
    remaining_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A sweep; alive while it is queued, running or paused. Lists leave out the summary."""

    sweep_id: str
    state: str
    threshold: float
    scope: str
    requested_by: str
    gallery_sequence: int | None
    progress: Progress
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    fault: str | None
    summary: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Sweeps:
    sweeps: tuple[Sweep, ...]


@dataclass(frozen=True, slots=True)
class RiskTerm:
    name: str
    value: float
    points: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """A group in counts."""

    key: str
    kind: str
    risk: float
    terms: tuple[RiskTerm, ...]
    identities: int
    lines: int
    carriers: int
    outlets: int
    disputes: int
    weakest_score: float | None
    severed_links: int = 0


@dataclass(frozen=True, slots=True)
class GroupPage:
    """The riskiest first; `next` is `after` of the next page, None on the last."""

    groups: tuple[GroupRow, ...]
    total: int
    next: int | None


@dataclass(frozen=True, slots=True)
class Link:
    left: str
    right: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLine:
    line_id: str
    carrier: str
    outlet: str
    opened_at: datetime
    status: str


@dataclass(frozen=True, slots=True)
class GroupIdentity:
    document_id: str
    lines: tuple[GroupLine, ...]
    disputes: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What an answer does not list."""

    identities: int
    lines: int
    links: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group with its members and links; `cases` are ids of open ones about its documents.

    `severed` are links to documents outside: shown, and not followed.
    """

    key: str
    kind: str
    risk: float
    terms: tuple[RiskTerm, ...]
    weakest: Link | None
    identities: tuple[GroupIdentity, ...]
    links: tuple[Link, ...]
    left_out: LeftOut
    cases: tuple[str, ...]
    severed: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionAt:
    """Of the judged pairs at or above a threshold; None where there are none."""

    threshold: float
    judged: int
    confirmed: int
    precision: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Of the judged pairs that sweeps had found; None where nothing was judged."""

    judged: int
    confirmed: int
    precision: float | None
    low: float | None
    high: float | None
    thresholds: tuple[PrecisionAt, ...]


# What the service answers about its thresholds and its audit chain.


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A threshold with its false match rate, `low` to `high` at 95 %, and its FNMR."""

    score: float
    fmr: float
    low: float
    high: float
    fnmr: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One kind of comparison; beyond the last point the rate is `fmr_bound` at most."""

    comparison: str
    mated_pairs: int
    nonmated_pairs: int
    highest_nonmated: float
    fmr_bound: float
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    source: str
    people: int
    photographs: int
    curves: tuple[Curve, ...]


@dataclass(frozen=True, slots=True)
class CalibratedThresholds:
    model_digest: str
    thresholds: Thresholds
    calibration: Calibration | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    number: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]
    hash: str


@dataclass(frozen=True, slots=True)
class AuditPage:
    """In the order of the chain; `next` is `after` of the next page, None on the last."""

    entries: tuple[AuditEntry, ...]
    head: int
    next: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainPart:
    """The entries above `after` up to `verified_to`; `next` is None at the end of the chain."""

    intact: bool
    after: int
    verified_to: int
    first_bad: int | None
    head: int
    next: int | None
