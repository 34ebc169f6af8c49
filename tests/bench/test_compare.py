"""Two runs side by side: what is a regression, and what is noise."""

from __future__ import annotations

import statistics
from dataclasses import replace

import numpy as np
import pytest

from bench.core.compare import (
    CHANCE,
    FLOOR_BLOCKS,
    FLOOR_COUNTED,
    FLOOR_REPEATS,
    Better,
    Noise,
    Pair,
    Sample,
    Verdict,
    better,
    compare,
    find_prior,
    sample_ratio,
    sample_value,
    varies,
)
from bench.core.reports import REPORTS, Check, Figure, Report, read_reports, spread
from tests.bench.frozen import RECALL, changed, in_blocks, make_registrar, make_search, times


def compare_one(old: Report, new: Report) -> tuple[Pair, ...]:
    return compare({"suite": old}, {"suite": new}).pairs


@pytest.fixture(scope="module")
def search() -> Report:
    return make_search()


@pytest.fixture(scope="module")
def registrar() -> Report:
    return make_registrar()


@pytest.mark.parametrize("suite", read_reports(REPORTS))
def test_no_committed_report_is_worse_than_itself(suite: str) -> None:
    reports = read_reports(REPORTS / f"{suite}.json")
    comparison = compare(reports, reports)
    assert comparison.pairs
    assert comparison.notes == ()
    assert comparison.holds
    assert {pair.verdict for pair in comparison.pairs} == {Verdict.SAME}


def test_a_search_that_takes_longer_than_its_noise_allows_is_worse(search: Report) -> None:
    slow = changed(search, times(5.0, "exact8, the gallery", "ms"))
    worse = compare({"search": search}, {"search": slow}).regressions
    assert {(pair.figure, pair.kind) for pair in worse} == {("exact8, the gallery", "value")}
    assert {pair.result for pair in worse} >= {"One query", "A batch"}
    assert all(pair.change == pytest.approx(4.0) for pair in worse)
    assert not compare({"search": slow}, {"search": search}).regressions


def test_a_rate_that_falls_is_worse_and_one_that_rises_is_better(registrar: Report) -> None:
    usual = in_blocks(registrar)
    fewer = changed(usual, times(0.5, "batches of 32", "decisions/s"))
    (worse,) = compare({"registrar": usual}, {"registrar": fewer}).regressions
    assert worse.figure == "batches of 32"
    (pair,) = (one for one in compare_one(fewer, usual) if one.verdict is Verdict.BETTER)
    assert pair.change == pytest.approx(1.0)


def test_what_the_noise_allows_is_the_same(search: Report) -> None:
    limits = {
        pair.limit
        for pair in compare_one(search, search)
        if (pair.result, pair.figure) == ("One query", "exact8, the gallery")
    }
    (limit,) = limits
    assert limit is not None
    assert limit >= FLOOR_REPEATS
    inside = changed(search, times(1 + 0.9 * limit, "exact8, the gallery", "ms"))
    outside = changed(search, times(1 + 1.2 * limit, "exact8, the gallery", "ms"))
    assert not any(one.result == "One query" for one in compare_regressions(search, inside))
    assert any(one.result == "One query" for one in compare_regressions(search, outside))


def test_a_search_that_takes_two_fifths_longer_is_worse_though_either_run_was_one_block(
    search: Report,
) -> None:
    slow = changed(search, times(1.4, "exact8, the gallery", "ms"))
    assert {one.result for one in compare_regressions(search, slow)} >= {"One query", "A batch"}


def compare_regressions(old: Report, new: Report) -> tuple[Pair, ...]:
    return compare({"suite": old}, {"suite": new}).regressions


def test_a_rival_that_becomes_slower_is_no_regression(search: Report) -> None:
    slow = changed(search, times(3, "FAISS Flat", "ms"))
    assert not compare_regressions(search, slow)


@pytest.mark.parametrize("share", [0.98, 0.999])
def test_of_all_mates_one_in_a_thousand_lost_is_a_regression_though_times_may_vary(
    search: Report, share: float
) -> None:
    fewer = changed(search, times(share, "exact8, the gallery", "share"))
    results = {one.result for one in compare_regressions(search, fewer)}
    assert RECALL in results


def test_a_promise_that_held_and_does_not_any_more_is_a_regression(search: Report) -> None:
    first, *others = search.checks
    broken = replace(search, checks=(replace(first, value=0.999, holds=False), *others))
    (worse,) = compare({"search": search}, {"search": broken}).regressions
    assert (worse.kind, worse.figure) == ("promise", "identical_answers")
    assert not compare({"search": broken}, {"search": search}).regressions


