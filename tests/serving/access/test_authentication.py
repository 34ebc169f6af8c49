"""Keys: made, read back, looked up, cached, limited in their rate."""

import asyncio
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault
from schema.actors import Role
from serving.access import authentication as module
from serving.access.authentication import (
    KEYS_OF_CARRIER,
    MAX_LENGTH,
    UNKNOWN_PER_S,
    Authenticator,
    TokenBucket,
    digest_key,
    is_issued_id,
    make_key,
    parse_key,
)
from serving.access.authorization import MIN_BURST, Principal
from serving.cluster import haproxy
from serving.errors import RateLimited, Unauthenticated

CACHE_S = 5.0
START = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


def admit(auth: Authenticator, key: str | None, *, enrolls: bool = False) -> Principal:
    return asyncio.run(auth.admit(key, enrolls=enrolls))


def id_of(key: str) -> str:
    parsed = parse_key(key)
    return parsed.id


def with_other_secret(key: str) -> str:
    return key[:-1] + ("a" if key[-1] != "a" else "b")


@pytest.mark.parametrize(
    ("role", "carrier", "outlet"),
    [("outlet", "red", "r1"), ("carrier", "red", None), ("fraud", None, None)],
)
def test_a_key_is_its_principal_looked_up_once_in_the_cache_time(
    role: str, carrier: str | None, outlet: str | None, auth, store, add_key
) -> None:
    key = add_key(role, rate_limit=1000.0)
    assert auth.admit_known(key) is None
    expected = Principal(
        id_of(key), Role(role), carrier, outlet, 1000.0, "ops" if role == "fraud" else None
    )
    assert admit(auth, key) == expected
    assert auth.admit_known(key) == expected
    assert admit(auth, key) == expected
    assert store.looked_up == [id_of(key)]


def test_another_secret_is_refused_before_and_after_the_look_up(auth, store, add_key) -> None:
    key = add_key()
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            admit(auth, with_other_secret(key))
        assert auth.admit_known(with_other_secret(key)) is None
        assert admit(auth, key).role is Role.CARRIER
    assert len(store.looked_up) == 1


@pytest.mark.parametrize("is_revoked", [True, False])
def test_a_key_that_is_revoked_or_of_a_closed_outlet_is_refused_within_the_cache_time(
    auth, store, add_key, time, is_revoked: bool
) -> None:
    key, carriers = add_key("outlet"), add_key()
    admit(auth, key)
    if is_revoked:
        store.revoke_api_key(id_of(key), actor="test")
    else:
        store.close_outlet("r1", actor="test")
    time.passed_s += CACHE_S - 0.01
    assert auth.admit_known(key) is not None
    time.passed_s += 0.01
    assert auth.admit_known(key) is None
    with pytest.raises(Unauthenticated):
        admit(auth, key)
    assert auth.admit_known(key) is None
    assert auth._known == {}
    assert admit(auth, carriers).role is Role.CARRIER


def test_a_key_expires_to_the_moment_whatever_the_cache(auth, store, add_key, time) -> None:
    key = add_key(expires_at=START + timedelta(seconds=2))
    admit(auth, key)
    time.passed_s += 1.99
    assert auth.admit_known(key) is not None
    time.passed_s += 0.01
    assert auth.admit_known(key) is None
    with pytest.raises(Unauthenticated):
        admit(auth, key)


def test_a_key_that_is_added_is_taken_within_the_cache_time(
    auth, store, add_key, vault, time
) -> None:
    made = make_key(vault)
    with pytest.raises(Unauthenticated):
        admit(auth, made.text)
    add_key(id=made.id, digest=made.digest)
    with pytest.raises(Unauthenticated):
        admit(auth, made.text)
    assert len(store.looked_up) == 1
    time.passed_s += CACHE_S
    assert admit(auth, made.text).key_id == made.id


def test_made_up_keys_cost_no_look_up_and_no_memory(auth, store) -> None:
    for number in range(2000):
        with pytest.raises(Unauthenticated):
            admit(auth, f"sosie_{number:012d}_{'x' * 43}")
    assert store.looked_up == []
    assert (len(auth._known), len(auth._absent)) == (0, 0)


def test_unknown_ids_are_looked_up_so_many_times_a_second_and_known_ones_always(
    auth, store, vault, add_key, time
) -> None:
    known = add_key()
    admit(auth, known)

    waits_s: list[float | None] = []

    async def flood(tries: int) -> None:
        for _ in range(tries):
            try:
                await auth.admit(make_key(vault).text)
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
    assert admit(auth, known).key_id == id_of(known)


