"""Checks by cross-validation over people: what is fitted on some is measured on others.

Two halves of the people, each fitted on and measured on in turn, drawn anew five times: a smaller
fold would hold too few strangers for an FMR of 1e-4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bench.core.reports import Figure, Measured, Result, Setup, Skipped
from engine.accuracy.calibrate import fit_transform
from engine.accuracy.error_rates import MIN_EXPECTED_PAIRS, threshold_at
from engine.accuracy.pair_scores import (
    MOST_PHOTOGRAPHS,
    PairScores,
    TemplateSet,
    compare_all,
    fuse,
    keep_people,
    limit_photographs,
)
from engine.matching.calibration import ONE_PERSON_FACTOR, Thresholds
from engine.matching.checks.picture import measure_agreement

REPEATS, FOLDS = 5, 2
VERIFY_FMR = 1e-4
HELD_OUT = "People not fitted on"
MEASURED = ("verify_fmr_least", "verify_fmr_most", "verify_fnmr")
SEVERAL_FRAMES = "Several live frames"
FRAMES, DRAWS = (2, 3, 5), 4
"""Frames that are fused, and how often photographs are drawn for them in each half."""
GAIN_OF_THREE = "three_frames_gain"


def _list_columns(
    rows: Iterable[Sequence[float]], names: Sequence[str]
) -> tuple[tuple[Figure, ...], NDArray[np.float64]]:
    """Shares by their names, with mean, least and most over the halves; and the rows."""
    found: NDArray[np.float64] = np.array(list(rows))
    return tuple(
        Figure(name, "share", float(column.mean()), float(column.min()), float(column.max()))
        for name, column in zip(names, found.T, strict=True)
    ), found


def split_people(
    singles: TemplateSet, *, seed: int, repeats: int = REPEATS, folds: int = FOLDS
) -> Iterator[tuple[TemplateSet, TemplateSet]]:
    """The templates to fit on and those to measure on, of other people, for every fold."""
    present = np.unique(singles.people)
    rng = np.random.default_rng(seed)
    for _ in range(repeats):
        for held in np.array_split(rng.permutation(present), folds):
            fitted = np.setdiff1d(present, held)
            yield keep_people(singles, fitted), keep_people(singles, held)


def check_verify(
    singles: TemplateSet, shipped: float, seed: int
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
        limits = (threshold, shipped)
        fmrs = [strangers_held.fmr_at(one) for one in limits]
        rows.append([*fmrs, *(float((first_two.mated < one).mean()) for one in limits)])
    names = ("FMR", "FMR of the shipped one", "FNMR", "FNMR of the shipped one")
    figures, found = _list_columns(rows, [f"verify, {name}" for name in names])
    fmr = found[:, :2]
    worst = (float(fmr.min()), float(fmr.max()), float(found[:, 2:].mean(axis=0).max()))
    return Result(HELD_OUT, setup, figures), dict(zip(MEASURED, worst, strict=True))


def name_frames(frames: int, what: str) -> str:
    """The name of a figure on so many frames fused."""
    return f"{frames} frames, {what}"


def check_frames(
    singles: TemplateSet, shipped: Thresholds, seed: int
) -> tuple[Result, dict[str, Measured]]:
    """FNMR of several live frames fused, against one portrait, and of the first frame alone.

    Frames are photographs of different days. Both are measured over the same people, those with
    enough photographs, at thresholds of FMR 1e-4 that the other half of the people gives. Beside
    them the FMR of the shipped `verify`, and how many are refused because the frames differ:
    honest ones, and those of whom one frame shows somebody else.
    """
    counts = np.diff(singles.starts())
    people = int((counts > 0).sum())
    setup: Setup = {"people": people, "repeats": REPEATS, "folds": FOLDS, "seed": seed}
    figures: list[Figure] = []
    gains: dict[int, Measured] = {}
    for frames in FRAMES:
        able = int((counts > frames).sum())
        setup[f"people_with_{frames + 1}_photographs"] = able
        if (able // FOLDS) * (people // FOLDS) * VERIFY_FMR < MIN_EXPECTED_PAIRS:
            few_people = f"{able:,} people with {frames + 1} photographs are too few"
            figures.append(Figure.skip(name_frames(frames, FUSED_FNMR), "share", few_people))
            gains[frames] = Skipped(few_people)
            continue
        named = [name_frames(frames, name) for name in FRAME_FIGURES]
        more, found = _list_columns(_measure_halves(singles, frames, shipped, seed), named)
        figures += more
        one, fused = found.mean(axis=0)[:2]
        # No miss at all is at least as good as half a miss.
        gains[frames] = float(one / max(fused, 0.5 / (able * REPEATS * DRAWS)))
    return Result(SEVERAL_FRAMES, setup, tuple(figures)), {GAIN_OF_THREE: gains[3]}


SINGLE_FNMR, FUSED_FNMR = "FNMR of the first alone", "FNMR"
FUSED_FMR = "FMR of `verify`"
REFUSED, MIXED = "refused as differing", "one frame of somebody else, not refused"
FRAME_FIGURES = (SINGLE_FNMR, FUSED_FNMR, FUSED_FMR, REFUSED, MIXED)


@dataclass(frozen=True, slots=True)
class _Draw:
    """`frames` float32[n, k, d] of whoever has enough photographs, `portraits` float32[m, d] of
    everybody, another photograph each; `own` int64[n] says which portrait is whose."""

    frames: NDArray[np.float32]
    portraits: NDArray[np.float32]
    own: NDArray[np.int64]

    def score(self, *, is_fused: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mated float32[n] and non-mated scores, of the frames fused or of the first alone."""
        probes = fuse(*self.frames.swapaxes(0, 1)) if is_fused else self.frames[:, 0]
        scores = probes @ self.portraits.T
        return scores[np.arange(len(probes)), self.own], scores[self._strangers]

    def measure_fmr(self, shipped: Thresholds) -> float:
        """The FMR of the shipped `verify`, which follows how much the fused frames differ."""
        lengths = np.linalg.norm(self.frames.mean(axis=1), axis=1)
        limits = np.array([[shipped.verify_for(float(length))] for length in lengths])
        limits = np.broadcast_to(limits, self._strangers.shape)[self._strangers]
        return float((self.score(is_fused=True)[1] >= limits).mean())

    @property
    def _strangers(self) -> NDArray[np.bool_]:
        found = np.ones((len(self.frames), len(self.portraits)), bool)
        found[np.arange(len(self.frames)), self.own] = False
        return found

    def measure_agreement(self, *, is_mixed: bool) -> NDArray[np.float64]:
        """float64[n]: how far the frames of each agree, where mixed with one of the next person."""
        frames = self.frames.copy()
        if is_mixed:
            frames[:, -1] = np.roll(self.frames[:, -1], 1, axis=0)
        return np.array([measure_agreement(one) for one in frames])


