"""How near the synthetic population is to photographs: thresholds at false match rates of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.report import Figure, Result, Setup
from engine.accuracy.metrics import lowest_rate, threshold_at
from engine.accuracy.pairs import compare_all
from engine.accuracy.population import Population
from engine.accuracy.population_fit import LEAST_NONMATED_PAIRS, PHOTOGRAPHS
from engine.accuracy.templates import (
    Templates,
    fused_templates,
    limit_photographs,
    single_templates,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESEMBLANCE = "Synthetic population"
SYNTHETIC = 6_000
"""Of whom all pairs support a rate of 1e-6."""
RATES = (1e-3, 1e-4, 1e-5, 1e-6)


def compare_population(singles: Templates, seed: int) -> Result:
    """At most eight photographs of a person; none where they have too few pairs to show a tail."""
    setup: Setup = {"synthetic_people": SYNTHETIC, "most_photographs": PHOTOGRAPHS, "seed": seed}
    few = limit_photographs(singles, PHOTOGRAPHS)
    real = compare_all(few).nonmated
    if len(real) < LEAST_NONMATED_PAIRS:
        reason = f"{len(real):,} non-mated pairs don't show a tail"
        return Result(RESEMBLANCE, setup, (Figure.skip("thresholds", "score", reason),))
    population = Population.load("sface")
    faces = population.samples(population.people(SYNTHETIC, seed), seed)
    figures = [
        *_list("single, photographs", real),
        *_list("single, synthetic", _compare_people(faces)),
        *_list("fused, photographs", compare_all(fused_templates(few, PHOTOGRAPHS)).nonmated),
        *_list("fused, synthetic", _compare_people(population.references(SYNTHETIC, seed))),
    ]
    return Result(RESEMBLANCE, setup, tuple(figures))


def _compare_people(faces: NDArray[np.float32]) -> NDArray[np.float32]:
    return compare_all(single_templates(faces, np.arange(len(faces)))).nonmated


def _list(name: str, nonmated: NDArray[np.float32]) -> list[Figure]:
    return [
        Figure(f"{name}, FMR {rate:.0e}", "score", threshold_at(nonmated, rate))
        if rate >= lowest_rate(len(nonmated))
        else Figure.skip(f"{name}, FMR {rate:.0e}", "score", "too few pairs for this rate")
        for rate in RATES
    ]