@pytest.mark.parametrize(
    ("value", "verdict"), [(5.9, Verdict.UNSURE), (4.0, Verdict.WORSE), (None, Verdict.WORSE)]
)
def test_a_speed_close_to_its_goal_is_no_verdict_and_one_far_from_it_is(
    search: Report, value: float | None, verdict: Verdict
) -> None:
    kept = Check("one_query_speedup", 6.1, 6.0, holds=True)
    missed = Check("one_query_speedup", value, 6.0, holds=False)
    pairs = compare_one(replace(search, checks=(kept,)), replace(search, checks=(missed,)))
    assert [one.verdict for one in pairs if one.kind == "promise"] == [verdict]


def test_on_another_machine_ratios_are_compared_and_times_are_not(search: Report) -> None:
    elsewhere = replace(search, machine=replace(search.machine, cpu="another"))
    slow = changed(elsewhere, times(3, "exact8, the gallery", "ms"))
    comparison = compare({"search": search}, {"search": slow})
    assert not comparison.regressions
    assert "other machines" in comparison.notes[0]

    def lower(figure: Figure) -> Figure:
        is_ours = figure.name == "exact8, the gallery" and figure.ratio is not None
        return replace(figure, ratio=figure.ratio / 3) if is_ours and figure.ratio else figure

    worse = compare({"search": search}, {"search": changed(elsewhere, lower)}).regressions
    assert worse
    assert {pair.kind for pair in worse} == {"ratio"}


def test_other_sizes_are_not_compared_and_named(search: Report) -> None:
    small = replace(
        search,
        results=tuple(
            replace(one, setup=one.setup | {"references": 20_000}) for one in search.results
        ),
    )
    comparison = compare({"search": search}, {"search": small})
    assert {pair.kind for pair in comparison.pairs} == {"promise"}
    assert "references 1,000,000 before, 20,000 now" in comparison.notes[0]


def test_a_suite_of_few_figures_trembles_as_all_do(search: Report, registrar: Report) -> None:
    """Three figures in two blocks say little of their noise; beside many others they say enough."""
    old = {"search": in_blocks(search, 0.03), "registrar": in_blocks(registrar, 0.03, blocks=2)}
    fewer = changed(old["registrar"], times(0.7, "batches of 32", "decisions/s"))
    alone = compare({"registrar": old["registrar"]}, {"registrar": fewer})
    both = compare(old, old | {"registrar": fewer})
    (limit, wide) = (
        next(one.limit for one in each.pairs if one.figure == "batches of 32")
        for each in (both, alone)
    )
    assert limit is not None
    assert wide is not None
    assert FLOOR_BLOCKS < limit < wide
    assert [one.figure for one in both.regressions] == ["batches of 32"]


def test_a_figure_that_is_gone_is_told(search: Report) -> None:
    def skip(figure: Figure) -> Figure:
        is_usearch = figure.name.startswith("usearch") and figure.value is not None
        return Figure.skip(figure.name, figure.unit, "not installed") if is_usearch else figure

    comparison = compare({"search": search}, {"search": changed(search, skip)})
    gone = [pair for pair in comparison.pairs if pair.verdict is Verdict.GONE]
    assert gone
    assert all(pair.figure.startswith("usearch") for pair in gone)
    assert comparison.holds


def test_what_was_measured_once_is_told_and_is_no_regression(search: Report) -> None:
    def forget(figure: Figure) -> Figure:
        return replace(figure, low=None, high=None, noise=None, ratio_noise=None)

    once = changed(search, forget)
    slow = changed(once, times(5.0, "exact8, the gallery", "ms"))
    comparison = compare({"search": once}, {"search": slow})
    assert not comparison.regressions
    unsure = {pair.result for pair in comparison.pairs if pair.verdict is Verdict.UNSURE}
    assert unsure >= {"One query", "A batch"}


def test_a_machine_that_was_a_little_slower_is_allowed_so_much_more(search: Report) -> None:
    fast = replace(search, machine=replace(search.machine, read_gb_per_s=40.0))
    slow = replace(search, machine=replace(search.machine, read_gb_per_s=32.0))

    def allowed(new: Report) -> dict[tuple[str, str, str], float | None]:
        pairs = compare_one(fast, new)
        return {(one.result, one.figure, one.unit): one.limit for one in pairs}

    still, drifted = allowed(fast), allowed(slow)
    key = ("One query", "exact8, the gallery", "ms")
    assert still[key] is not None
    assert drifted[key] == pytest.approx((1 + (still[key] or 0)) * 1.25 - 1)
    recall = next(one for one in still if one[2] == "share")
    assert drifted[recall] == still[recall]
    assert {0.0, FLOOR_COUNTED} >= {still[one] for one in still if one[2] == "share"}


