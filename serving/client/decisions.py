"""A decision of the service, as it is answered and as it is on record."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


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
