"""Two runs side by side: what is worse by more than the noise that the runs themselves measured.

A figure is worse where it has changed to its bad side by more than chance changes one of so many
figures (`bench/core/compare.py`), and by more than a floor. One that was measured once has no noise to be
held against: that it changed much is told, and is no verdict. Between different machines, or where
the machine itself was much faster or slower, ratios are compared in place of values; where it was a
little faster or slower, so much more is allowed. A promise that held and does not any more is a
regression; of a speed that lies close to its goal on both sides it is told, and is no verdict. What
Sosie is compared with cannot regress.

What is missing is no success: a suite that the later run has no report of, and a promise of no
error that was measured and is not any more, fail the comparison, as a regression does.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any

from bench.core.machine import Machine
from bench.core.reports import Check, Figure, Report, Result, Setup, key_all, load_goals
from engine.errors import RequestError

# How far a figure may change from one run to the next by chance, hundreds of them judged at
# once.
#
# What blocks of a run differ by says how a figure trembles, but three blocks say it badly: of
# hundreds of figures some have three that agree by luck, and any other run then seems a change.
# So each figure's variance is drawn towards that of its suite, as far as its blocks are few
# (Smyth, "Linear models and empirical Bayes methods for assessing differential expression",
# 2004), a change is held against Student's distribution of what is then known, and the chance of
# a false alarm is shared by all figures that are judged (Bonferroni), so that it is one of the
# whole comparison.
#
# A run that was made in one block knows its repeats alone: how far their median may lie off,
# which is less than how far one of them does, and nothing of how the next process differs, for
# which there is a wide floor.

CHANCE = 0.05
"""That two runs of one thing are told apart at all, where noise is what was measured."""
FLOOR_BLOCKS, FLOOR_REPEATS = 0.05, 0.25
"""Nobody cares for less; repeats in one process don't know how the next process differs."""

# The variance of the suite counts as much as so many blocks more.
_PRIOR = 4.0
_FEW = 8
# Of a logarithm: more than any figure changes, and a number still.
_MOST = 50.0
# A median of so many draws from a normal distribution, in standard deviations of one.
_MEDIANS = {1: 1.0, 2: 0.7071, 3: 0.6698, 4: 0.5460, 5: 0.5356}
# Quartiles of a normal distribution lie so many standard deviations apart; of few draws less.
_QUARTILES, _NEARER = 1.349, 1.25


@dataclass(frozen=True, slots=True)
class Sample:
    """Variance of a figure in a run, as a share of its value, and from how many it is known.

    It is that of one of the `blocks`; where these are 0, that of the value itself, known from
    `repeats` in one process.
    """

    variance: float
    blocks: int
    repeats: int = 0

    @property
    def freedom(self) -> int:
        return max(self.blocks, self.repeats, 1) - 1

    @property
    def error(self) -> float:
        """Variance of the value that stands in the report: of blocks it is the median."""
        return self.variance * _median_of(self.blocks) ** 2 if self.blocks else self.variance


def sample_value(figure: Figure, blocks: int) -> Sample | None:
    """What is known of a value measured in so many blocks; None where it was measured once."""
    if figure.noise is not None:
        # Blocks of one process, as the kernels are timed in, don't know the next one either.
        return Sample(figure.noise**2, blocks if blocks > 1 else 0)
    if figure.low is None or figure.high is None:
        return None
    # One repeat has quartiles too, all of them itself.
    if not figure.value or figure.low == figure.high:
        return None
    width = (figure.high - figure.low) / figure.value
    if figure.repeats is None:
        # Of one repeat, which is more than of their median.
        return Sample((width / _QUARTILES) ** 2, 0)
    repeats = max(figure.repeats, 2)
    deviation = width / _QUARTILES / (1 - _NEARER / repeats) * _median_of(repeats)
    return Sample(deviation**2, 0, repeats)


def sample_ratio(figure: Figure, base: Figure, blocks: int) -> Sample | None:
    """The same of its ratio; from repeats alone it has the variances of both figures."""
    if figure.ratio_noise is not None:
        return Sample(figure.ratio_noise**2, blocks if blocks > 1 else 0)
    own, other = sample_value(figure, 1), sample_value(base, 1)
    if own is None or other is None:
        return None
    return Sample(own.variance + other.variance, 0, min(own.repeats, other.repeats))


