from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine.registry.vault import Vault
from serving.access import authentication as gates
from serving.access.authentication import UNKNOWN_PER_S, KeyGate
from serving.access.authorization import MIN_BURST, Principal, Role
from serving.access.keys import make_key, parse_key
from serving.errors import RateLimited, Unauthenticated

CACHE_S = 5.0
START = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


def admit(gate: KeyGate, key: str | None) -> Principal:
    return asyncio.run(gate.admit(key))


def id_of(key: str) -> str:
    parsed = parse_key(key)
    assert parsed is not None
    return parsed.id


def with_other_secret(key: str) -> str:
    return key[:-1] + ("a" if key[-1] != "a" else "b")


@pytest.mark.parametrize(
    ("role", "carrier", "outlet"),
    [("outlet", "red", "r1"), ("carrier", "red", None), ("fraud", None, None)],
)
def test_a_key_is_its_principal_looked_up_once_in_the_cache_time(
    role: str, carrier: str | None, outlet: str | None, gate: KeyGate, store: Any, add_key: Any
) -> None:
    key = add_key(role, rate_limit=1000.0)
    assert gate.admit_known(key) is None
    expected = Principal(id_of(key), Role(role), carrier, outlet, 1000.0)
    assert admit(gate, key) == expected
    assert gate.admit_known(key) == expected
    assert admit(gate, key) == expected
    assert store.looked_up == [id_of(key)]


def test_what_is_no_key_of_ours_is_unauthenticated(gate: KeyGate, vault: Vault) -> None:
    for key in (None, "", "Bearer", "x" * 10_000, make_key(vault).text):
        assert gate.admit_known(key) is None
        with pytest.raises(Unauthenticated):
            admit(gate, key)


def test_another_secret_is_refused_before_and_after_the_look_up(
    gate: KeyGate, store: Any, add_key: Any
) -> None:
    key = add_key()
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            admit(gate, with_other_secret(key))
        assert gate.admit_known(with_other_secret(key)) is None
        assert admit(gate, key).role is Role.CARRIER
    assert len(store.looked_up) == 1


def test_a_revoked_key_is_refused_within_the_cache_time(
    gate: KeyGate, store: Any, add_key: Any, time: Any
) -> None:
    key = add_key()
    admit(gate, key)
    store.revoke_api_key(id_of(key), actor="test")
    time.passed_s += CACHE_S - 0.01
    assert gate.admit_known(key) is not None
    time.passed_s += 0.01
    assert gate.admit_known(key) is None
    with pytest.raises(Unauthenticated):
        admit(gate, key)
    assert gate.admit_known(key) is None
    assert gate._known == {}


def test_the_key_of_a_closed_outlet_is_refused_within_the_cache_time(
    gate: KeyGate, store: Any, add_key: Any, time: Any
) -> None:
    outlets, carriers = add_key("outlet"), add_key()
    admit(gate, outlets)
    store.close_outlet("r1", actor="test")
    time.passed_s += CACHE_S - 0.01
    assert gate.admit_known(outlets) is not None
    time.passed_s += 0.01
    assert gate.admit_known(outlets) is None
    with pytest.raises(Unauthenticated):
        admit(gate, outlets)
    assert admit(gate, carriers).role is Role.CARRIER


def test_without_a_cache_a_revoked_key_is_refused_at_once(
    make_gate: Any, store: Any, add_key: Any
) -> None:
    gate, key = make_gate(cache_s=0), add_key()
    admit(gate, key)
    assert gate.admit_known(key) is None
    admit(gate, key)
    store.revoke_api_key(id_of(key), actor="test")
    with pytest.raises(Unauthenticated):
        admit(gate, key)
    assert len(store.looked_up) == 3


def test_a_key_expires_to_the_moment_whatever_the_cache(
    gate: KeyGate, store: Any, add_key: Any, time: Any
) -> None:
    key = add_key(expires_at=START + timedelta(seconds=2))
    admit(gate, key)
    time.passed_s += 1.99
    assert gate.admit_known(key) is not None
    time.passed_s += 0.01
    assert gate.admit_known(key) is None
    with pytest.raises(Unauthenticated):
        admit(gate, key)


