"""What a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from engine.matching.calibration import CalibrationCurve, Rate
from engine.sweeps.summary import Summary
from engine.sweeps.sweep_model import Group, SweepTerms


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sweep:
    """What was swept: the gallery at `sequence`, with so many references."""

    id: str
    terms: SweepTerms
    made_at: datetime
    sequence: int
    references: int
    comparisons: int
    seconds: float
    same_document_pairs: int | None = None
    """Left out of `scores`: one person under one document is no news. None: not counted."""
    excepted_pairs: int | None = None
    """Left out as twins or mistakes that people confirmed. None: not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chance:
    """What strangers alone would bring, and where that is known from.

    `false_pairs` is expected of this sweep's comparisons at its threshold. `curve` is that of
    fused references; `source` says in words what it was measured on.
    """

    false_pairs: Rate
    curve: CalibrationCurve
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Pairs that people decided: `precision` is the share found true, with its interval."""

    pairs: int
    precision: Rate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReportInput:
    """Everything that a report shows.

    `scores`: float32[m], of every pair found, between different documents. `groups`: ranked,
    highest risk first. `chance` is None where the model has no calibration. `cases`: case id by
    group key. `carrier_names`: by carrier code. `crops`: aligned faces, JPEG or PNG, by document
    id; without it the report holds no face.
    """

    sweep: Sweep
    chance: Chance | None
    scores: NDArray[np.float32]
    groups: Sequence[Group]
    summary: Summary
    judged: Judged | None = None
    cases: Mapping[str, str] = field(default_factory=dict)
    carrier_names: Mapping[str, str] = field(default_factory=dict)
    crops: Mapping[str, bytes] = field(default_factory=dict, repr=False)