@dataclass(frozen=True, slots=True)
class Noise:
    """What chance does to the figures of a suite, of `judged` that are judged in all."""

    prior: float | None
    judged: int

    def limit(self, old: Sample, new: Sample) -> float:
        """How far a figure may change, as a share: 0.1 for a tenth more, or a tenth less of it."""
        quantile = 1 - CHANCE / max(self.judged, 1)
        if old.blocks and new.blocks:
            variance, freedom = self._moderate(old, new)
            wide = math.sqrt(variance) * math.hypot(_median_of(old.blocks), _median_of(new.blocks))
            floor = FLOOR_BLOCKS
        else:
            wide, floor = math.sqrt(old.error + new.error), FLOOR_REPEATS
            freedom = max(float(old.freedom + new.freedom), _PRIOR)
        return max(math.expm1(min(_find_quantile(quantile, freedom) * wide, _MOST)), floor)

    def _moderate(self, old: Sample, new: Sample) -> tuple[float, float]:
        """Variance and freedom of both runs together, drawn towards the suite's."""
        own = old.freedom + new.freedom
        variance = (old.variance * old.freedom + new.variance * new.freedom) / own
        if self.prior is None:
            return variance, own
        return (self.prior * _PRIOR + variance * own) / (_PRIOR + own), _PRIOR + own


def find_prior(samples: Sequence[Sample]) -> float | None:
    """The usual variance of a suite's figures; None where they are too few to have one."""
    known = [one for one in samples if one.blocks > 1 and one.variance > 0]
    if len(known) < _FEW:
        return None
    freedom = statistics.median(one.freedom for one in known)
    # The median of chi square over its freedom, by Wilson and Hilferty.
    return statistics.median(one.variance for one in known) / (1 - 2 / (9 * freedom)) ** 3


@lru_cache
def _find_quantile(chance: float, freedom: float) -> float:
    """Student's: below it lies this share."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, chance))


def _median_of(blocks: int) -> float:
    return _MEDIANS.get(blocks, math.sqrt(math.pi / 2 / blocks))


# Which way a figure is better, read from its unit and name; most counts are neither.
#
# Reports say what was measured, and targets which way a promise goes; between two reports a
# figure that nobody promised must be judged too.


class Better(StrEnum):
    """What an improvement looks like."""

    MORE = "more"
    LESS = "less"


_TIME = re.compile(r"(ns|us|ms|s|min)( of a core|/\w+)?")
_SIZE = re.compile(r"(bytes|kB|MB|GB|MiB)(/\w+| written|/min)?")
_RATE = re.compile(r".*/s|GOPS")
_SHARES = frozenset({"share", "share of pairs", "of 1", "of pairs together", "of the best"})
_WRONG = re.compile(
    r"missed|lost|doubled|wrong|differ|removed$|chains joined|too few|not seen|answers of another"
)
_WORSE_SHARES = re.compile(r"^FTA|^FNMR|refused|growth|failed|review")
# Said of the load, the data or the machine, not of the product.
_GIVEN = re.compile(r"offered|sent$|late, p99|reading|^codes$|meanwhile$|slope|samples around")
# No clock is in their unit, and yet they are of how a run went.
_UNSTEADY = re.compile(
    r"peak of memory|memory (at|after)|growth|slope|refused|answers of another|failures to|"
    r"given up|requests answered|of them enrollments|acknowledged|decided before the kill"
)
_OTHERS = re.compile(
    r"FAISS|usearch|hnswlib|pgvector|deepface|face_recognition|numpy|MatMulInteger|python -c|"
    r"dequantised|PReLU as four|connected components|pairs alone|Serve's own proxy"
)


def better(figure: Figure) -> Better | None:
    """None where a change is neither good nor bad by itself, or is not Sosie's."""
    name, unit = figure.name, figure.unit
    if is_other(figure) or _GIVEN.search(name):
        return None
    if unit == "FNMR" or unit.startswith("largest"):
        return Better.LESS
    if unit in _SHARES:
        return Better.LESS if _WORSE_SHARES.search(name) else Better.MORE
    if _RATE.fullmatch(unit):
        return Better.MORE
    if _TIME.fullmatch(unit) or _SIZE.fullmatch(unit) or unit == "times":
        return Better.LESS
    return Better.LESS if _WRONG.search(name) else None


def is_other(figure: Figure) -> bool:
    """Whether it is of what Sosie is compared with."""
    return _OTHERS.search(figure.name) is not None


def varies(figure: Figure) -> bool:
    """Whether the same run again gives another value: a clock or a scheduler is in it."""
    unit = figure.unit
    is_time = _TIME.fullmatch(unit) or _RATE.fullmatch(unit) or unit in {"times", "of the best"}
    return bool(is_time) or _UNSTEADY.search(figure.name) is not None


