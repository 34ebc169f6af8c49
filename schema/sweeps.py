"""The types of sweeps: request, record, progress, groups."""

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from msgspec import Meta

from schema import frozen
from schema.decisions import Interval
from schema.decoding import Value


class SweepScope(StrEnum):
    """`all`: every pair of the gallery; `new`: pairs with a reference that the last done sweep did
    not cover."""

    ALL = "all"
    NEW = "new"


class SweepState(StrEnum):
    """States of a sweep; after `done`, `cancelled` and `failed` it has ended."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


class GroupKind(StrEnum):
    """The kinds of groups."""

    ONE_FACE = "one_face_many_documents"
    ONE_DOCUMENT = "one_document_many_faces"
    RESALE_RING = "resale_ring"
    """Many lines that changed face."""


@frozen(kw_only=True)
class SweepTerms:
    """Threshold (a cosine) and scope of a sweep, and the model of the references compared; None in
    sweeps before that was recorded.

    With a `budget`, so many groups of one face at most are kept, those first that are suspicious
    beyond their score; see `engine.sweeps.budget`.
    """

    threshold: float
    scope: SweepScope = SweepScope.ALL
    model_digest: str | None = None
    budget: int | None = None


@frozen(kw_only=True)
class SweepProgress:
    """Progress of a sweep; `remaining_s` is None until it can be estimated."""

    comparisons: int = 0
    comparisons_total: int = 0
    pairs: int = 0
    remaining_s: float | None = None

    @property
    def share(self) -> float:
        """Share of the comparisons made, 0 to 1; 1 for an empty gallery."""
        return self.comparisons / self.comparisons_total if self.comparisons_total else 1.0


@frozen(kw_only=True)
class SweepRecord:
    """A sweep in the registry. `sequence` is the gallery state that it covers, None before it
    began; `summary` has its counts, None before it is done."""

    id: str
    state: SweepState
    terms: SweepTerms
    requested_by: str
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    sequence: int | None = None
    progress: SweepProgress = field(default_factory=SweepProgress)
    summary: Mapping[str, Any] | None = None
    fault: str | None = None


class LineFact(Value):
    """A line as it is ranked by."""

    line_id: str
    carrier: str
    outlet: str
    opened_at: datetime
    status: str


class EstimatedThreshold(Value, kw_only=True):
    """The lowest calibrated threshold whose expected false pairs are within `budget`, a total.

    If none is, the highest calibrated one, with `is_within_budget` False.
    """

    threshold: float
    fmr: float
    false_pairs: Interval
    budget: float
    is_within_budget: bool


@frozen
class Identity:
    """One document in a group, with its lines, oldest first, and its open disputes."""

    document_id: str
    reference_ids: tuple[int, ...]
    lines: tuple[LineFact, ...] = ()
    disputes: int = 0


@frozen
class Link:
    """Two documents whose faces score at or above the threshold."""

    left: str
    right: str
    score: float


@frozen
class RiskTerm:
    """One stated reason of a rank: what was counted, and the points that it brings.

    In a sweep with a budget `value` is a ratio, and five points are a factor of ten.
    """

    name: str
    value: float
    points: float


@frozen(kw_only=True)
class Group:
    """Identities that seem to be one person, or one document used by many.

    `key` depends only on kind and member documents (of a ring, also on its lines), so that a later
    sweep recognises the group. `weakest` is the link without which the group falls apart, the
    lowest of its maximum spanning tree; None for a kind without links. `severed` are links from a
    member to a document outside the group, which is linked to too few members: they are shown, but
    never followed.
    """

    key: str
    kind: GroupKind
    identities: tuple[Identity, ...]
    links: tuple[Link, ...]
    weakest: Link | None
    risk: float
    terms: tuple[RiskTerm, ...]
    severed: tuple[Link, ...] = ()

    @property
    def lines(self) -> list[LineFact]:
        """The lines of all its identities."""
        return [line for one in self.identities for line in one.lines]


class Outcomes(Value):
    """How the closed cases of a kind, or of a month, ended."""

    name: Annotated[str, Meta(description="a kind, or a month as 2026-11")]
    cases: int
    fraud: int
    twins: int
    mistake: int
    unfounded: int
