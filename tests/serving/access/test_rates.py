"""Rates: each key has its own, in each replica its share, and debts are paid before it goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.access.authentication import Authenticator, TokenBucket
from serving.access.authorization import MIN_BURST, Principal
from serving.errors import RateLimited

CACHE_S = 5.0


def admit(auth: Authenticator, key: str | None) -> Principal:
    return asyncio.run(auth.admit(key))


def test_a_spent_rate_is_refused_until_it_fills_again(
    auth: Authenticator, add_key: Any, time: Any
) -> None:
    key = add_key(rate_limit=10.0)
    admit(auth, key)
    for _ in range(MIN_BURST - 1):
        assert auth.admit_known(key) is not None
    with pytest.raises(RateLimited) as caught:
        auth.admit_known(key)
    assert caught.value.retry_after_s == pytest.approx(0.1)
    with pytest.raises(RateLimited):
        admit(auth, key)
    time.passed_s += 0.1
    assert auth.admit_known(key) is not None


def test_a_look_up_brings_no_new_allowance(auth: Authenticator, add_key: Any, time: Any) -> None:
    key = add_key(rate_limit=1.0)
    principal = admit(auth, key)
    auth.charge(principal, MIN_BURST - 1)
    time.passed_s += CACHE_S
    for _ in range(int(CACHE_S)):
        admit(auth, key)
    with pytest.raises(RateLimited):
        admit(auth, key)


def test_a_batch_is_charged_by_its_items(auth: Authenticator, add_key: Any) -> None:
    key = add_key(rate_limit=100.0)
    principal = admit(auth, key)
    auth.charge(principal, 0)
    auth.charge(principal, MIN_BURST - 1)
    with pytest.raises(RateLimited):
        auth.admit_known(key)
    auth.charge(principal, 1)
    with pytest.raises(RateLimited) as caught:
        auth.charge(principal, 1)
    assert caught.value.retry_after_s == pytest.approx(0.01)


def test_every_replica_has_its_share_of_a_rate(make_auth: Any, add_key: Any, time: Any) -> None:
    key = add_key(rate_limit=4000.0)
    auth = make_auth(replicas=4)
    admit(auth, key)
    for _ in range(999):
        auth.admit_known(key)
    with pytest.raises(RateLimited):
        auth.admit_known(key)


def test_the_setting_is_for_keys_without_a_rate_of_their_own(make_auth: Any, add_key: Any) -> None:
    own, plain = add_key(rate_limit=1000.0), add_key()
    limited, free = make_auth(rate_limit=500.0), make_auth()
    for auth, key, passing in (
        (limited, plain, 500),
        (limited, own, 1000),
        (free, plain, 5000),
    ):
        admit(auth, key)
        passed = 1
        try:
            while passed < 5000:
                auth.admit_known(key)
                passed += 1
        except RateLimited:
            pass
        assert passed == passing


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