def test_no_more_is_remembered_than_was_agreed(auth, vault, add_key, monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN", 3)
    keys = [add_key() for _ in range(5)]
    for key in keys:
        admit(auth, key)
        with pytest.raises(Unauthenticated):
            admit(auth, make_key(vault).text)
    assert (len(auth._known), len(auth._absent)) == (3, 3)
    assert [auth.admit_known(key) is not None for key in keys] == [False, False, True, True, True]


def test_calls_at_once_share_one_look_up_and_one_that_leaves_stops_no_other(
    auth, store, add_key
) -> None:
    key = add_key()
    store.may_answer.clear()

    async def call_at_once() -> list[Principal]:
        calls = [asyncio.create_task(auth.admit(key)) for _ in range(20)]
        while not store.looked_up:
            await asyncio.sleep(0.001)
        calls[0].cancel()
        store.may_answer.set()
        answers = await asyncio.gather(*calls[1:])
        assert calls[0].cancelled()
        return answers

    assert len(asyncio.run(call_at_once())) == 19
    assert len(store.looked_up) == 1


def test_a_look_up_that_fails_is_told_and_tried_again(auth, store, add_key, monkeypatch) -> None:
    key = add_key()
    with monkeypatch.context() as patch:
        patch.setattr(store, "_place", None)
        with pytest.raises(AttributeError):
            admit(auth, key)
    assert admit(auth, key).role is Role.CARRIER


def test_no_refusal_and_no_text_form_shows_a_key(auth, add_key, vault) -> None:
    key = add_key(rate_limit=1.0)
    auth.charge(admit(auth, key), MIN_BURST)
    made = make_key(vault)
    shown = repr((made, parse_key(made.text)))
    assert made.id in shown
    assert made.text[-43:] not in shown
    shown = repr((auth, auth._known))
    for tried in (key, with_other_secret(key), make_key(vault).text):
        with pytest.raises((RateLimited, Unauthenticated)) as caught:
            admit(auth, tried)
        shown += f"{caught.value!r}{caught.value}"
        assert tried[-43:] not in shown
    assert str(auth._known[f"key:{id_of(key)}"].row.digest)[2:10] not in shown


KEY = "sosie_" + "a" * 12 + "_" + "B" * 43


def test_a_key_is_read_back_and_its_digest_is_made_again(vault) -> None:
    made = make_key(vault)
    assert re.fullmatch(r"sosie_live_[0-9a-z]{12}_[0-9A-Za-z]{43}", made.text)
    parsed = parse_key(made.text)
    assert made.text == f"sosie_live_{parsed.id}_{parsed.secret}"
    assert parsed.id == made.id
    assert digest_key(vault, parsed.id, parsed.secret) == made.digest
    assert len(made.digest) == 32
    tested = make_key(vault, is_of_sandbox=True)
    assert tested.text.startswith("sosie_sandbox_")
    # A key of an earlier version does not say where it is for.
    earlier = tested.text.replace("sandbox_", "")
    assert parse_key(earlier) == parse_key(tested.text)
    # The proxy lets no other form pass.
    assert all(re.fullmatch(haproxy._KEY, one) for one in (made.text, tested.text, earlier))


def test_keys_differ_in_id_and_secret(vault) -> None:
    made = [make_key(vault) for _ in range(200)]
    assert len({key.id for key in made}) == 200
    assert len({key.text[-43:] for key in made}) == 200
    # 8,600 draws of 62 signs: one that never came would be a mistake of the alphabet.
    assert len(set("".join(key.text[-43:] for key in made))) == 62


def test_the_digest_is_of_id_and_secret_and_of_one_deployment(vault) -> None:
    digest = digest_key(vault, "ab", "cd")
    others = [
        digest_key(vault, "a", "bcd"),
        digest_key(vault, "ab", "ce"),
        digest_key(vault, "ac", "cd"),
        digest_key(Vault(KeyRing.generate(), 8), "ab", "cd"),
    ]
    assert digest not in others
    assert len(set(others)) == 4


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "sosie",
        KEY[:-1],
        KEY + "B",
        KEY + "\n",
        " " + KEY,
        KEY.replace("sosie", "Sosie"),
        KEY.replace("a", "A"),
        KEY.replace("B" * 43, "B" * 42 + "-"),
        KEY.replace("B" * 43, "B" * 42 + "é"),
        KEY.replace("a" * 12, "a" * 11 + "\u0663"),
        KEY.replace("_", "-"),
        "B" * (MAX_LENGTH + 1),
        KEY * 1_000_000,
        "\0",
        "\udcff",
    ],
)
def test_what_is_no_key_is_rejected(text: str | None) -> None:
    assert parse_key(KEY) is not None
    assert parse_key(text) is None


