"""Two runs side by side: what is a regression, what is noise, and what is missing."""

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
    Pair,
    Verdict,
    better,
    compare,
    varies,
)
from bench.core.reports import REPORTS, Check, Figure, Report, Result, Setup, read_reports, spread
from bench.core.run_all import SUITES
from engine.errors import RequestError
from tests.bench.frozen import (
    MACHINE,
    RECALL,
    changed,
    in_blocks,
    make_registrar,
    make_search,
    times,
)

FIRST, SECOND = REPORTS / "quick" / "first", REPORTS / "quick" / "second"
FIGURES, TRIALS = 300, 40


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
    slow = changed(search, times(1.4, "exact8, the gallery", "ms"))
    worse = compare({"search": search}, {"search": slow}).regressions
    assert {(pair.figure, pair.kind) for pair in worse} == {("exact8, the gallery", "value")}
    assert {pair.result for pair in worse} >= {"One query", "A batch"}
    assert all(pair.change == pytest.approx(0.4) for pair in worse)
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


def test_two_quick_runs_of_the_same_code_agree_within_their_noise() -> None:
    comparison = compare(read_reports(FIRST), read_reports(SECOND))
    # The two runs are older than the suite of shards.
    assert {pair.suite for pair in comparison.pairs} == {one.name for one in SUITES} - {"shards"}
    assert comparison.regressions == ()
    assert comparison.missing == ()


def run_once(
    deviations: np.ndarray, rng: np.random.Generator, blocks: int, factor: float = 1.0
) -> dict[str, Report]:
    """Every figure measured in blocks, with a noise of its own, by a machine so much slower."""
    draws = factor * np.exp(deviations[:, None] * rng.standard_normal((len(deviations), blocks)))
    rows = [[float(value) for value in row] for row in draws]
    figures = tuple(
        Figure(f"action {place}", "ms", statistics.median(row), noise=spread(row))
        for place, row in enumerate(rows)
    )
    return {"it": Report(MACHINE, (Result("Actions", {}, figures),), (), "it", blocks)}


@pytest.mark.parametrize("blocks", [2, 3])
def test_two_runs_of_one_thing_seldom_differ_though_hundreds_of_figures_are_compared(
    blocks: int,
) -> None:
    """Most figures vary by 1 to 12 %."""
    rng = np.random.default_rng(5)
    deviations = np.exp(rng.normal(np.log(0.03), 0.7, FIGURES))
    alarms = 0
    for _ in range(TRIALS):
        old, new = (run_once(deviations, rng, blocks) for _ in range(2))
        alarms += bool(compare(old, new).regressions)
    assert alarms <= 3 * CHANCE * TRIALS


@pytest.mark.parametrize("blocks", [2, 3])
def test_a_doubled_time_is_seen_in_every_figure(blocks: int) -> None:
    rng, deviations = np.random.default_rng(6), np.full(FIGURES, 0.03)
    doubled = compare(run_once(deviations, rng, blocks), run_once(deviations, rng, blocks, 2.0))
    assert len(doubled.regressions) == FIGURES


def test_three_blocks_that_agree_by_luck_are_not_believed() -> None:
    usual = tuple(Figure(f"action {place}", "ms", 10.0, noise=0.03) for place in range(20))
    lucky = Figure("lucky", "ms", 10.0, noise=1e-4)

    def limit(*figures: Figure) -> float:
        report = Report(MACHINE, (Result("Actions", {}, figures),), (), "it", 3)
        pairs = compare({"it": report}, {"it": report}).pairs
        return next(pair.limit for pair in pairs if pair.figure == "lucky" and pair.limit)

    assert limit(lucky) == pytest.approx(FLOOR_BLOCKS)
    assert limit(lucky, *usual) > 1.5 * FLOOR_BLOCKS


def test_blocks_of_one_process_are_its_noise_and_no_more_is_believed_of_it() -> None:
    """As the kernels are timed: quartiles within a block are narrower than blocks differ."""
    kernel = Figure("kernel", "us", 10.0, 9.99, 10.01, 2.0, None, 0.4, 0.3, 1_000)
    steady = replace(kernel, noise=0.001)
    for figure, expected in ((kernel, 1.4**2 - 1), (steady, FLOOR_REPEATS)):
        report = Report(MACHINE, (Result("Scan", {}, (figure,)),), (), "kernels", 1)
        (pair,) = compare({"kernels": report}, {"kernels": report}).pairs
        assert pair.limit == pytest.approx(expected)


