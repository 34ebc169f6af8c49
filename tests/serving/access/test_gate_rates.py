"""Rates at the gate: each key its own, in each replica its share."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.access.authentication import MIN_BURST, KeyGate
from serving.access.authorization import Principal
from serving.errors import RateLimited

CACHE_S = 5.0


def admit(gate: KeyGate, key: str | None) -> Principal:
    return asyncio.run(gate.admit(key))


def test_a_spent_rate_is_refused_until_it_fills_again(
    gate: KeyGate, add_key: Any, time: Any
) -> None:
    key = add_key(rate_limit=10.0)
    admit(gate, key)
    for _ in range(MIN_BURST - 1):
        assert gate.admit_known(key) is not None
    with pytest.raises(RateLimited) as caught:
        gate.admit_known(key)
    assert caught.value.retry_after_s == pytest.approx(0.1)
    with pytest.raises(RateLimited):
        admit(gate, key)
    time.passed_s += 0.1
    assert gate.admit_known(key) is not None


def test_a_look_up_brings_no_new_allowance(gate: KeyGate, add_key: Any, time: Any) -> None:
    key = add_key(rate_limit=1.0)
    principal = admit(gate, key)
    gate.charge(principal, MIN_BURST - 1)
    time.passed_s += CACHE_S
    for _ in range(int(CACHE_S)):
        admit(gate, key)
    with pytest.raises(RateLimited):
        admit(gate, key)


def test_a_batch_is_charged_by_its_items(gate: KeyGate, add_key: Any) -> None:
    key = add_key(rate_limit=100.0)
    principal = admit(gate, key)
    gate.charge(principal, 0)
    gate.charge(principal, MIN_BURST - 1)
    with pytest.raises(RateLimited):
        gate.admit_known(key)
    gate.charge(principal, 1)
    with pytest.raises(RateLimited) as caught:
        gate.charge(principal, 1)
    assert caught.value.retry_after_s == pytest.approx(0.01)


def test_every_replica_has_its_share_of_a_rate(make_gate: Any, add_key: Any, time: Any) -> None:
    key = add_key(rate_limit=4000.0)
    gate = make_gate(replicas=4)
    admit(gate, key)
    for _ in range(999):
        gate.admit_known(key)
    with pytest.raises(RateLimited):
        gate.admit_known(key)


def test_the_setting_is_for_keys_without_a_rate_of_their_own(make_gate: Any, add_key: Any) -> None:
    own, plain = add_key(rate_limit=1000.0), add_key()
    limited, free = make_gate(rate_limit=500.0), make_gate()
    for gate, key, passing in ((limited, plain, 500), (limited, own, 1000), (free, plain, 5000)):
        admit(gate, key)
        passed = 1
        try:
            while passed < 5000:
                gate.admit_known(key)
                passed += 1
        except RateLimited:
            pass
        assert passed == passing
