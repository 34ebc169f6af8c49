"""Latencies count from when a visit was due, and whatever was not answered counts too."""

from __future__ import annotations

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from loadtest.criteria import Run, is_failed, measure, measure_rates, slice_run
from loadtest.exchange import NOT_STARTED, OVERDUE
from loadtest.oracle import APPROVED, IN_FLIGHT, MISMATCH, Answer
from loadtest.schedule import Kind, Outcome
from tests.loadtest.making import decided, make_outcome, make_visit

REFUSED = Answer(429, is_refusal=True)


def at(due_s: float, latency_s: float, answer: Answer | None = None) -> Outcome:
    visit = make_visit(round(due_s * 1e6) + 1, due_s=due_s)
    return make_outcome(visit, answer or decided(APPROVED), latency_s=latency_s)


def run_of(outcomes: list[Outcome], seconds: float = 10, omitted: int = 0) -> Run:
    elapsed_s = max(one.done_s for one in outcomes)
    return Run(tuple(outcomes), seconds, elapsed_s, 0.1, omitted)


def test_percentiles_are_those_of_the_latencies_within_a_thousandth() -> None:
    drawn = np.random.default_rng(0).lognormal(-3, 0.7, 5_000)
    found = measure(at(place / 500, latency) for place, latency in enumerate(drawn.tolist()))
    in_order = np.sort(drawn) * 1e3
    for share in (50.0, 90.0, 99.0, 99.9):
        # HdrHistogram rounds the rank, others round it up.
        rank = round(share * 50)
        low, high = in_order[rank - 2], in_order[rank]
        assert low * 0.998 <= found.at(share) <= high * 1.002
    assert found.count == 5_000


def test_a_histogram_can_be_added_to_another_run_s() -> None:
    one, two = (measure(at(place, 0.1 * run) for place in range(4)) for run in (1, 2))
    whole = HdrHistogram.decode(one.histogram)
    whole.decode_and_add(two.histogram)
    assert whole.get_total_count() == 8
    assert whole.get_value_at_percentile(100) == pytest.approx(200_000, rel=2e-3)


def test_what_was_late_or_not_started_counts_and_refusals_do_not() -> None:
    outcomes = [
        *(at(place, 0.01) for place in range(8)),
        at(8, 10.0, Answer(OVERDUE)),
        at(9, 10.0, Answer(NOT_STARTED)),
        at(9.5, 0.001, REFUSED),
    ]
    found = measure(outcomes)
    assert found.count == 10
    assert found.at(99.0) == pytest.approx(10_000, rel=2e-3)
    assert [is_failed(one) for one in outcomes] == [False] * 8 + [True] * 3


def test_nothing_was_measured_of_nothing() -> None:
    found = measure([at(1, 0.1, REFUSED)])
    assert (found.count, found.histogram) == (0, "")
    assert np.isnan(found.at(99.0))


def test_slices_say_what_was_due_and_what_was_answered_in_each() -> None:
    run = run_of([at(0.1, 0.1), at(0.2, 2.0), at(1.1, 0.1), at(9.9, 1.0, REFUSED)], seconds=10)
    slices = slice_run(run)
    assert sum(one.offered * one.width_s for one in slices) == pytest.approx(4)
    assert sum(one.achieved * one.width_s for one in slices) == pytest.approx(3)
    assert slices[0].latencies.at(100.0) == pytest.approx(2_000, rel=0.02)
    assert [one.refused for one in slices if one.refused] == [1]
    assert slices[-1].start_s + slices[-1].width_s >= run.elapsed_s


def test_what_a_repeated_key_is_rightly_told_is_achieved() -> None:
    visit = make_visit(2, Kind.CONFLICT, partner=1, due_s=0.1)
    [one, *_] = slice_run(run_of([make_outcome(visit, Answer(422, MISMATCH))]))
    assert (one.achieved * one.width_s, one.failed) == (1, 0)


def test_achieved_is_what_was_answered_well_while_the_schedule_went_on() -> None:
    run = run_of([at(0, 0.1), at(1, 0.1), at(9, 5.0), at(9, 0.1, REFUSED)], omitted=6)
    assert measure_rates(run) == pytest.approx((1.0, 0.2))


def test_what_a_repeated_key_is_told_is_no_failure() -> None:
    visit = make_visit(2, Kind.CONFLICT, partner=1)
    assert not is_failed(make_outcome(visit, Answer(422, MISMATCH)))
    assert is_failed(make_outcome(visit, Answer(422, "REQUEST.INVALID")))
    # Its first may have been overtaken.
    first = make_visit(1, Kind.RETURNING, has_repeat=True)
    assert not is_failed(make_outcome(first, Answer(409, IN_FLIGHT)))
    assert is_failed(make_outcome(make_visit(1, Kind.RETURNING), Answer(409, IN_FLIGHT)))
    race = make_visit(3, Kind.RACE, partner=1)
    assert is_failed(make_outcome(race, Answer(422, MISMATCH)))