@pytest.mark.parametrize(
    ("name", "unit", "expected"),
    [
        ("exact8, the gallery", "ms", True),
        ("join, one segment", "GOPS", True),
        ("peak of memory, gallery and all", "GB", True),
        ("3 times the load: refused (429)", "share", True),
        ("exact8, the gallery", "share", False),
        ("codes", "bytes/reference", False),
        ("lost", "enrollments", False),
    ],
)
def test_what_every_run_gives_anew_is_told_from_what_a_clock_is_in(
    name: str, unit: str, expected: bool
) -> None:
    assert varies(Figure(name, unit, 1.0)) is expected


@pytest.mark.parametrize(
    ("name", "unit", "expected"),
    [
        ("exact8, the gallery", "ms", Better.LESS),
        ("one by one, after all: both", "us/reference", Better.LESS),
        ("all", "bytes/reference", Better.LESS),
        ("Sosie, cpu", "pairs/s", Better.MORE),
        ("join, one segment", "GOPS", Better.MORE),
        ("one segment: rate", "G comparisons/s", Better.MORE),
        ("one to one, FMR 1e-05", "FNMR", Better.LESS),
        ("FNMR at FMR 1e-4", "share", Better.LESS),
        ("mean of the folds", "share", Better.MORE),
        ("missed", "references", Better.LESS),
        ("pairs found", "pairs", None),
        ("FAISS Flat", "ms", None),
        ("reading the codes", "ms", None),
    ],
)
def test_a_figure_knows_which_way_is_better(name: str, unit: str, expected: Better | None) -> None:
    assert better(Figure(name, unit, 1.0)) is expected


def test_most_figures_of_the_committed_reports_have_a_direction() -> None:
    figures = [
        figure
        for report in read_reports(REPORTS).values()
        for result in report.results
        for figure in result.figures
        if figure.value is not None and figure.low is not None
    ]
    judged = [figure for figure in figures if better(figure)]
    assert len(judged) > len(figures) / 4


def test_with_other_sizes_only_promises_that_allow_no_error_are_compared(search: Report) -> None:
    small = replace(
        search,
        results=tuple(replace(one, setup=one.setup | {"dim": 512}) for one in search.results),
        checks=tuple(replace(check, holds=False) for check in search.checks),
    )
    worse = compare({"search": search}, {"search": small}).regressions
    assert [pair.figure for pair in worse] == ["identical_answers"]


def test_where_the_machine_itself_was_slower_ratios_are_compared_and_it_is_said(
    search: Report,
) -> None:
    fast = replace(search, machine=replace(search.machine, read_gb_per_s=40.0, int8_gops=800.0))
    slow = changed(
        replace(search, machine=replace(search.machine, read_gb_per_s=40.0, int8_gops=300.0)),
        times(5, "exact8, the gallery", "ms"),
    )
    comparison = compare({"search": fast}, {"search": slow})
    assert not comparison.regressions
    assert "int8 GOPS: 800 before, 300 now" in comparison.notes[0]
    same = replace(slow, machine=replace(slow.machine, int8_gops=750.0))
    assert compare({"search": fast}, {"search": same}).regressions


FIGURES, BLOCKS, TRIALS = 300, 3, 40


def run_once(deviations: np.ndarray, rng: np.random.Generator) -> list[Figure]:
    """Every figure measured in blocks: some tremble by 1 %, some by a third."""
    draws = np.exp(deviations[:, None] * rng.standard_normal((len(deviations), BLOCKS)))
    values = [[float(value) for value in row] for row in draws]
    return [Figure("it", "ms", statistics.median(row), noise=spread(row)) for row in values]


def count_alarms(deviations: np.ndarray, rng: np.random.Generator, factor: float = 1.0) -> int:
    """How many of the figures of two runs seem to differ, where one is `factor` times slower."""
    old, new = run_once(deviations, rng), run_once(deviations, rng)
    samples = [
        (sample_value(one, BLOCKS), sample_value(two, BLOCKS))
        for one, two in zip(old, new, strict=True)
    ]
    known = [(one, two) for one, two in samples if one and two]
    noise = Noise(find_prior([one for both in known for one in both]), FIGURES)
    alarms = 0
    for (before, after), one, two in zip(known, old, new, strict=True):
        assert one.value is not None
        assert two.value is not None
        alarms += factor * two.value / one.value - 1 > noise.limit(before, after)
    return alarms


