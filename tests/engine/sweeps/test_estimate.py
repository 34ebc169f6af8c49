"""The estimate before a sweep: cost, false pairs, proposal, refusals."""

import math
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import RateUnsupported, RequestError
from engine.sweeps.estimate import (
    LOOSEST_FMR,
    ExpectedSweep,
    GallerySize,
    ProgressCount,
    SweepOrder,
    expect,
    propose,
)
from indexes.exact.scanner import Scanner
from indexes.joining import join
from indexes.joining.join import Progress, measure_pace
from schema.sweeps import SweepScope
from tests.engine.curves import make_curve

BUDGET = 0.01


CURVE = make_curve([(10.0**-i, 0.2 + 0.06 * i) for i in range(1, 7)], mated_pairs=1_000)
LAST = CURVE.points[-1]


def size(references: int, new: int | None = None) -> GallerySize:
    new = references if new is None else new
    return GallerySize(references=references, new=new, sequence=7, dim=128, held_bytes=1000)


def estimate_for(request: SweepOrder, of: GallerySize, at_least: float = -1.0) -> ExpectedSweep:
    return expect(request, of, CURVE, pace=1e9, budget=BUDGET, at_least=at_least)


@pytest.mark.parametrize(
    ("references", "new", "comparisons"),
    [(0, 0, 0), (1, 1, 0), (2, 2, 1), (1000, 1000, 499_500), (1000, 10, 9945), (1000, 0, 0)],
)
def test_comparisons_are_the_pairs_with_a_new_reference(
    references: int, new: int, comparisons: int
) -> None:
    expectation = estimate_for(SweepOrder(threshold=0.4), size(references, new))
    assert expectation.comparisons == comparisons
    assert expectation.duration_s == comparisons / 1e9


def test_false_pairs_are_the_rate_times_the_comparisons_with_its_interval() -> None:
    expectation = estimate_for(SweepOrder(fmr=1e-5), size(10_000))
    assert math.isclose(expectation.terms.threshold, 0.5)
    assert math.isclose(expectation.false_pairs.value, 1e-5 * expectation.comparisons)
    assert math.isclose(expectation.false_pairs.low, expectation.false_pairs.value / 3)
    assert math.isclose(expectation.false_pairs.high, expectation.false_pairs.value * 3)
    assert expectation.is_supported
    expectation.require_sound(SweepOrder(fmr=1e-5))


@given(references=st.integers(2, 40_000), new_share=st.floats(0.001, 1))
def test_a_proposal_keeps_to_its_budget_and_is_the_lowest_that_does(
    references: int, new_share: float
) -> None:
    of = size(references, max(1, round(references * new_share)))
    proposal = propose(of, CURVE, BUDGET)
    assert proposal.budget == BUDGET * of.new
    if proposal.is_within_budget:
        assert proposal.false_pairs.value <= proposal.budget * 1.0001
        lower = CURVE.fmr_at(proposal.threshold - 0.005).value
        assert lower * of.comparisons > proposal.budget or lower > LOOSEST_FMR
    else:
        assert proposal.threshold == LAST.threshold
        assert proposal.false_pairs.value > proposal.budget


def test_an_empty_gallery_and_one_without_anything_new_can_be_swept() -> None:
    for of in (size(0), size(1), size(5000, 0)):
        expectation = estimate_for(SweepOrder(), of)
        assert expectation.false_pairs.value == 0
        assert expectation.proposal.is_within_budget
        expectation.require_sound(SweepOrder())


def test_no_proposal_is_looser_than_one_to_one() -> None:
    assert propose(size(3), CURVE, BUDGET).threshold == CURVE.threshold_at(LOOSEST_FMR)


def test_a_threshold_beyond_the_calibration_is_refused_unless_allowed() -> None:
    request = SweepOrder(threshold=0.7)
    expectation = estimate_for(request, size(1_000_000))
    assert not expectation.is_supported
    assert expectation.false_pairs.is_bound
    with pytest.raises(RateUnsupported, match=r"0\.7000 is beyond .* ends at 0\.5600: at most"):
        expectation.require_sound(request)
    expectation.require_sound(SweepOrder(threshold=0.7, is_unsupported_allowed=True))


def test_a_gallery_too_large_for_every_calibrated_threshold_has_none_proposed() -> None:
    expectation = estimate_for(SweepOrder(), size(1_000_000))
    assert expectation.terms.threshold == LAST.threshold
    with pytest.raises(RateUnsupported, match=r"no threshold .* 1e\+04 false pairs"):
        expectation.require_sound(SweepOrder())
    # Who asks for the same by name knows what it brings.
    chosen = SweepOrder(threshold=LAST.threshold)
    estimate_for(chosen, size(1_000_000)).require_sound(chosen)


