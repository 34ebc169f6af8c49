"""What the service answers about sweeps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from serving.client.decisions import ExpectedFalseCandidates


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
