"""Two runs side by side: what is worse by more than the noise that the runs themselves measured.

A figure is worse where it has changed to its bad side by more than chance changes one of so many
figures (`bench/noise.py`), and by more than a floor. One that was measured once has no noise to be
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
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.blocks import key_all
from bench.checks import load_goals
from bench.machine import Machine
from bench.noise import CHANCE, FLOOR_BLOCKS, FLOOR_REPEATS, Noise, Sample, find_prior
from bench.pairing import FLOOR_COUNTED, FLOOR_ONCE, Doubt, Pair, Scene, Verdict, pair_figures
from bench.report import Check, Report, Setup
from engine.errors import RequestError

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
