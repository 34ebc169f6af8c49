"""Plans: every kind is planted, newcomers enroll once, arrivals have their rate."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.errors import LoadTestRefused
from loadtest.participants import SpecimenNumbers
from loadtest.schedule import (
    DEFAULT_MIX,
    PLANTED,
    ArrivalProcess,
    Kind,
    LoadPhase,
    Mix,
    Planner,
    Traffic,
    Visit,
    draw_arrivals,
    require_planted,
)
from tests.loadtest.making import make_participants


def plan(
    rate: float = 20, seconds: float = 10, mix: Mix = DEFAULT_MIX, seed: int = 0
) -> tuple[Visit, ...]:
    rng = np.random.default_rng(seed)
    planner = Planner(make_participants(), SpecimenNumbers("TEST", 0, 2026), rng)
    arrivals = draw_arrivals((LoadPhase("a", seconds, rate),), ArrivalProcess.POISSON, rng)
    return planner.write(arrivals, mix)


def count(visits: tuple[Visit, ...]) -> Counter[Kind]:
    return Counter(visit.kind for visit in visits)


@pytest.mark.parametrize("seed", range(5))
def test_even_a_short_run_has_one_of_every_planted_kind(seed: int) -> None:
    visits = plan(rate=12, seconds=4, seed=seed)
    assert set(PLANTED) <= set(count(visits))


def test_visits_are_in_order_and_have_the_shares_of_the_mix() -> None:
    visits = plan(rate=40, seconds=100)
    assert [one.due_s for one in visits] == sorted(one.due_s for one in visits)
    assert len({one.number for one in visits}) == len(visits)
    shares = Counter(one.traffic for one in visits)
    for traffic, share in DEFAULT_MIX.items():
        assert abs(shares[traffic] / len(visits) - share) < 0.03
    assert abs(len(visits) - 4_000) < 260


def test_newcomers_enroll_once_and_then_holders_enroll_again() -> None:
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
        assert one.due_s > first.due_s
        assert one.call.idempotency_key == first.call.idempotency_key
        assert (first.has_repeat, one.has_repeat) == (True, False)
        assert (one.call.body == first.call.body) is (one.kind is Kind.RETRY)


def test_a_race_is_one_face_under_two_documents_at_one_moment() -> None:
    races = [one for one in plan(rate=50) if one.kind is Kind.RACE]
    pairs = zip(races[::2], races[1::2], strict=True)
    for one, two in pairs:
        assert one.due_s == two.due_s
        assert one.person == two.person
        assert two.partner == one.number
        assert one.call.body.document != two.call.body.document


def test_one_seed_gives_one_plan() -> None:
    assert plan(seed=7) == plan(seed=7)
    assert plan(seed=7) != plan(seed=8)


def test_a_run_too_short_for_anything_planted_is_refused() -> None:
    only = {Traffic.ENROLL: 1.0}
    with pytest.raises(LoadTestRefused, match="nothing can be planted"):
        require_planted((), only)
    require_planted(plan(rate=5, seconds=2, mix=only), only)


def test_a_run_that_outlasts_its_templates_is_refused() -> None:
    participants = make_participants(expires_at=datetime.now(UTC) + timedelta(seconds=60))
    participants.require_fresh(50)
    with pytest.raises(LoadTestRefused, match="template_ttl_h"):
        participants.require_fresh(70)


PHASES = (LoadPhase("a", 10, 5), LoadPhase("b", 2, 50, is_judged=False), LoadPhase("c", 4, 0))
Seeds = st.integers(0, 2**32 - 1)


@given(process=st.sampled_from(ArrivalProcess), seed=Seeds)
def test_every_arrival_lies_in_its_phase_and_in_order(process: ArrivalProcess, seed: int) -> None:
    arrivals = draw_arrivals(PHASES, process, np.random.default_rng(seed))
    assert arrivals == sorted(arrivals)
    edges = (0, 10, 12, 16)
    assert all(edges[phase] <= due_s <= edges[phase + 1] for due_s, phase in arrivals)
    assert not any(phase == 2 for _, phase in arrivals)


def test_constant_arrivals_are_evenly_spaced() -> None:
    arrivals = draw_arrivals(
        (LoadPhase("a", 2, 10),), ArrivalProcess.CONSTANT, np.random.default_rng(0)
    )
    assert len(arrivals) == 20
    assert np.allclose(np.diff([due_s for due_s, _ in arrivals]), 0.1)
