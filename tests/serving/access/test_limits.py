from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.access.limits import MIN_BURST, TokenBucket


def test_the_burst_is_one_seconds_worth_and_at_least_a_full_batch() -> None:
    for rate, burst in ((1000.0, 1000), (1.0, MIN_BURST), (0.01, MIN_BURST)):
        bucket = TokenBucket(rate, 0.0)
        assert [bucket.take(1, 0.0) for _ in range(burst)] == [0.0] * burst
        assert bucket.take(1, 0.0) == pytest.approx(1 / rate)


def test_a_spent_bucket_says_when_the_next_item_passes() -> None:
    bucket = TokenBucket(10.0, 0.0)
    assert bucket.take(MIN_BURST, 0.0) == 0
    wait = bucket.take(1, 0.05)
    assert wait == pytest.approx(0.05)
    assert bucket.take(1, 0.05 + wait / 2) > 0
    assert bucket.take(1, 0.05 + wait) == 0


def test_a_full_batch_passes_and_its_debt_is_paid_before_the_next() -> None:
    bucket = TokenBucket(100.0, 0.0)
    assert bucket.take(1, 0.0) == 0
    assert bucket.take(255, 0.0, paid=1) == 0
    assert bucket.take(1, 0.0) == pytest.approx(0.01)
    assert bucket.take(1, 0.011) == 0
    assert bucket.take(255, 0.011, paid=1) == 0
    assert bucket.take(1, 0.011) == pytest.approx((1 + 255 - 0.1) / 100, abs=1e-3)


def test_who_waits_as_told_gets_a_batch_through_every_time() -> None:
    bucket, now = TokenBucket(5.0, 0.0), 0.0
    bucket.take(MIN_BURST, now)
    for _ in range(20):
        now += bucket.take(1, now)
        assert bucket.take(1, now) == 0
        assert bucket.take(255, now, paid=1) == 0


def test_a_refusal_costs_nothing() -> None:
    bucket = TokenBucket(10.0, 0.0)
    bucket.take(MIN_BURST, 0.0)
    waits = [bucket.take(200, 0.0) for _ in range(100)]
    assert set(waits) == {waits[0]}


@given(
    st.floats(0.1, 5000),
    st.lists(st.tuples(st.floats(0, 2), st.integers(1, 256)), min_size=1, max_size=60),
)
def test_over_any_time_no_more_passes_than_rate_burst_and_one_batch(
    rate: float, calls: list[tuple[float, int]]
) -> None:
    bucket, now, passed = TokenBucket(rate, 0.0), 0.0, 0
    for pause, items in calls:
        now += pause
        wait = bucket.take(items, now)
        assert wait >= 0
        passed += 0 if wait else items
    assert passed <= rate * now + bucket.burst + 256