def test_ids_of_this_deployment_alone_are_taken_for_issued(vault) -> None:
    other = Vault(KeyRing.generate(), 8)
    for _ in range(50):
        assert is_issued_id(vault, make_key(vault).id)
    assert sum(is_issued_id(vault, make_key(other).id) for _ in range(50)) == 0


def test_a_spent_rate_is_refused_until_it_fills_again(auth, add_key, time) -> None:
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


def test_a_look_up_brings_no_new_allowance(auth, add_key, time) -> None:
    key = add_key(rate_limit=1.0)
    principal = admit(auth, key)
    auth.charge(principal, MIN_BURST - 1)
    time.passed_s += CACHE_S
    for _ in range(int(CACHE_S)):
        admit(auth, key)
    with pytest.raises(RateLimited):
        admit(auth, key)


@pytest.mark.parametrize(
    ("own_rate", "options", "replicas", "passing"),
    [
        (None, {"rate_limit": 500.0}, (1,), 500),
        (1000.0, {"rate_limit": 500.0}, (1,), 1000),
        (None, {}, (1,), 5000),
        (4000.0, {}, (4,), 1000),
        (4000.0, {}, (8, 1, 2), 500),
    ],
)
def test_a_keys_own_rate_or_else_the_setting_is_shared_by_as_many_replicas_as_there_are(
    make_auth,
    add_key,
    own_rate: float | None,
    options: Any,
    replicas: tuple[int, ...],
    passing: int,
) -> None:
    key, auth = add_key(rate_limit=own_rate), make_auth(**options)
    before, *later = replicas
    auth.share(before, before)
    admit(auth, key)
    for count in later:
        # Whoever is known already has the share of now, and no new allowance.
        auth.share(count, count)
    assert 1 + ask_until_refused(auth, key, 4999) == passing


@pytest.mark.parametrize(
    ("replicas", "enrolling", "passing"), [(4, 4, 1000), (4, 2, 2000), (2, 1, 4000), (3, 2, 2000)]
)
def test_a_key_enrolls_as_often_however_few_replicas_are_sent_enrollments(
    make_auth, add_key, replicas: int, enrolling: int, passing: int
) -> None:
    key, auth = add_key(rate_limit=4000.0), make_auth()
    auth.share(replicas, enrolling)
    admit(auth, key, enrolls=True)
    passed = 1 + ask_until_refused(auth, key, enrolls=True)
    assert passed == pytest.approx(passing, abs=1)
    assert passed * enrolling == pytest.approx(4000, abs=4)


def ask_until_refused(
    auth: Authenticator, key: str, most: int = 20_000, *, enrolls: bool = False
) -> int:
    passed = 0
    with suppress(RateLimited):
        while passed < most:
            auth.admit_known(key, enrolls=enrolls)
            passed += 1
    return passed


def test_all_keys_of_a_carrier_share_a_rate_and_other_carriers_have_theirs(
    make_auth, add_key
) -> None:
    auth = make_auth(rate_limit=300.0)
    keys = [add_key("carrier") for _ in range(2 * KEYS_OF_CARRIER)]
    for key in keys:
        admit(auth, key)
    passed = [ask_until_refused(auth, key) for key in keys]
    assert passed[0] == 299
    assert sum(passed) == KEYS_OF_CARRIER * 300 - len(keys)
    # Who was refused for its carrier has spent nothing of its own.
    assert auth._known[f"key:{id_of(keys[-1])}"].buckets[0]._tokens == pytest.approx(299, abs=1)
    other = add_key("fraud")
    admit(auth, other)
    assert ask_until_refused(auth, other) == 299


def test_a_carriers_rate_is_at_least_that_of_its_fastest_key(make_auth, add_key) -> None:
    auth = make_auth(rate_limit=300.0)
    gateway = add_key("carrier", rate_limit=8000.0)
    admit(auth, gateway)
    assert ask_until_refused(auth, gateway) == 7999


def test_photographs_of_an_enrollment_weigh_as_it_does(make_auth, add_key) -> None:
    key, auth = add_key(rate_limit=4000.0), make_auth()
    auth.share(2, 1)
    principal = admit(auth, key, enrolls=True)
    auth.charge(principal, 3999, enrolls=True)
    with pytest.raises(RateLimited):
        auth.charge(principal, 1, enrolls=True)


def test_a_full_batch_passes_and_its_debt_is_paid_before_the_next() -> None:
    bucket = TokenBucket(100.0, 0.0)
    assert bucket.take(1, 0.0) == 0
    assert bucket.take(255, 0.0, paid=1) == 0
    assert bucket.take(1, 0.0) == pytest.approx(0.01)
    assert bucket.take(1, 0.011) == 0
    assert bucket.take(255, 0.011, paid=1) == 0
    assert bucket.take(1, 0.011) == pytest.approx((1 + 255 - 0.1) / 100, abs=1e-3)


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
