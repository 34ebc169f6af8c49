"""What is planted is planted: in every run, with people who come once, and each with its truth."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.errors import LoadTestRefused
from loadtest.oracle import CERTAIN, POSSIBLE, REJECTED, REVIEW, expect_duplicate
from loadtest.schedule import (
    PLANTED,
    USUAL_MIX,
    Kind,
    Mix,
    Planner,
    Process,
    Stretch,
    Traffic,
    Visit,
    draw_moments,
    require_playable,
)
from loadtest.service_calls import Enroll, Serials
from tests.loadtest.making import PAPERS, THRESHOLDS, make_cast


def plan(
    rate: float = 20, seconds: float = 10, mix: Mix = USUAL_MIX, seed: int = 0
) -> tuple[Visit, ...]:
    rng = np.random.default_rng(seed)
    planner = Planner(make_cast(), Serials(PAPERS), rng)
    moments = draw_moments((Stretch("a", seconds, rate),), Process.POISSON, rng)
    return planner.write(moments, mix)


def count(visits: tuple[Visit, ...]) -> Counter[Kind]:
    return Counter(visit.kind for visit in visits)


@pytest.mark.parametrize("seed", range(5))
def test_even_a_short_run_has_one_of_every_planted_kind(seed: int) -> None:
    visits = plan(rate=12, seconds=4, seed=seed)
    assert set(PLANTED) <= set(count(visits))


def test_visits_are_in_order_and_numbered_once() -> None:
    visits = plan()
    assert [one.due_s for one in visits] == sorted(one.due_s for one in visits)
    assert len({one.number for one in visits}) == len(visits)


def test_the_mix_has_its_shares_and_nothing_is_added_to_the_arrivals() -> None:
    visits = plan(rate=40, seconds=100)
    shares = Counter(one.traffic for one in visits)
    for traffic, share in USUAL_MIX.items():
        assert abs(shares[traffic] / len(visits) - share) < 0.03
    assert abs(len(visits) - 4_000) < 260


def test_people_come_once_and_subscribers_come_back_when_they_are_all_gone() -> None:
    visits = plan(rate=100, seconds=20)
    newcomers = [one.person for one in visits if one.kind is Kind.NEWCOMER]
    racers = [one.person for one in visits if one.kind is Kind.RACE]
    assert len(newcomers) == len(set(newcomers)) == 20
    assert sorted(Counter(racers).values()) == [2] * 4
    assert count(visits)[Kind.RETURNING] > 100
    keys = [one.call.idempotency_key for one in visits if one.kind in (Kind.NEWCOMER, Kind.RACE)]
    assert len(set(keys)) == len(keys)


def test_a_repeat_has_the_key_of_its_first_and_comes_later() -> None:
    by_number = {one.number: one for one in plan(rate=50)}
    repeats = [one for one in by_number.values() if one.kind in (Kind.RETRY, Kind.CONFLICT)]
    assert repeats
    for one in repeats:
        assert one.partner is not None
        first = by_number[one.partner]
        assert isinstance(one.call, Enroll)
        assert isinstance(first.call, Enroll)
        assert one.due_s > first.due_s
        assert one.call.idempotency_key == first.call.idempotency_key
        assert (first.has_repeat, one.has_repeat) == (True, False)
        assert (one.call.msisdn == first.call.msisdn) is (one.kind is Kind.RETRY)


def test_a_race_is_one_face_under_two_documents_at_one_moment() -> None:
    races = [one for one in plan(rate=50) if one.kind is Kind.RACE]
    pairs = zip(races[::2], races[1::2], strict=True)
    for one, two in pairs:
        assert one.due_s == two.due_s
        assert one.person == two.person
        assert two.partner == one.number
        assert isinstance(one.call, Enroll)
        assert isinstance(two.call, Enroll)
        assert one.call.paper != two.call.paper


def test_one_seed_gives_one_plan() -> None:
    assert plan(seed=7) == plan(seed=7)
    assert plan(seed=7) != plan(seed=8)


def test_a_run_too_short_for_anything_planted_is_refused() -> None:
    only = {Traffic.ENROLL: 1.0}
    with pytest.raises(LoadTestRefused, match="nothing can be planted"):
        require_playable((), only)
    require_playable(plan(rate=5, seconds=2, mix=only), only)


def test_a_run_that_outlasts_its_templates_is_refused() -> None:
    cast = make_cast(expires_at=datetime.now(UTC) + timedelta(seconds=60))
    cast.require_fresh(50)
    with pytest.raises(LoadTestRefused, match="template_ttl_h"):
        cast.require_fresh(70)


def test_what_is_certain_must_be_rejected_as_that() -> None:
    assert expect_duplicate(0.9, THRESHOLDS).verdicts == ((REJECTED, CERTAIN),)
    possible = expect_duplicate(0.6, THRESHOLDS)
    assert (REVIEW, POSSIBLE) in possible.verdicts


STRETCHES = (Stretch("a", 10, 5), Stretch("b", 2, 50, is_judged=False), Stretch("c", 4, 0))
Seeds = st.integers(0, 2**32 - 1)


@given(process=st.sampled_from(Process), seed=Seeds)
def test_every_moment_lies_in_its_stretch_and_in_order(process: Process, seed: int) -> None:
    moments = draw_moments(STRETCHES, process, np.random.default_rng(seed))
    assert (np.diff(moments.due_s) >= 0).all()
    starts = np.array([0, 10, 12])[moments.stretch]
    ends = np.array([10, 12, 16])[moments.stretch]
    assert ((moments.due_s >= starts) & (moments.due_s <= ends)).all()
    assert not (moments.stretch == 2).any()


def test_constant_arrivals_are_evenly_spaced() -> None:
    moments = draw_moments((Stretch("a", 2, 10),), Process.CONSTANT, np.random.default_rng(0))
    assert len(moments) == 20
    assert np.allclose(np.diff(moments.due_s), 0.1)


def test_poisson_arrivals_have_exponential_gaps() -> None:
    moments = draw_moments((Stretch("a", 1000, 20),), Process.POISSON, np.random.default_rng(1))
    gaps = np.diff(moments.due_s)
    assert abs(len(moments) - 20_000) < 4 * np.sqrt(20_000)
    assert abs(gaps.std() / gaps.mean() - 1) < 0.05


@given(seed=Seeds)
def test_one_seed_gives_one_schedule(seed: int) -> None:
    one, two = (
        draw_moments(STRETCHES, Process.POISSON, np.random.default_rng(seed)) for _ in range(2)
    )
    assert np.array_equal(one.due_s, two.due_s)