def set_up(report: Report, **settings: str | float) -> Report:
    """The report of a run that measured something else."""
    setup: Setup = settings
    return replace(
        report, results=tuple(replace(one, setup=one.setup | setup) for one in report.results)
    )


@pytest.mark.parametrize(
    ("name", "before", "now"),
    [
        ("seed", 0, 1),
        ("filesystem", "ext4", "tmpfs"),
        ("photographs", "lfw/images", "scikit-image astronaut"),
        ("threshold", 0.5703, 0.62),
        ("has_graph", True, False),
    ],
)
def test_another_setting_of_any_kind_is_another_measurement(
    search: Report, name: str, before: str | float, now: str | float
) -> None:
    comparison = compare(
        {"search": set_up(search, **{name: before})}, {"search": set_up(search, **{name: now})}
    )
    assert {pair.kind for pair in comparison.pairs} == {"promise"}
    assert f"{name.replace('_', ' ')} {before} before, {now} now" in comparison.notes[0]


@pytest.mark.parametrize(
    ("name", "before", "now"),
    [
        ("rounds", 15, 7),
        ("mates", 1_000, 998),
        ("deepface", "deepface 0.0.103", "deepface 0.0.104"),
        ("threshold", 0.5703, 0.5702604651451111),
    ],
)
def test_what_came_out_and_how_often_it_was_asked_are_no_settings(
    search: Report, name: str, before: str | float, now: str | float
) -> None:
    old, new = (set_up(search, **{name: value}) for value in (before, now))
    slow = changed(new, times(5.0, "exact8, the gallery", "ms"))
    comparison = compare({"search": old}, {"search": slow})
    assert comparison.notes == ()
    assert comparison.regressions


def test_a_slower_kernel_is_a_regression_and_no_other_measurement(search: Report) -> None:
    slow = changed(set_up(search, kernel="avx2"), times(5.0, "exact8, the gallery", "ms"))
    comparison = compare({"search": search}, {"search": slow})
    assert comparison.regressions
    assert comparison.notes == ("search: kernel vnni before, avx2 now: compared all the same",)


def test_a_suite_that_the_later_run_lacks_fails_it_and_says_why(search: Report) -> None:
    old = {"search": search, "join": search, "serve": search}
    comparison = compare(old, {"search": search}, {"join": "it failed: took longer than 150 s"})
    assert not comparison.regressions
    assert not comparison.holds
    assert comparison.missing == (
        "join: the new run has no report of it: it failed: took longer than 150 s",
        "serve: the new run has no report of it: it was not run",
    )
    assert comparison.to_dict()["missing"] == comparison.missing
    more = compare({"search": search}, {"search": search, "join": search})
    assert more.holds
    assert more.notes == ("join: only in the new run",)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_promise_of_no_error_that_is_measured_no_more_fails_and_a_speed_is_told(
    search: Report, is_there: bool
) -> None:
    skipped = tuple(
        replace(one, value=None, holds=None, skipped="no brute force here") for one in search.checks
    )
    new = replace(search, checks=skipped if is_there else ())
    comparison = compare({"search": search}, {"search": new})
    assert not comparison.holds
    why = "no brute force here" if is_there else "the new run does not know it"
    assert comparison.missing == (
        f"search: identical_answers was measured and is not any more: {why}",
    )
    assert comparison.notes == (
        f"search: one_query_speedup was measured and is not any more: {why}",
    )
    assert compare({"search": new}, {"search": search}).holds


def test_where_nothing_can_be_compared_it_is_said_and_no_success(search: Report) -> None:
    bare = replace(search, checks=())
    with pytest.raises(RequestError, match=r"nothing to compare: search: .*seed 0 before, 1 now"):
        compare({"search": bare}, {"search": set_up(bare, seed=1)})
    with pytest.raises(RequestError, match="nothing to compare: search: the new run has no report"):
        compare({"search": search}, {"join": search})
    with pytest.raises(RequestError, match="no figure in common"):
        compare({"search": replace(bare, results=())}, {"search": bare})
