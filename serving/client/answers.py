"""What the service answers about faces, lines and itself; of more, the known part is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from serving.client.decisions import Candidate, ExpectedFalseCandidates


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