# Figures of two runs side by side, and what became of each.
#
# Where the same run always gives the same, a figure is held against a floor at once. Else it is
# a `Doubt` until it is known how many there are.

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


DRIFT = 0.25
"""A machine whose own rates differ by more from one run to the next is as good as another."""
RULE = (
    f"worse by more than two runs of one thing differ by chance, {CHANCE:.0%} for all figures "
    f"together, and by more than {FLOOR_BLOCKS:.0%} where both runs were made in blocks, "
    f"{FLOOR_REPEATS:.0%} where one knows its repeats alone, {FLOOR_COUNTED:.0%} where every run "
    f"should give the same; unsure by more than {FLOOR_ONCE:.0%} where one was measured once"
)

# What of a setup came out, and was not asked for; and how often something was repeated.
_OUTCOMES = frozenset(
    {
        "requests_per_s",
        "mates",
        "mated_pairs",
        "nonmated_pairs",
        "kills",
        "decisions",
        "single_decisions",
        "visitors",
        "left_out_near_a_threshold",
        "longest_output",
        "without a face",
    }
)
_REPEATS = frozenset({"rounds", "blocks"})
# A choice of Sosie's own: a worse one is a regression, which must not hide behind another name.
_CHOSEN = frozenset({"kernel"})
# What is compared from one release to the next may be a version of what it runs on.
_VERSION = re.compile(r"\d+\.\d+\.\d+")
# A threshold that was rounded is the same one.
_NEAR = 0.01


@dataclass(frozen=True, slots=True)
class Comparison:
    """All pairs, what could not be compared, and what the later run lacks, in words."""

    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]
    missing: tuple[str, ...] = ()

    @property
    def regressions(self) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.pairs if pair.verdict is Verdict.WORSE)

    @property
    def holds(self) -> bool:
        """Whether nothing is worse and nothing is missing."""
        return not self.regressions and not self.missing

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        counts = {verdict.value: 0 for verdict in Verdict}
        for pair in self.pairs:
            counts[pair.verdict.value] += 1
        return {
            "rule": RULE,
            "notes": list(self.notes),
            "missing": list(self.missing),
            "counts": counts,
            "pairs": [asdict(pair) for pair in self.pairs],
        }


@dataclass(slots=True)
class _Findings:
    """What a comparison gathers, suite by suite."""

    pairs: list[Pair | Doubt] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def compare(
    old: Mapping[str, Report], new: Mapping[str, Report], absent: Mapping[str, str] | None = None
) -> Comparison:
    """Reports by suite; `absent` says why the new run has none of one.

    `RequestError` where nothing of one run can be held against the other.
    """
    found = _Findings()
    for suite, before in old.items():
        if suite in new:
            _compare_reports(suite, before, new[suite], found)
        else:
            why = (absent or {}).get(suite, "it was not run")
            found.missing.append(f"{suite}: the new run has no report of it: {why}")
    found.notes += [f"{suite}: only in the new run" for suite in new if suite not in old]
    pairs = tuple(_judge_all(found.pairs))
    if all(pair.verdict in {Verdict.GONE, Verdict.NEW} for pair in pairs):
        reasons = [*found.missing, *found.notes, "the reports have no figure in common"]
        raise RequestError(f"nothing to compare: {reasons[0]}")
    return Comparison(pairs, tuple(found.notes), tuple(found.missing))


def _judge_all(found: list[Pair | Doubt]) -> Iterator[Pair]:
    """Each by the usual noise of its suite, and by how many could be a false alarm."""
    known = [one for one in found if isinstance(one, Doubt) and one.samples]
    samples: dict[str, list[Sample]] = {}
    for one in known:
        samples.setdefault(one.pair.suite, []).extend(one.samples or ())
    # A suite with few figures trembles as all of them do.
    usual = find_prior([one for mine in samples.values() for one in mine])
    priors = {suite: find_prior(mine) or usual for suite, mine in samples.items()}
    for each in found:
        if isinstance(each, Pair):
            yield each
        else:
            yield each.judge(Noise(priors.get(each.pair.suite), len(known)))


