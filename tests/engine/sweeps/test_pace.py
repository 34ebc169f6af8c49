"""How fast, and for how long still."""

from __future__ import annotations

from contextlib import closing
from time import monotonic

import pytest

from engine.sweeps import pace
from engine.sweeps.pace import ProgressCount, measure_pace
from indexes.exact.scanner import Scanner
from indexes.joining.join import Progress


def test_a_pace_is_measured_in_about_a_second() -> None:
    with closing(Scanner(threads=1)) as scanner:
        measure_pace(64, scanner)  # the machine code is loaded
        started = monotonic()
        assert measure_pace(64, scanner) > 1e6
        assert monotonic() - started < 5


def test_for_few_comparisons_a_first_look_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    timed = pace._time_join

    def watch(rows: int, dim: int, scanner: Scanner) -> float:
        sizes.append(rows)
        return timed(rows, dim, scanner)

    monkeypatch.setattr(pace, "_time_join", watch)
    with closing(Scanner(threads=1)) as scanner:
        assert measure_pace(64, scanner, comparisons=1000) > 1e6
    assert sizes == [4096, 4096]


def test_the_remaining_time_is_that_of_this_run_alone() -> None:
    now = 100.0
    count = ProgressCount(lambda: now)
    resumed = count.count(Progress(5, 10, 5000, 10_000, 7))
    assert (resumed.remaining_s, count.pace) == (None, None)
    now += 2
    later = count.count(Progress(6, 10, 6000, 10_000, 8))
    assert (later.comparisons, later.comparisons_total, later.pairs) == (6000, 10_000, 8)
    assert (later.remaining_s, count.pace) == (8.0, 500.0)
    assert count.count(Progress(10, 10, 10_000, 10_000, 8)).remaining_s == 0.0