def test_a_key_that_is_added_is_taken_within_the_cache_time(
    gate: KeyGate, store: Any, add_key: Any, vault: Vault, time: Any
) -> None:
    made = make_key(vault)
    with pytest.raises(Unauthenticated):
        admit(gate, made.text)
    add_key(id=made.id, digest=made.digest)
    with pytest.raises(Unauthenticated):
        admit(gate, made.text)
    assert len(store.looked_up) == 1
    time.passed_s += CACHE_S
    assert admit(gate, made.text).key_id == made.id


def test_made_up_keys_cost_no_look_up_and_no_memory(gate: KeyGate, store: Any) -> None:
    for number in range(2000):
        with pytest.raises(Unauthenticated):
            admit(gate, f"sosie_{number:012d}_{'x' * 43}")
    assert store.looked_up == []
    assert (len(gate._known), len(gate._absent)) == (0, 0)


def test_unknown_ids_are_looked_up_so_many_times_a_second_and_known_ones_always(
    gate: KeyGate, store: Any, vault: Vault, add_key: Any, time: Any
) -> None:
    known = add_key()
    admit(gate, known)

    waits_s: list[float | None] = []

    async def flood(tries: int) -> None:
        for _ in range(tries):
            try:
                await gate.admit(make_key(vault).text)
            except RateLimited as error:
                waits_s.append(error.retry_after_s)
            except Unauthenticated:
                pass

    asyncio.run(flood(MIN_BURST + 50))
    assert len(waits_s) >= 49
    assert all(wait_s and wait_s <= 1 / UNKNOWN_PER_S + 1e-6 for wait_s in waits_s)
    time.passed_s += CACHE_S
    before = len(store.looked_up)
    asyncio.run(flood(2 * MIN_BURST))
    assert len(store.looked_up) - before <= CACHE_S * UNKNOWN_PER_S
    assert admit(gate, known).key_id == id_of(known)


def test_no_more_is_remembered_than_was_agreed(
    gate: KeyGate, vault: Vault, add_key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "MAX_KNOWN", 3)
    keys = [add_key() for _ in range(5)]
    for key in keys:
        admit(gate, key)
        with pytest.raises(Unauthenticated):
            admit(gate, make_key(vault).text)
    assert (len(gate._known), len(gate._absent)) == (3, 3)
    assert [gate.admit_known(key) is not None for key in keys] == [False, False, True, True, True]


def test_calls_at_once_share_one_look_up_and_one_that_leaves_stops_no_other(
    gate: KeyGate, store: Any, add_key: Any
) -> None:
    key = add_key()
    store.may_answer.clear()

    async def call_at_once() -> list[Principal]:
        calls = [asyncio.create_task(gate.admit(key)) for _ in range(20)]
        await asyncio.sleep(0.05)
        calls[0].cancel()
        store.may_answer.set()
        answers = await asyncio.gather(*calls[1:])
        assert calls[0].cancelled()
        return answers

    assert len(asyncio.run(call_at_once())) == 19
    assert len(store.looked_up) == 1


def test_a_look_up_does_not_hold_up_the_loop(gate: KeyGate, store: Any, add_key: Any) -> None:
    key = add_key()
    store.may_answer.clear()
    release = threading.Timer(0.3, store.may_answer.set)

    async def count_turns() -> int:
        call, turns = asyncio.create_task(gate.admit(key)), 0
        while not call.done():
            turns += 1
            await asyncio.sleep(0.01)
        await call
        return turns

    release.start()
    assert asyncio.run(count_turns()) > 5
    release.join()


def test_a_look_up_that_fails_is_told_and_tried_again(
    gate: KeyGate, store: Any, add_key: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = add_key()
    with monkeypatch.context() as patch:
        patch.setattr(store, "_engine", None)
        with pytest.raises(AttributeError):
            admit(gate, key)
    assert admit(gate, key).role is Role.CARRIER


def test_no_refusal_and_no_text_form_shows_a_key(gate: KeyGate, add_key: Any, vault: Vault) -> None:
    key = add_key(rate_limit=1.0)
    gate.charge(admit(gate, key), MIN_BURST)
    shown = repr((gate, gate._known))
    for tried in (key, with_other_secret(key), make_key(vault).text):
        with pytest.raises((RateLimited, Unauthenticated)) as caught:
            admit(gate, tried)
        shown += f"{caught.value!r}{caught.value}"
        assert tried[-43:] not in shown
    assert str(gate._known[id_of(key)].digest)[2:10] not in shown
