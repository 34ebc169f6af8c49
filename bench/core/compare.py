"""Two runs side by side: what is worse by more than the noise of both, and what is missing.

bench/README.md has the rules: floors, Student's interval (scipy) over blocks, ratios in place of
values between machines, promises, and what counts as missing.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from bench.core.machine import Machine
from bench.core.reports import Check, Figure, Report, Result, Setup, key_all, load_goals
from engine.errors import RequestError

CHANCE = 0.05
"""That two runs of one thing are told apart at all, where both were made in blocks."""
FLOOR_BLOCKS, FLOOR_REPEATS, FLOOR_ONCE, FLOOR_COUNTED = 0.05, 0.25, 0.25, 0.01
DRIFT = 0.25
"""A machine whose own rates differ by more from one run to the next is as good as another."""
RULE = (
    f"worse by more than two runs of one thing differ by chance, {CHANCE:.0%} for all figures "
    f"together, and by more than {FLOOR_BLOCKS:.0%} where both runs were made in blocks, "
    f"{FLOOR_REPEATS:.0%} where one knows its repeats alone, {FLOOR_COUNTED:.0%} where every run "
    f"should give the same; unsure by more than {FLOOR_ONCE:.0%} where one was measured once"
)

# The usual variance of a suite counts as much as so many blocks more, if so many figures show it.
_PRIOR_BLOCKS, _PRIOR_FIGURES = 4, 8
# The variance of a median is so many times that of a mean.
_MEDIAN = math.pi / 2
# A choice of Sosie's own: a worse one is a regression, which must not hide behind another name.
_CHOSEN = frozenset({"kernel"})
# What of a setup came out, and was not asked for; and how often something was repeated.
_NOT_SETTINGS = _CHOSEN | {
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
    "rounds",
    "blocks",
}
# What is compared from one release to the next may be a version of what it runs on.
_VERSION = re.compile(r"\d+\.\d+\.\d+")
# A threshold that was rounded is the same one.
_NEAR = 0.01

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
    r"FAISS|usearch|NumKong|hnswlib|pgvector|deepface|face_recognition|numpy|MatMulInteger|"
    r"python -c|dequantised|connected components|pairs alone|Serve's own proxy"
)


class Better(StrEnum):
    """What an improvement looks like."""

    MORE = "more"
    LESS = "less"


class Verdict(StrEnum):
    """The verdict on a figure."""

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
        verdicts = [pair.verdict for pair in self.pairs]
        counts = {verdict.value: verdicts.count(verdict) for verdict in Verdict}
        return {"rule": RULE, "counts": counts} | asdict(self)


@dataclass(frozen=True, slots=True)
class _Unjudged:
    """A pair with a good and a bad side, before it is known how many there are.

    `variance` is that of one block, as a share, pooled over both runs; None where one of them has a
    single block. `reach` is how many times apart the values lie where their quartiles touch; None
    where one of them was measured once.
    """

    pair: Pair
    good: Better
    blocks: tuple[int, int]
    variance: float | None
    reach: float | None
    drift: float

    def judge(self, prior: float | None, judged: int) -> Pair:
        """The verdict, by the usual variance of the suite and the number of figures judged."""
        old, new = self.pair.old, self.pair.new
        assert old is not None
        assert new is not None
        limit = FLOOR_ONCE
        if self.variance is not None:
            limit = max(self._find_width(self.variance, prior, judged), FLOOR_BLOCKS)
        elif self.reach is not None:
            limit = max(self.reach - 1, FLOOR_REPEATS)
        limit = (1 + limit) * (1 + self.drift) - 1
        verdict = _judge(old, new, limit, self.good)
        is_known = (self.variance is not None or self.reach is not None) and old * new > 0
        if verdict is not Verdict.SAME and not is_known:
            verdict = Verdict.UNSURE
        return replace(self.pair, verdict=verdict, limit=limit)

    def _find_width(self, variance: float, prior: float | None, judged: int) -> float:
        """Half of the interval of new over old, less 1."""
        from scipy.stats import t as student

        freedom = sum(self.blocks) - 2
        if prior is not None:
            variance = (prior * _PRIOR_BLOCKS + variance * freedom) / (_PRIOR_BLOCKS + freedom)
            freedom += _PRIOR_BLOCKS
        error = math.sqrt(variance * _MEDIAN * sum(1 / blocks for blocks in self.blocks))
        confidence = max(1 - 2 * CHANCE / judged, 0)
        # Of a logarithm 50 is more than anything changes, and a number still.
        return math.expm1(min(student.interval(confidence, freedom, scale=error or 1e-9)[1], 50))


@dataclass(slots=True)
class _Findings:
    """What a comparison gathers, suite by suite."""

    pairs: list[Pair | _Unjudged] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def better(figure: Figure) -> Better | None:
    """Whether less or more of a figure is better, by its unit and name.

    None where neither is, and for figures that are not Sosie's.
    """
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


def _judge_all(found: Sequence[Pair | _Unjudged]) -> Iterator[Pair]:
    """Each by the usual noise of its suite, and by how many could be a false alarm."""
    open_pairs = [one for one in found if isinstance(one, _Unjudged)]
    variances: dict[str, list[float]] = {}
    for one in open_pairs:
        if one.variance:
            variances.setdefault(one.pair.suite, []).append(one.variance)
    # A suite with few figures has the noise that all of them have.
    usual = _find_prior([one for mine in variances.values() for one in mine])
    priors = {suite: _find_prior(mine) or usual for suite, mine in variances.items()}
    for each in found:
        if isinstance(each, Pair):
            yield each
        else:
            yield each.judge(priors.get(each.pair.suite, usual), len(open_pairs))


def _find_prior(variances: Sequence[float]) -> float | None:
    return statistics.median(variances) if len(variances) >= _PRIOR_FIGURES else None


def _compare_reports(suite: str, old: Report, new: Report, found: _Findings) -> None:
    drift, other = _compare_machines(old.machine, new.machine)
    if drift is None:
        found.notes.append(f"{suite}: {other}: ratios are compared, times are not")
    has_other_sizes = False
    after = dict(key_all(new.results))
    for key, result in key_all(old.results):
        if key not in after:
            found.notes.append(f"{suite}: the new run has no {result.name!r}")
            continue
        differing = _find_difference(result.setup, after[key].setup)
        if differing:
            found.notes.append(f"{suite}: {result.name!r} not compared: {differing}")
            has_other_sizes = True
            continue
        for said in _note_choices(suite, result.setup, after[key].setup):
            if said not in found.notes:
                found.notes.append(said)
        found.pairs += _pair_figures(suite, result, after[key], (old.blocks, new.blocks), drift)
    # A speed that was promised depends on size and machine; that nothing is wrong does not.
    _compare_checks(suite, old, new, found, is_exact=has_other_sizes or drift is None)


def _pair_figures(
    suite: str, old: Result, new: Result, blocks: tuple[int, int], drift: float | None
) -> Iterator[Pair | _Unjudged]:
    """Figures of one result; where the machine is another (no drift), ratios in place of values."""
    after, before = dict(key_all(new.figures)), dict(key_all(old.figures))

    def pair(
        figure: Figure, values: tuple[float | None, float | None], verdict: Verdict, kind: str
    ) -> Pair:
        was, now = values
        change = now / was - 1 if was and now is not None else None
        return Pair(suite, old.name, figure.name, figure.unit, kind, was, now, verdict, change)

    for key, figure in before.items():
        other = after.get(key)
        if other is None or (other.value is None) != (figure.value is None):
            verdict = Verdict.NEW if figure.value is None else Verdict.GONE
            now = None if other is None else other.value
            yield pair(figure, (figure.value, now), verdict, "value")
            continue
        if figure.value is None or other.value is None:
            continue
        good, values = better(figure), (figure.value, other.value)
        if not varies(figure):
            # One of a thousand that is no more is a fault, where it was all of them.
            floor = 0.0 if figure.unit == "share" and figure.value == 1 else FLOOR_COUNTED
            verdict = _judge(*values, floor, good)
            yield replace(pair(figure, values, verdict, "value"), limit=floor)
        elif good is None:
            if drift is not None:
                verdict = Verdict.SAME if figure.value == other.value else Verdict.CHANGED
                yield pair(figure, values, verdict, "value")
        elif drift is not None:
            variance = _pool((figure.noise, other.noise), blocks)
            same = pair(figure, values, Verdict.SAME, "value")
            yield _Unjudged(same, good, blocks, variance, _reach(figure, other), drift)
        # The figure that all ratios are to has one of its own, always 1.
        elif figure.ratio not in {None, 1} and other.ratio is not None:
            ratios = (figure.ratio, other.ratio)
            variance = _pool((figure.ratio_noise, other.ratio_noise), blocks)
            reach = _reach(figure, other, old.figures[0], new.figures[0])
            same = pair(figure, ratios, Verdict.SAME, "ratio")
            yield _Unjudged(same, Better.MORE, blocks, variance, reach, 0.0)
    for key, figure in after.items():
        if key not in before:
            yield pair(figure, (None, figure.value), Verdict.NEW, "value")


def _pool(deviations: tuple[float | None, float | None], blocks: tuple[int, int]) -> float | None:
    """Variance of one block over both runs."""
    old, new = deviations
    # Blocks of one process, as the kernels are timed in, say nothing of the next process.
    if old is None or new is None or min(blocks) < 2:
        return None
    weights = [count - 1 for count in blocks]
    return (weights[0] * old**2 + weights[1] * new**2) / sum(weights)


def _reach(*figures: Figure) -> float | None:
    """How many times their values all their far quartiles are together."""
    reaches = []
    for one in figures:
        if not one.value or one.low is None or one.high is None or one.low == one.high:
            return None
        below = one.value / one.low if one.low > 0 else 1.0
        reaches.append(max(one.high / one.value, below, 1 + (one.noise or 0.0)))
    return math.prod(reaches)


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


def _compare_machines(old: Machine, new: Machine) -> tuple[float | None, str]:
    """How many times as fast the machine was in one run as in the other, less 1; None where times
    of one say nothing of the other, and why."""
    if not old.is_like(new):
        return None, f"other machines ({old.cpu}, {old.cores} cores; {new.cpu}, {new.cores} cores)"
    drift = 0.0
    for name, before, now in (
        ("read GB/s", old.read_gb_per_s, new.read_gb_per_s),
        ("int8 GOPS", old.int8_gops, new.int8_gops),
        ("float32 Gflop/s", old.float_gflops, new.float_gflops),
    ):
        if before and now:
            drift = max(drift, max(before, now) / min(before, now) - 1)
        if drift > DRIFT:
            return (
                None,
                f"the machine itself had other rates ({name}: {before:g} before, {now:g} now)",
            )
    return drift, ""


def _find_difference(old: Setup, new: Setup) -> str | None:
    """The first setting that differs, in words: then another thing was measured."""
    for name, value in old.items():
        if name in new and name not in _NOT_SETTINGS and _differ(value, new[name]):
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


def _note_choices(suite: str, old: Setup, new: Setup) -> Iterator[str]:
    """What Sosie chose otherwise."""
    for name in _CHOSEN & old.keys() & new.keys():
        if old[name] != new[name]:
            said = _say_difference(name, old[name], new[name])
            yield f"{suite}: {said}: compared all the same"


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
