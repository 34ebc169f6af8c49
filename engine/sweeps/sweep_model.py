"""What a sweep is asked, what it finds, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Scope(StrEnum):
    """`all`: every pair of the gallery; `new`: those with a reference that the last sweep that
    ended did not cover."""

    ALL = "all"
    NEW = "new"


class SweepState(StrEnum):
    """`running`, `paused` and `queued` sweeps are alive; the others have ended."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


class GroupKind(StrEnum):
    """What a group of a sweep is about."""

    ONE_FACE = "one_face_many_documents"
    ONE_DOCUMENT = "one_document_many_faces"
    RESALE_RING = "resale_ring"
    """Many lines that changed face."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTerms:
    """What is asked for; `threshold` is a score (cosine)."""

    threshold: float
    scope: Scope = Scope.ALL


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepProgress:
    """How far a sweep is; `remaining_s` is None until something was measured."""

    comparisons: int = 0
    comparisons_total: int = 0
    pairs: int = 0
    remaining_s: float | None = None

    @property
    def share(self) -> float:
        """Of the comparisons, 0 to 1; an empty gallery is compared."""
        return self.comparisons / self.comparisons_total if self.comparisons_total else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRecord:
    """A sweep as the registry keeps it. `sequence` is the gallery's that it covers, None before it
    began; `summary` is what it found in counts, None before it is done."""

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


@dataclass(frozen=True, slots=True, eq=False)
class PairTable:
    """Pairs of references of different documents: int64[m], int64[m], float32[m]; left < right."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.left)


@dataclass(frozen=True, slots=True)
class LineFact:
    """A line as ranking sees it."""

    line_id: str
    carrier: str
    outlet: str
    opened_at: datetime
    status: str


@dataclass(frozen=True, slots=True)
class Identity:
    """One document in a group, with its lines, oldest first, and its open disputes."""

    document_id: str
    reference_ids: tuple[int, ...]
    lines: tuple[LineFact, ...] = ()
    disputes: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """A pair at or above the threshold inside a group, by document."""

    left: str
    right: str
    score: float


@dataclass(frozen=True, slots=True)
class RiskTerm:
    """One stated reason of a rank: what was counted, and the points that it brings."""

    name: str
    value: float
    points: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Identities that seem to be one person, or one document used by many.

    `key` depends on kind and member documents alone (of a ring, on its lines as well), so that a
    later sweep knows the group again.
    `weakest` is the link without which the group falls apart: the lowest of its maximum spanning
    tree; None where the kind has no links. `severed` are links from a member to a document that
    is not in the group, for it is linked to too few of the members: looked at, never followed.
    """

    key: str
    kind: GroupKind
    identities: tuple[Identity, ...]
    links: tuple[Link, ...]
    weakest: Link | None
    risk: float
    terms: tuple[RiskTerm, ...]
    severed: tuple[Link, ...] = ()
