"""Fit a model's calibration: which threshold keeps which false match rate, and at what cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.accuracy.bootstrap import operating_points, rate_grid
from engine.accuracy.embedding import FaceExtractor, Progress, embed_folder
from engine.accuracy.evaluate import HIGHEST_FMR
from engine.accuracy.labelled import LabelledFolder
from engine.accuracy.pairs import PairScores, compare_all, compare_sides
from engine.accuracy.population_fit import fit_population
from engine.accuracy.templates import (
    Templates,
    fused_templates,
    limit_photographs,
    single_templates,
)
from engine.errors import CalibrationError
from engine.matching.thresholds import (
    Calibration,
    CalibrationCurve,
    Comparison,
    ThresholdRates,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from engine.accuracy.population import Population

FUSED_PHOTOGRAPHS = 8
"""Of one person, for fused templates: up to 28 of them, so that nobody fills the statistics."""
COARSE_RATES = (0.9, 0.5, 0.2)
"""Above the grid, so that low scores have an FMR too."""


def calibrate_folder(
    root: Path,
    extractor: FaceExtractor,
    *,
    source: str,
    population: bool = False,
    progress: Progress | None = None,
) -> tuple[Calibration, Population | None]:
    """Extract every photograph of `root` (a folder a person) and fit what `sosie calibrate` writes.

    Photographs without a face are left out. Raises `RequestError` or `CalibrationError` where the
    folder has too little to show.
    """
    embeddings = embed_folder(LabelledFolder.open(root), extractor, progress)
    vectors, people = embeddings.acquired()
    digest = extractor.model_digest
    calibration = calibrate(vectors, people, model_digest=digest, source=source)
    fitted = fit_population(vectors, people, model_digest=digest) if population else None
    return calibration, fitted


def calibrate(
    vectors: NDArray[np.float32],
    people: NDArray[np.int64],
    *,
    model_digest: str,
    source: str,
    seed: int = 0,
) -> Calibration:
    """Curves of single and of fused templates; `vectors` float32[n, d], unit rows.

    One-to-one compares all photographs. A fused template is made of two photographs of a person,
    every two of the first eight; mated ones share no photograph. `source` says in words what the
    photographs are. Raises `CalibrationError` where they are too few for an FMR of 0.1.
    """
    if not len(vectors):
        raise CalibrationError("no face was found: a calibration needs photographs of people")
    curves = {}
    for kind, scores in _compare(single_templates(vectors, people)):
        if not len(scores.mated):
            raise CalibrationError(
                f"no mated {kind} comparison: some people must have four photographs"
            )
        curves[kind] = _fit_curve(scores, seed)
    return Calibration(
        model_digest=model_digest,
        source=source,
        people=len(np.unique(people)),
        photographs=len(vectors),
        curves=curves,
    )


def choose_rates(calibration: Calibration) -> ThresholdRates:
    """The usual rates, each raised to the lowest of 1, 2, 5, 10, … that the data support."""
    usual = ThresholdRates()
    single = calibration.curve(Comparison.ONE_TO_ONE).lowest_fmr
    fused = calibration.curve(Comparison.FUSED).lowest_fmr
    return ThresholdRates(
        verify=_raise_rate(usual.verify, single),
        same_document=_raise_rate(usual.same_document, fused),
        review=_raise_rate(usual.review, fused),
        certain_margin=usual.certain_margin,
    )


def _raise_rate(usual: float, lowest: float) -> float:
    rounded = (step * 10.0**power for power in range(-9, 0) for step in (1, 2, 5))
    return max(usual, next(float(f"{rate:.0e}") for rate in rounded if rate >= lowest * (1 - 1e-9)))


def _compare(singles: Templates) -> Iterator[tuple[Comparison, PairScores]]:
    """One kind after the other: each takes hundreds of megabytes."""
    yield Comparison.ONE_TO_ONE, compare_all(singles)
    fused = fused_templates(singles, FUSED_PHOTOGRAPHS)
    few = limit_photographs(singles, FUSED_PHOTOGRAPHS)
    yield Comparison.FUSED_TO_ONE, compare_sides(fused, few)
    yield Comparison.FUSED, compare_all(fused)


def _fit_curve(scores: PairScores, seed: int) -> CalibrationCurve:
    grid = rate_grid(HIGHEST_FMR, len(scores.nonmated))
    return CalibrationCurve(
        people=int((scores.counts.sum(axis=0) > 0).sum()),
        mated_pairs=len(scores.mated),
        nonmated_pairs=len(scores.nonmated),
        stranger_pairs=scores.stranger_pairs,
        highest_nonmated=float(scores.nonmated.max()),
        points=operating_points(scores, np.concatenate([COARSE_RATES, grid]), seed=seed),
    )