def test_the_refusal_names_the_budget_with_which_it_goes() -> None:
    with pytest.raises(RateUnsupported, match=r"give a budget of cases \(--budget 500\)"):
        estimate_for(SweepOrder(), size(1_000_000)).require_sound(SweepOrder())
    thresholds = []
    for budget in (10, 100, 1_000):
        request = SweepOrder(budget=budget)
        expectation = estimate_for(request, size(1_000_000))
        expectation.require_sound(request)
        assert expectation.terms.budget == budget
        thresholds.append(expectation.terms.threshold)
    assert thresholds[0] > thresholds[1] > thresholds[2]
    small = estimate_for(SweepOrder(budget=1_000), size(2_000))
    assert small.terms.threshold == pytest.approx(CURVE.threshold_at(LOOSEST_FMR))
    huge = estimate_for(SweepOrder(budget=1_000), size(100_000_000))
    assert huge.memory_bytes < 100_000_000 * 500
    with pytest.raises(RequestError, match="1 to 10,000"):
        SweepOrder(budget=0)


def test_a_rate_that_the_data_do_not_support_is_refused_by_name() -> None:
    with pytest.raises(RateUnsupported, match="1e-09 is not supported"):
        estimate_for(SweepOrder(fmr=1e-9), size(10))


def test_more_pairs_than_can_be_kept_are_refused_before_the_start() -> None:
    request = SweepOrder(threshold=0.3)
    with pytest.raises(RequestError, match="raise the threshold"):
        estimate_for(request, size(1_000_000)).require_sound(request)


def test_a_sweep_of_new_references_keeps_the_last_threshold_at_least() -> None:
    low = estimate_for(SweepOrder(scope=SweepScope.NEW), size(1000, 10), at_least=0.55)
    assert low.terms.threshold == 0.55
    high = estimate_for(SweepOrder(scope=SweepScope.NEW), size(1000, 10), at_least=0.1)
    assert high.terms.threshold == high.proposal.threshold
    with pytest.raises(RequestError, match=r"from 0\.5500 on"):
        estimate_for(SweepOrder(threshold=0.5, scope=SweepScope.NEW), size(1000, 10), at_least=0.55)


@pytest.mark.parametrize(
    "terms",
    [
        {"threshold": 0.5, "fmr": 1e-5},
        {"threshold": 1.5},
        {"threshold": math.nan},
        {"fmr": 0.0},
        {"fmr": 1.0},
        {"fmr": math.nan},
    ],
)
def test_impossible_terms_are_refused(terms: dict[str, float]) -> None:
    with pytest.raises(RequestError):
        SweepOrder(**terms)


@pytest.mark.parametrize(("pace_per_s", "rows"), [(1e8, 8944), (1e12, 65_536)])
def test_a_pace_is_measured_with_rows_for_less_than_a_second(
    monkeypatch, pace_per_s: float, rows: int
) -> None:
    sizes: list[int] = []

    def time_join(rows: int, dim: int, scanner: Scanner) -> float:
        sizes.append(rows)
        return rows * (rows - 1) / 2 / pace_per_s

    monkeypatch.setattr(join, "_time_join", time_join)
    with closing(Scanner(threads=1)) as scanner:
        assert measure_pace(64, scanner) == pytest.approx(pace_per_s)
    assert sizes == [4096, 4096, rows]


def test_the_remaining_time_is_that_of_this_run_alone() -> None:
    now = 100.0
    count = ProgressCount(lambda: now)
    resumed = count.count(Progress(5, 10, 5000, 10_000, 7))
    assert (resumed.remaining_s, count.pace) == (None, None)
    now += 2
    later = count.count(Progress(6, 10, 6000, 10_000, 8))
    assert (later.comparisons, later.comparisons_total, later.pairs) == (6000, 10_000, 8)
    assert (later.remaining_s, count.pace) == (8.0, 500.0)
    assert count.count(Progress(10, 10, 10_000, 10_000, 8)).remaining_s == 0.0


def test_nobody_asks_for_less_than_review_or_the_proposal() -> None:
    def asks(**terms: float) -> float:
        request, of = SweepOrder(**terms), size(1_000)
        return expect(request, of, CURVE, pace=1e9, budget=BUDGET, review=0.5).terms.threshold

    proposed = asks()
    assert proposed < 0.5
    assert asks(threshold=proposed) == proposed
    for terms in ({"threshold": -0.9}, {"threshold": proposed - 0.01}, {"fmr": 0.1}):
        with pytest.raises(RequestError, match=f"the lowest that may be asked for.*{proposed:.4f}"):
            asks(**terms)
