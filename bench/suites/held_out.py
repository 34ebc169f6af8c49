"""Checks by cross-validation over people: what is fitted on some is measured on others.

Two halves of the people, each fitted on and measured on in turn, drawn anew five times: a smaller
fold would hold too few strangers for an FMR of 1e-4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bench.core.reports import Figure, Measured, Result, Setup, Skipped
from engine.accuracy.calibrate import fit_transform
from engine.accuracy.error_rates import MIN_EXPECTED_PAIRS
from engine.accuracy.pair_scores import (
    MOST_PHOTOGRAPHS,
    PairScores,
    Templates,
    compare_all,
    keep_people,
    limit_photographs,
)

REPEATS, FOLDS = 5, 2
VERIFY_FMR = 1e-4
HELD_OUT = "People not fitted on"
MEASURED = ("verify_fmr_least", "verify_fmr_most", "verify_fnmr")


def split_people(
    singles: Templates, *, seed: int, repeats: int = REPEATS, folds: int = FOLDS
) -> Iterator[tuple[Templates, Templates]]:
    """The templates to fit on and those to measure on, of other people, for every fold."""
    present = np.unique(singles.people)
    rng = np.random.default_rng(seed)
    for _ in range(repeats):
        for held in np.array_split(rng.permutation(present), folds):
            fitted = np.setdiff1d(present, held)
            yield keep_people(singles, fitted), keep_people(singles, held)


def check_verify(
    singles: Templates, shipped: float, seed: int
) -> tuple[Result, dict[str, Measured]]:
    """FMR and FNMR on people that the threshold was not fitted on; the shipped one's beside it.

    The FNMR is that of the first two photographs of each person.
    """
    few = limit_photographs(singles, MOST_PHOTOGRAPHS)
    people = len(np.unique(few.people))
    setup: Setup = {"people": people, "repeats": REPEATS, "folds": FOLDS, "seed": seed}
    strangers = (people // FOLDS) ** 2 / 2
    if strangers * VERIFY_FMR < MIN_EXPECTED_PAIRS:
        few_people = f"{people:,} people are too few for FMR {VERIFY_FMR:.0e} in half of them"
        result = Result(HELD_OUT, setup, (Figure.skip("verify", "share", few_people),))
        return result, dict.fromkeys(MEASURED, Skipped(few_people))
    rows = []
    for fitted, held in split_people(few, seed=seed):
        (threshold,) = compare_all(fitted).thresholds_at(np.array([VERIFY_FMR]))
        strangers_held, first_two = compare_all(held), compare_all(limit_photographs(held, 2))
        rows.append(
            [float(threshold)]
            + [strangers_held.fmr_at(one) for one in (threshold, shipped)]
            + [float((first_two.mated < one).mean()) for one in (threshold, shipped)]
        )
    found: NDArray[np.float64] = np.array(rows)
    names = ("threshold", "FMR", "FMR of the shipped one", "FNMR", "FNMR of the shipped one")
    units = ("score", "share", "share", "share", "share")
    figures = tuple(
        Figure(
            f"verify, {name}", unit, float(column.mean()), float(column.min()), float(column.max())
        )
        for name, unit, column in zip(names, units, found.T, strict=True)
    )
    fmrs = found[:, 1:3]
    worst = (float(fmrs.min()), float(fmrs.max()), float(found[:, 3:].mean(axis=0).max()))
    return Result(HELD_OUT, setup, figures), dict(zip(MEASURED, worst, strict=True))


TRANSFORM_FMR = 1e-5
GAINED = ("transform_gain",)


def check_transform(plain: Templates, seed: int) -> tuple[Result, dict[str, Measured]]:
    """FNMR at FMR 1e-5 of one photograph against one, without a transform and with one that was
    fitted on other people; `plain` are vectors as the model gives them."""
    few = limit_photographs(plain, MOST_PHOTOGRAPHS)
    people = len(np.unique(few.people))
    setup: Setup = {"people": people, "repeats": REPEATS, "folds": FOLDS, "seed": seed}
    if (people // FOLDS) ** 2 / 2 * TRANSFORM_FMR < MIN_EXPECTED_PAIRS:
        few_people = f"{people:,} people are too few for FMR {TRANSFORM_FMR:.0e} in half of them"
        result = Result(TRANSFORMED, setup, (Figure.skip("FNMR", "share", few_people),))
        return result, dict.fromkeys(GAINED, Skipped(few_people))
    rows = []
    for fitted, held in split_people(few, seed=seed):
        transform = fit_transform(fitted.vectors, fitted.people)
        moved = replace(held, vectors=transform.apply(held.vectors))
        rows.append([_fnmr_at(compare_all(one), TRANSFORM_FMR) for one in (held, moved)])
    without, with_it = np.array(rows).T
    gains = without - with_it
    figures = tuple(
        Figure(name, "share", float(found.mean()), float(found.min()), float(found.max()))
        for name, found in (
            ("FNMR without", without),
            ("FNMR with a transform", with_it),
            ("gain", gains),
        )
    )
    return Result(TRANSFORMED, setup, figures), {"transform_gain": float(gains.mean())}


TRANSFORMED = "A transform fitted on other people"


def _fnmr_at(scores: PairScores, rate: float) -> float:
    """The FNMR of a person at this FMR of these strangers."""
    missed = scores.missed(scores.thresholds_at(np.array([rate])))
    return float(missed.sum() / len(np.unique(scores.mated_people)))
