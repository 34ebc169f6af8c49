"""A clock keeps its order; cores are shared in equal parts."""

from __future__ import annotations

import pytest

from engine.capacity.events import Clock, Cores


def play(cores: int, *tasks: tuple[float, float, int]) -> tuple[list[float], float]:
    """When each task (start, seconds, threads) ends, and the core-seconds of all."""
    clock = Clock()
    shared = Cores(clock, cores)
    ends = [0.0] * len(tasks)

    def begin(place: int, seconds: float, threads: int) -> None:
        shared.work(seconds, lambda: ends.__setitem__(place, clock.now), threads)

    for place, (start, seconds, threads) in enumerate(tasks):
        clock.after(start, lambda place=place, s=seconds, t=threads: begin(place, s, t))
    clock.run(lambda: False)
    return ends, shared.busy_s


def test_events_come_in_order_and_those_of_one_moment_as_they_were_made() -> None:
    clock, told = Clock(), []
    clock.after(2, lambda: told.append("late"))
    clock.after(1, lambda: told.append("first"))
    clock.after(1, lambda: told.append("second"))
    clock.run(lambda: len(told) == 2)
    assert told == ["first", "second"]
    assert clock.now == 1


def test_tasks_that_have_a_core_each_run_at_full_speed() -> None:
    ends, busy = play(2, (0, 1, 1), (0.5, 2, 1))
    assert ends == pytest.approx([1, 2.5])
    assert busy == pytest.approx(3)


def test_two_on_one_core_take_twice_as_long() -> None:
    ends, busy = play(1, (0, 1, 1), (0, 1, 1))
    assert ends == pytest.approx([2, 2])
    assert busy == pytest.approx(2)
    # The second comes when half of the first is done, and both end later for it.
    assert play(1, (0, 1, 1), (0.5, 1, 1))[0] == pytest.approx([1.5, 2.0])


def test_threads_count_each() -> None:
    # Two threads and one on two cores: each thread has two thirds of a core.
    ends, busy = play(2, (0, 1, 2), (0, 1, 1))
    assert ends == pytest.approx([1.5, 1.5])
    assert busy == pytest.approx(3)
