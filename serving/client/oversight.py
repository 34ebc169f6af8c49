"""What the service answers about its thresholds and its audit chain."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from serving.client.decisions import Thresholds


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
