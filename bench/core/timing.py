"""Repeats of several actions, interleaved so that a slow moment of the machine meets them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

PAUSE_S = 0.03
"""For so long, at most, the threads of OpenMP spin after a call and keep cores from others."""

_SAMPLE_S, _FEWEST_SAMPLES = 0.0005, 5

Result = TypeVar("Result")
Timed = Callable[[], float]
"""Performs the work once; returns its seconds."""
Seconds = NDArray[np.float64]


def clock(action: Callable[[], Result]) -> tuple[Result, float]:
    """What the action returns, and its seconds."""
    start = time.perf_counter()
    result = action()
    return result, time.perf_counter() - start


def timed(action: Callable[[], object]) -> Timed:
    """The action, with a clock around it."""

    return lambda: clock(action)[1]


def rested(action: Callable[[], object], calls: int = 1) -> Timed:
    """Mean seconds of a call over `calls` in a row, after a pause that lets other threads end."""

    def perform() -> float:
        time.sleep(PAUSE_S)
        return _mean_of(action, calls)

    return perform


def repeat(action: Callable[[], object], most_s: float) -> Seconds:
    """float64[n]: seconds of a call, repeated for `most_s`; five samples of 0.5 ms at least."""
    calls = max(1, round(_SAMPLE_S / clock(action)[1]))
    seconds: list[float] = []
    end = time.perf_counter() + most_s
    while len(seconds) < _FEWEST_SAMPLES or time.perf_counter() < end:
        seconds.append(_mean_of(action, calls))
    return np.array(seconds)


def _mean_of(action: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        action()
    return (time.perf_counter() - start) / calls


def interleave(actions: Mapping[str, Timed], rounds: int) -> dict[str, Seconds]:
    """float64[rounds] of each action, after one round that warms up and is not counted.

    Every other round runs backwards, so that none of them always follows the same one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for action in actions.values():
        action()
    names = list(actions)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            seconds[name].append(actions[name]())
    return {name: np.array(values) for name, values in seconds.items()}


def speedup(slow: Seconds, fast: Seconds) -> float:
    """How many times as fast: the median over rounds, each measured against its own neighbour."""
    return float(np.median(slow / fast))