def _draw(singles: TemplateSet, count: int, rng: np.random.Generator) -> _Draw:
    starts = singles.starts()
    sizes = np.diff(starts)
    present = np.flatnonzero(sizes)
    rows = [starts[person] + rng.permutation(sizes[person]) for person in present]
    own = np.flatnonzero(sizes[present] > count)
    frames = np.stack([rows[place][:count] for place in own])
    # Whoever has enough photographs has one more than the frames.
    portraits = np.array([each[min(count, len(each) - 1)] for each in rows])
    return _Draw(singles.vectors[frames], singles.vectors[portraits], own)


def _measure_halves(
    singles: TemplateSet, frames: int, shipped: Thresholds, seed: int
) -> Iterator[tuple[float, ...]]:
    """A row of `FRAME_FIGURES` for each half of the people."""
    rng = np.random.default_rng(seed)
    for fitted, held in split_people(singles, seed=seed):
        fit = [_draw(fitted, frames, rng) for _ in range(DRAWS)]
        test = [_draw(held, frames, rng) for _ in range(DRAWS)]
        fnmr, one_person = [], 1.0
        for is_fused in (False, True):
            strangers = np.concatenate([one.score(is_fused=is_fused)[1] for one in fit])
            threshold = threshold_at(strangers, VERIFY_FMR)
            mated = np.concatenate([one.score(is_fused=is_fused)[0] for one in test])
            fnmr.append(float((mated < threshold).mean()))
            if not is_fused:
                one_person = threshold_at(strangers, VERIFY_FMR * ONE_PERSON_FACTOR)
        fmr = float(np.mean([one.measure_fmr(shipped) for one in test]))
        honest, mixed = (
            np.concatenate([one.measure_agreement(is_mixed=is_mixed) for one in test])
            for is_mixed in (False, True)
        )
        yield *fnmr, fmr, float((honest < one_person).mean()), float((mixed >= one_person).mean())


TRANSFORM_FMR = 1e-5
GAINED = ("transform_gain",)


def check_transform(plain: TemplateSet, seed: int) -> tuple[Result, dict[str, Measured]]:
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
    figures, found = _list_columns(
        ((plain, moved, plain - moved) for plain, moved in rows),
        ("FNMR without", "FNMR with a transform", "gain"),
    )
    return Result(TRANSFORMED, setup, figures), {"transform_gain": float(found[:, 2].mean())}


TRANSFORMED = "A transform fitted on other people"


def _fnmr_at(scores: PairScores, rate: float) -> float:
    """The FNMR of a person at this FMR of these strangers."""
    missed = scores.missed(scores.thresholds_at(np.array([rate])))
    return float(missed.sum() / len(np.unique(scores.mated_people)))
