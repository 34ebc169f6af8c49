"""What people find and keep of cases: judged pairs, crops, and how a transaction changes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from engine.casework.model import CaseNote, Outcome
from engine.sweeps.model import SweepRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPair:
    """Two documents, left < right, of which people said what they are.

    `score` is the best between their references, `sweep_id` the sweep that had found them.
    """

    left_document: str
    right_document: str
    outcome: Outcome
    score: float
    case_id: str
    sweep_id: str | None
    decided_at: datetime
    decided_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CropRecord:
    """An aligned face of an enrollment, without its image; `photograph` is `live` or `portrait`."""

    id: str
    enrollment_id: str
    photograph: str
    kept_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCrop(CropRecord):
    """With its image as a JPEG or PNG file, which is sealed."""

    image: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskChanges:
    """What a transaction does for the fraud desk; a part of `records.Changes`.

    Sweeps and judged pairs take the place of those of the same id or documents.
    """

    case_notes: Sequence[tuple[str, CaseNote]] = ()
    """Case id and an entry of its history; those of one case in their order."""
    judged: Sequence[JudgedPair] = ()
    sweeps: Sequence[SweepRecord] = ()
    crops: Sequence[NewCrop] = ()
    restored_lines: Sequence[str] = ()
    """Disputed lines that are active again."""
