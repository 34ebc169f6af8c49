"""Arrivals come at the rate that was asked for, whatever the service does."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loadtest.arrivals import Process, Stretch, draw_moments

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
