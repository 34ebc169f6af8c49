"""The contents of a sweep report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.cases.precision import Precision
from engine.matching.calibration import CalibrationCurve, Rate
from engine.sweeps.risk import OutletLiveness, SweepSummary
from engine.sweeps.sweep_model import Group, SweepTerms


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReportedSweep:
    """The sweep: the gallery at `sequence`, with so many references."""

    id: str
    terms: SweepTerms
    made_at: datetime
    sequence: int
    references: int
    comparisons: int
    seconds: float
    same_document_pairs: int | None = None
    """Left out of `scores`: one person under one document is expected. None: not counted."""
    excepted_pairs: int | None = None
    """Left out as confirmed twins or mistakes. None: not counted."""
    ranking: Mapping[str, Any] | None = None
    """Of a sweep with a budget, `budget.Ranking.to_dict`: how its groups were chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chance:
    """Pairs expected by chance, and the calibration behind them.

    `false_pairs` are expected of this sweep's comparisons at its threshold. `curve` is the one of
    fused references; `source` describes the data.
    """

    false_pairs: Rate
    curve: CalibrationCurve
    source: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReportInput:
    """Everything that a report shows.

    `scores`: float32[m], of every pair found between different documents; of a sweep with a budget,
    of those in its groups. `groups`: ranked,
    highest risk first. `chance` is None if the model has no calibration. `judged`: of all pairs
    judged so far. `cases`: case id by group key. `carrier_names`: by carrier code. `crops`: aligned
    faces, JPEG or PNG, by document id; without it the report holds no face.
    """

    sweep: ReportedSweep
    chance: Chance | None
    scores: NDArray[np.float32]
    groups: Sequence[Group]
    summary: SweepSummary
    liveness: Sequence[OutletLiveness] = ()
    """Outlets where liveness checks failed, ranked."""
    fraud_in_use: int = 0
    """Cases that were decided to be fraud and have lines in use, of whatever sweep."""
    judged: Precision | None = None
    cases: Mapping[str, str] = field(default_factory=dict)
    carrier_names: Mapping[str, str] = field(default_factory=dict)
    crops: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    console: str = ""
    """The address of the console, where a report may link its cases; empty: it names them alone."""
