"""Two runs side by side: what is worse by more than the noise that the runs themselves measured.

A figure is worse where it has changed to its bad side by more than `DEVIATIONS` times the noise of
both together, and by more than a floor. Noise is a standard deviation, as a share of the figure:
what blocks apart in time differed by, else what repeats in one process did, else nothing is known
of it; the less is known, the higher the floor. What no clock is in has a floor of its own. Between
different machines, or where the machine itself was faster or slower, ratios are compared, and what
no clock is in. A promise that held and does not
any more is a regression whatever the noise. What Sosie is compared with cannot regress.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from bench.blocks import key_all
from bench.checks import load_goals
from bench.direction import Better, better, is_other, is_timed
from bench.machine import Machine
from bench.report import Figure, Report, Result, Setup

DEVIATIONS = 3.0
FLOOR_BLOCKS, FLOOR_REPEATS, FLOOR_ONCE = 0.05, 0.10, 0.25
FLOOR_COUNTED = 0.01
DRIFT = 0.25
"""A machine whose own rates differ by more from one run to the next is as good as another."""
RULE = (
    f"worse by more than {DEVIATIONS:.0f} times the combined noise, and by more than "
    f"{FLOOR_BLOCKS:.0%} where both runs were made in blocks, {FLOOR_REPEATS:.0%} where one knows "
    f"its repeats alone, {FLOOR_ONCE:.0%} where one was measured once, {FLOOR_COUNTED:.0%} where "
    "no clock is in it"
)

# Quartiles of a normal distribution lie so many standard deviations apart.
_QUARTILES = 1.349
# Integers of a setup that say what came out, not what was asked for.
_OUTCOMES = frozenset({"requests_per_s", "mates", "kills", "decisions", "single_decisions", "seed"})


class Verdict(StrEnum):
    """What became of a figure."""

    SAME = "same"
    BETTER = "better"
    WORSE = "worse"
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
class Comparison:
    """All pairs, and what could not be compared, in words."""

    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]

    @property
    def regressions(self) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.pairs if pair.verdict is Verdict.WORSE)

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        counts = {verdict.value: 0 for verdict in Verdict}
        for pair in self.pairs:
            counts[pair.verdict.value] += 1
        return {
            "rule": RULE,
            "notes": list(self.notes),
            "counts": counts,
            "pairs": [asdict(pair) for pair in self.pairs],
        }


def compare(old: Mapping[str, Report], new: Mapping[str, Report]) -> Comparison:
    """Reports by suite; a suite that only one has is a note."""
    pairs: list[Pair] = []
    notes = [f"{suite}: only in the old run" for suite in old if suite not in new]
    notes += [f"{suite}: only in the new run" for suite in new if suite not in old]
    for suite, before in old.items():
        if suite in new:
            found, said = _compare_reports(suite, before, new[suite])
            pairs += found
            notes += said
    return Comparison(tuple(pairs), tuple(notes))


def noise_of(figure: Figure) -> tuple[float, float]:
    """Its relative standard deviation as far as it is known, and the floor that goes with it."""
    if not is_timed(figure):
        return figure.noise or 0.0, FLOOR_COUNTED
    if figure.noise is not None:
        return figure.noise, FLOOR_BLOCKS
    if figure.low is not None and figure.high is not None and figure.value:
        return abs((figure.high - figure.low) / _QUARTILES / figure.value), FLOOR_REPEATS
    return 0.0, FLOOR_ONCE


def _compare_reports(suite: str, old: Report, new: Report) -> tuple[list[Pair], list[str]]:
    other = _tell_machines_apart(old.machine, new.machine)
    is_like = other is None
    notes = [] if other is None else [f"{suite}: {other}: ratios are compared, times are not"]
    pairs: list[Pair] = []
    has_other_sizes = False
    after = dict(key_all(new.results))
    for key, result in key_all(old.results):
        if key not in after:
            notes.append(f"{suite}: the new run has no {result.name!r}")
            continue
        differing = _find_difference(result.setup, after[key].setup)
        if differing:
            notes.append(f"{suite}: {result.name!r} not compared: {differing}")
            has_other_sizes = True
            continue
        pairs += _compare_results(suite, result, after[key], is_like=is_like)
    # A speed that was promised depends on size and machine; that nothing is wrong does not.
    is_exact = has_other_sizes or not is_like
    return [*_compare_checks(suite, old, new, is_exact=is_exact), *pairs], notes


def _tell_machines_apart(old: Machine, new: Machine) -> str | None:
    """Why times of one say nothing of the other, in words; None where they do."""
    if not old.is_like(new):
        return f"other machines ({old.cpu}, {old.cores} cores; {new.cpu}, {new.cores} cores)"
    for name, before, now in (
        ("read GB/s", old.read_gb_per_s, new.read_gb_per_s),
        ("int8 GOPS", old.int8_gops, new.int8_gops),
    ):
        if before and now and max(before, now) > (1 + DRIFT) * min(before, now):
            return f"the machine itself had other rates ({name}: {before:g} before, {now:g} now)"
    return None


def _find_difference(old: Setup, new: Setup) -> str | None:
    """The first size that differs, in words."""
    for name, value in old.items():
        is_size = isinstance(value, int) and not isinstance(value, bool) and name not in _OUTCOMES
        if is_size and name in new and new[name] != value:
            return f"{name.replace('_', ' ')} {value:,} before, {new[name]} now"
    return None


def _compare_checks(suite: str, old: Report, new: Report, *, is_exact: bool) -> Iterator[Pair]:
    """Promises; only those that allow no error where `is_exact`."""
    name = old.suite or new.suite or suite
    exact = {goal.name for goal in load_goals() if goal.suite == name and goal.counts_errors}
    after = {check.name: check for check in new.checks}
    for check in old.checks:
        other = after.get(check.name)
        if other is None or check.holds is None or other.holds is None:
            continue
        if is_exact and check.name not in exact:
            continue
        verdict = Verdict.SAME
        if check.holds != other.holds:
            verdict = Verdict.BETTER if other.holds else Verdict.WORSE
        yield Pair(suite, "Promises", check.name, "", "promise", check.value, other.value, verdict)


def _compare_results(suite: str, old: Result, new: Result, *, is_like: bool) -> Iterator[Pair]:
    after = dict(key_all(new.figures))
    for key, figure in key_all(old.figures):
        other = after.get(key)
        if other is None or (other.value is None) != (figure.value is None):
            verdict = Verdict.NEW if figure.value is None else Verdict.GONE
            value = None if other is None else other.value
            yield _pair(suite, old, figure, "value", figure.value, value, verdict)
            continue
        if figure.value is None or other.value is None:
            continue
        if is_like or not is_timed(figure):
            yield _compare_values(suite, old, figure, other)
        # The figure that all ratios are to has one of its own, always 1.
        is_told = figure.ratio not in {None, 1} and other.ratio is not None
        if is_told and not is_other(figure):
            bases = (old.figures[0], new.figures[0])
            yield _compare_ratios(suite, old, figure, other, bases)
    for key, figure in key_all(new.figures):
        if key not in dict(key_all(old.figures)):
            yield _pair(suite, new, figure, "value", None, figure.value, Verdict.NEW)


def _compare_values(suite: str, result: Result, old: Figure, new: Figure) -> Pair:
    assert old.value is not None
    assert new.value is not None
    limit = _limit([noise_of(old), noise_of(new)])
    verdict = _judge(old.value, new.value, limit, better(old))
    return _pair(suite, result, old, "value", old.value, new.value, verdict, limit)


def _compare_ratios(
    suite: str, result: Result, old: Figure, new: Figure, bases: tuple[Figure, Figure]
) -> Pair:
    """A ratio that has no noise of its own has that of the two figures that it is made of."""
    assert old.ratio is not None
    assert new.ratio is not None
    noises = []
    for figure, base in zip((old, new), bases, strict=True):
        if figure.ratio_noise is not None:
            noises.append((figure.ratio_noise, FLOOR_BLOCKS))
        else:
            noises += [noise_of(figure), noise_of(base)]
    limit = _limit(noises)
    verdict = _judge(old.ratio, new.ratio, limit, Better.MORE)
    return _pair(suite, result, old, "ratio", old.ratio, new.ratio, verdict, limit)


def _limit(noises: Sequence[tuple[float, float]]) -> float:
    combined = math.hypot(*(noise for noise, _ in noises))
    return max(DEVIATIONS * combined, *(floor for _, floor in noises))


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
    suite: str,
    result: Result,
    figure: Figure,
    kind: str,
    old: float | None,
    new: float | None,
    verdict: Verdict,
    limit: float | None = None,
) -> Pair:
    change = new / old - 1 if old and new is not None else None
    return Pair(
        suite, result.name, figure.name, figure.unit, kind, old, new, verdict, change, limit
    )