def _compare_reports(suite: str, old: Report, new: Report, found: _Findings) -> None:
    other = _tell_machines_apart(old.machine, new.machine)
    is_like = other is None
    if other is not None:
        found.notes.append(f"{suite}: {other}: ratios are compared, times are not")
    has_other_sizes = False
    after = dict(key_all(new.results))
    scene = Scene(
        suite, (old.blocks, new.blocks), _find_drift(old.machine, new.machine) if is_like else None
    )
    pairs: list[Pair | Doubt] = []
    for key, result in key_all(old.results):
        if key not in after:
            found.notes.append(f"{suite}: the new run has no {result.name!r}")
            continue
        differing = _find_difference(result.setup, after[key].setup)
        if differing:
            found.notes.append(f"{suite}: {result.name!r} not compared: {differing}")
            has_other_sizes = True
            continue
        found.notes += _note_choices(suite, result.setup, after[key].setup, found.notes)
        pairs += pair_figures(scene, result, after[key])
    # A speed that was promised depends on size and machine; that nothing is wrong does not.
    _compare_checks(suite, old, new, found, is_exact=has_other_sizes or not is_like)
    found.pairs += pairs


def _list_rates(old: Machine, new: Machine) -> Iterator[tuple[str, float, float]]:
    """What both runs measured of the machine itself."""
    for name, before, now in (
        ("read GB/s", old.read_gb_per_s, new.read_gb_per_s),
        ("int8 GOPS", old.int8_gops, new.int8_gops),
    ):
        if before and now:
            yield name, before, now


def _find_drift(old: Machine, new: Machine) -> float:
    """How many times as fast the machine was in one run as in the other, less 1."""
    rates = [max(before, now) / min(before, now) for _, before, now in _list_rates(old, new)]
    return max(rates, default=1.0) - 1


def _tell_machines_apart(old: Machine, new: Machine) -> str | None:
    """Why times of one say nothing of the other, in words; None where they do."""
    if not old.is_like(new):
        return f"other machines ({old.cpu}, {old.cores} cores; {new.cpu}, {new.cores} cores)"
    for name, before, now in _list_rates(old, new):
        if max(before, now) > (1 + DRIFT) * min(before, now):
            return f"the machine itself had other rates ({name}: {before:g} before, {now:g} now)"
    return None


def _find_difference(old: Setup, new: Setup) -> str | None:
    """The first setting that differs, in words: then another thing was measured."""
    for name, value in old.items():
        is_setting = name not in _OUTCOMES | _REPEATS | _CHOSEN
        if is_setting and name in new and _differ(value, new[name]):
            return _say_difference(name, value, new[name])
    return None


def _differ(old: str | float, new: str | float) -> bool:
    if isinstance(old, str) or isinstance(new, str):
        return old != new and not _VERSION.search(str(old))
    if isinstance(old, int) and isinstance(new, int):
        return old != new
    return not math.isclose(old, new, rel_tol=_NEAR)


def _say_difference(name: str, old: str | float, new: str | float) -> str:
    before, now = (
        f"{one:,}" if isinstance(one, int) and not isinstance(one, bool) else str(one)
        for one in (old, new)
    )
    return f"{name.replace('_', ' ')} {before} before, {now} now"


def _note_choices(suite: str, old: Setup, new: Setup, told: list[str]) -> Iterator[str]:
    """What Sosie chose otherwise, once a suite."""
    for name in _CHOSEN & old.keys() & new.keys():
        said = f"{suite}: {_say_difference(name, old[name], new[name])}: compared all the same"
        if old[name] != new[name] and said not in told:
            yield said


def _compare_checks(
    suite: str, old: Report, new: Report, found: _Findings, *, is_exact: bool
) -> None:
    """Promises; only those that allow no error where `is_exact`."""
    name = old.suite or new.suite or suite
    exact = {goal.name for goal in load_goals() if goal.suite == name and goal.counts_errors}
    after = {check.name: check for check in new.checks}
    for check in old.checks:
        if check.holds is None or (is_exact and check.name not in exact):
            continue
        other = after.get(check.name)
        if other is None or other.holds is None:
            why = "the new run does not know it" if other is None else other.skipped
            said = f"{suite}: {check.name} was measured and is not any more: {why}"
            (found.missing if check.name in exact else found.notes).append(said)
            continue
        verdict = _judge_promise(check, other, allows_none=check.name in exact)
        values = (check.value, other.value)
        found.pairs.append(Pair(suite, "Promises", check.name, "", "promise", *values, verdict))


def _judge_promise(old: Check, new: Check, *, allows_none: bool) -> Verdict:
    """A speed close to its goal is now on one side of it, now on the other: no verdict."""
    if old.holds == new.holds:
        return Verdict.SAME
    if new.holds:
        return Verdict.BETTER
    values = sorted(one.value or 0.0 for one in (old, new))
    is_near = values[0] > 0 and values[1] <= (1 + FLOOR_REPEATS) * values[0]
    return Verdict.UNSURE if is_near and not allows_none else Verdict.WORSE
