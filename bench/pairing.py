"""Figures of two runs side by side, and what became of each.

Where the same run always gives the same, a figure is held against a floor at once. Else it is a
`Doubt` until it is known how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from bench.blocks import key_all
from bench.direction import Better, better, is_other, varies
from bench.noise import Noise, Sample, sample_ratio, sample_value
from bench.report import Figure, Result

FLOOR_ONCE, FLOOR_COUNTED = 0.25, 0.01


class Verdict(StrEnum):
    """What became of a figure."""

    SAME = "same"
    BETTER = "better"
    WORSE = "worse"
    UNSURE = "unsure"
    CHANGED = "changed"
    GONE = "gone"
    NEW = "new"


@dataclass(frozen=True, slots=True)
class Pair:
    """One figure in both runs; `change` is relative, positive where it grew.

    `limit` is how far it might change to its bad side. `kind` is what was compared: the `value`,
    the `ratio` to the figure beside it, or a `promise`.
    """

    suite: str
    result: str
    figure: str
    unit: str
    kind: str
    old: float | None
    new: float | None
    verdict: Verdict
    change: float | None = None
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """A suite, the blocks of both runs, and the drift of the machine; None for another one."""

    suite: str
    blocks: tuple[int, int]
    drift: float | None


@dataclass(frozen=True, slots=True)
class Doubt:
    """A pair with a good and a bad side, not judged before it is known how many there are."""

    pair: Pair
    good: Better
    samples: tuple[Sample, Sample] | None
    drift: float

    def judge(self, noise: Noise) -> Pair:
        assert self.pair.old is not None
        assert self.pair.new is not None
        limit = noise.limit(*self.samples) if self.samples else FLOOR_ONCE
        limit = (1 + limit) * (1 + self.drift) - 1
        verdict = _judge(self.pair.old, self.pair.new, limit, self.good)
        is_known = self.samples is not None and self.pair.old * self.pair.new > 0
        if verdict is not Verdict.SAME and not is_known:
            verdict = Verdict.UNSURE
        return replace(self.pair, verdict=verdict, limit=limit)


def pair_figures(scene: Scene, old: Result, new: Result) -> Iterator[Pair | Doubt]:
    """Those of one result; where the machine is another, ratios in place of values."""
    after = dict(key_all(new.figures))
    before = dict(key_all(old.figures))
    for key, figure in before.items():
        other = after.get(key)
        if other is None or (other.value is None) != (figure.value is None):
            verdict = Verdict.NEW if figure.value is None else Verdict.GONE
            now = None if other is None else other.value
            yield _pair(scene, old, figure, "value", (figure.value, now), verdict)
        elif figure.value is None or other.value is None:
            continue
        elif not varies(figure):
            yield _compare_counts(scene, old, figure, other)
        elif scene.drift is not None:
            yield _compare_values(scene, old, figure, other)
        # The figure that all ratios are to has one of its own, always 1.
        elif figure.ratio not in {None, 1} and other.ratio is not None and not is_other(figure):
            yield _compare_ratios(scene, old, (figure, other), (old.figures[0], new.figures[0]))
    for key, figure in after.items():
        if key not in before:
            yield _pair(scene, new, figure, "value", (None, figure.value), Verdict.NEW)


def _compare_counts(scene: Scene, result: Result, old: Figure, new: Figure) -> Pair:
    """What every run gives anew, and so is held against a floor alone."""
    assert old.value is not None
    assert new.value is not None
    # One of a thousand that is no more is a fault, where it was all of them.
    floor = 0.0 if old.unit == "share" and old.value == 1 else FLOOR_COUNTED
    verdict = _judge(old.value, new.value, floor, better(old))
    pair = _pair(scene, result, old, "value", (old.value, new.value), verdict)
    return replace(pair, limit=floor)


def _compare_values(scene: Scene, result: Result, old: Figure, new: Figure) -> Pair | Doubt:
    samples = [
        sample_value(one, blocks) for one, blocks in zip((old, new), scene.blocks, strict=True)
    ]
    pair = _pair(scene, result, old, "value", (old.value, new.value), Verdict.SAME)
    return _doubt(pair, better(old), samples, scene.drift or 0.0)


def _compare_ratios(
    scene: Scene, result: Result, figures: tuple[Figure, Figure], bases: tuple[Figure, Figure]
) -> Pair | Doubt:
    samples = [sample_ratio(*one) for one in zip(figures, bases, scene.blocks, strict=True)]
    ratios = (figures[0].ratio, figures[1].ratio)
    pair = _pair(scene, result, figures[0], "ratio", ratios, Verdict.SAME)
    return _doubt(pair, Better.MORE, samples, 0.0)


def _doubt(
    pair: Pair, good: Better | None, samples: list[Sample | None], drift: float
) -> Pair | Doubt:
    if good is None:
        is_same = pair.old == pair.new
        return replace(pair, verdict=Verdict.SAME if is_same else Verdict.CHANGED)
    old, new = samples
    return Doubt(pair, good, (old, new) if old and new else None, drift)


def _judge(old: float, new: float, limit: float, good: Better | None) -> Verdict:
    if old == new:
        return Verdict.SAME
    if good is None:
        return Verdict.CHANGED
    if old == 0:
        return Verdict.BETTER if (new > 0) == (good is Better.MORE) else Verdict.WORSE
    # How many times as large the larger is: a time that doubles is as bad as a rate that halves.
    times = abs(new / old) if abs(new) >= abs(old) else abs(old / new) if new else math.inf
    if times - 1 <= limit:
        return Verdict.SAME
    return Verdict.BETTER if (new > old) == (good is Better.MORE) else Verdict.WORSE


def _pair(
    scene: Scene,
    result: Result,
    figure: Figure,
    kind: str,
    values: tuple[float | None, float | None],
    verdict: Verdict,
) -> Pair:
    old, new = values
    change = new / old - 1 if old and new is not None else None
    return Pair(scene.suite, result.name, figure.name, figure.unit, kind, old, new, verdict, change)
