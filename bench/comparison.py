"""Two runs side by side: what is worse by more than the noise that the runs themselves measured.

A figure is worse where it has changed to its bad side by more than chance changes one of so many
figures (`bench/noise.py`), and by more than a floor. One that was measured once has no noise to be
held against: that it changed much is told, and is no verdict. Between different machines, or where
the machine itself was much faster or slower, ratios are compared in place of values; where it was a
little faster or slower, so much more is allowed. A promise that held and does not any more is a
regression; of a speed that lies close to its goal on both sides it is told, and is no verdict. What
Sosie is compared with cannot regress.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bench.blocks import key_all
from bench.checks import load_goals
from bench.machine import Machine
from bench.noise import CHANCE, FLOOR_BLOCKS, FLOOR_REPEATS, Noise, Sample, find_prior
from bench.pairing import FLOOR_COUNTED, FLOOR_ONCE, Doubt, Pair, Scene, Verdict, pair_figures
from bench.report import Check, Report, Setup

DRIFT = 0.25
"""A machine whose own rates differ by more from one run to the next is as good as another."""
RULE = (
    f"worse by more than two runs of one thing differ by chance, {CHANCE:.0%} for all figures "
    f"together, and by more than {FLOOR_BLOCKS:.0%} where both runs were made in blocks, "
    f"{FLOOR_REPEATS:.0%} where one knows its repeats alone, {FLOOR_COUNTED:.0%} where every run "
    f"should give the same; unsure by more than {FLOOR_ONCE:.0%} where one was measured once"
)

# Integers of a setup that say what came out, not what was asked for.
_OUTCOMES = frozenset({"requests_per_s", "mates", "kills", "decisions", "single_decisions", "seed"})


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
    found: list[Pair | Doubt] = []
    notes = [f"{suite}: only in the old run" for suite in old if suite not in new]
    notes += [f"{suite}: only in the new run" for suite in new if suite not in old]
    for suite, before in old.items():
        if suite in new:
            pairs, said = _compare_reports(suite, before, new[suite])
            found += pairs
            notes += said
    return Comparison(tuple(_judge_all(found)), tuple(notes))


def _judge_all(found: list[Pair | Doubt]) -> Iterator[Pair]:
    """Each by the usual noise of its suite, and by how many could be a false alarm."""
    known = [one for one in found if isinstance(one, Doubt) and one.samples]
    samples: dict[str, list[Sample]] = {}
    for one in known:
        samples.setdefault(one.pair.suite, []).extend(one.samples or ())
    priors = {suite: find_prior(mine) for suite, mine in samples.items()}
    for each in found:
        if isinstance(each, Pair):
            yield each
        else:
            yield each.judge(Noise(priors.get(each.pair.suite), len(known)))


def _compare_reports(suite: str, old: Report, new: Report) -> tuple[list[Pair | Doubt], list[str]]:
    other = _tell_machines_apart(old.machine, new.machine)
    is_like = other is None
    notes = [] if other is None else [f"{suite}: {other}: ratios are compared, times are not"]
    pairs: list[Pair | Doubt] = []
    has_other_sizes = False
    after = dict(key_all(new.results))
    scene = Scene(
        suite, (old.blocks, new.blocks), _find_drift(old.machine, new.machine) if is_like else None
    )
    for key, result in key_all(old.results):
        if key not in after:
            notes.append(f"{suite}: the new run has no {result.name!r}")
            continue
        differing = _find_difference(result.setup, after[key].setup)
        if differing:
            notes.append(f"{suite}: {result.name!r} not compared: {differing}")
            has_other_sizes = True
            continue
        pairs += pair_figures(scene, result, after[key])
    # A speed that was promised depends on size and machine; that nothing is wrong does not.
    is_exact = has_other_sizes or not is_like
    return [*_compare_checks(suite, old, new, is_exact=is_exact), *pairs], notes


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
        verdict = _judge_promise(check, other, allows_none=check.name in exact)
        yield Pair(suite, "Promises", check.name, "", "promise", check.value, other.value, verdict)


def _judge_promise(old: Check, new: Check, *, allows_none: bool) -> Verdict:
    """A speed close to its goal is now on one side of it, now on the other: no verdict."""
    if old.holds == new.holds:
        return Verdict.SAME
    if new.holds:
        return Verdict.BETTER
    values = sorted(one.value or 0.0 for one in (old, new))
    is_near = values[0] > 0 and values[1] <= (1 + FLOOR_REPEATS) * values[0]
    return Verdict.UNSURE if is_near and not allows_none else Verdict.WORSE