def test_two_runs_of_one_thing_seldom_differ_though_hundreds_of_figures_are_compared() -> None:
    rng = np.random.default_rng(5)
    deviations = np.exp(rng.normal(np.log(0.03), 0.7, FIGURES))
    alarms = [count_alarms(deviations, rng) for _ in range(TRIALS)]
    assert sum(one > 0 for one in alarms) <= 3 * CHANCE * TRIALS


def test_a_doubled_time_is_seen_in_nearly_every_figure() -> None:
    rng = np.random.default_rng(6)
    deviations = np.full(FIGURES, 0.03)
    assert count_alarms(deviations, rng, factor=2.0) == FIGURES
    assert count_alarms(deviations, rng, factor=1.3) > 0.9 * FIGURES


def test_three_blocks_that_agree_by_luck_are_not_believed() -> None:
    lucky, usual = Sample(1e-8, BLOCKS), Sample(0.03**2, BLOCKS)
    prior = find_prior([usual] * 20)
    assert prior is not None
    assert Noise(prior, 100).limit(lucky, lucky) > 0.6 * Noise(prior, 100).limit(usual, usual)
    assert Noise(None, 100).limit(lucky, lucky) == FLOOR_BLOCKS
    assert find_prior([usual] * 3) is None


def test_the_more_figures_are_judged_the_more_one_may_change() -> None:
    one = Sample(0.05**2, BLOCKS)
    limits = [Noise(0.05**2, judged).limit(one, one) for judged in (1, 10, 100, 1000)]
    assert limits == sorted(limits)
    assert limits[0] < limits[-1] < 6 * limits[0]


def test_repeats_say_how_far_their_median_may_lie_off() -> None:
    """Of medians of so many normal values: the deviation, from the quartiles of each alone."""
    rng = np.random.default_rng(7)
    for repeats in (2, 3, 5, 15, 40):
        draws = rng.normal(10, 0.5, (1_500, repeats))
        known = [sample_value(Figure.of("it", "ms", row), 1) for row in draws]
        told = np.sqrt(np.mean([one.variance for one in known if one]))
        true = np.median(draws, axis=1).std() / 10
        assert true * 0.9 < told < true * 1.7, repeats
        assert {one.freedom for one in known if one} == {repeats - 1}


def test_of_repeats_whose_number_is_not_known_the_spread_of_one_is_taken() -> None:
    old = Figure("it", "ms", 10.0, 9.0, 11.0)
    known, fewer = sample_value(old, 1), sample_value(replace(old, repeats=15), 1)
    assert known
    assert fewer
    assert known.variance > 8 * fewer.variance


def test_blocks_of_one_process_are_its_noise_and_no_more_is_believed_of_it() -> None:
    """As the kernels are timed: their quartiles within a block are narrower than what blocks do."""
    kernel = Figure("kernel", "us", 10.0, 9.99, 10.01, 2.0, None, 0.2, 0.3, 1_000)
    value, ratio = sample_value(kernel, 1), sample_ratio(kernel, kernel, 1)
    assert value == Sample(0.2**2, 0)
    assert ratio == Sample(0.3**2, 0)
    assert Noise(None, 100).limit(value, value) > 1
    steady = Sample(0.001**2, 0)
    assert Noise(None, 100).limit(steady, steady) == FLOOR_REPEATS


def test_the_less_is_known_of_the_noise_the_more_is_allowed() -> None:
    once = Figure("a search", "ms", 10.0, ratio=2.0)
    repeats = Figure("a search", "ms", 10.0, 9.9, 10.1, ratio=2.0)
    blocks = Figure("a search", "ms", 10.0, 9.9, 10.1, 2.0, None, 0.001, 0.002)
    assert sample_value(once, 1) is None
    assert sample_ratio(once, repeats, 1) is None
    known = sample_value(repeats, 1)
    measured = sample_value(blocks, BLOCKS)
    ratio = sample_ratio(blocks, blocks, BLOCKS)
    assert known
    assert measured
    assert ratio
    assert Noise(None, 1).limit(known, known) == FLOOR_REPEATS
    assert Noise(None, 1).limit(known, measured) == FLOOR_REPEATS
    assert Noise(None, 1).limit(measured, measured) == FLOOR_BLOCKS
    assert ratio.variance == pytest.approx(4 * measured.variance)
