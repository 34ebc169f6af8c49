"""How fast comparisons go: measured before a sweep, and counted while it runs."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import numpy as np

from engine.sweeps.model import SweepProgress
from indexes.base import Vectors
from indexes.exact.exact8 import Exact8Index
from indexes.exact.scanner import Scanner
from indexes.joining.join import Progress, join

_FIRST_ROWS, _MOST_ROWS = 4096, 65_536
_MEASURED_S = 0.4
# Above what any two random rows score: a sweep at a useful threshold finds next to nothing too.
_THRESHOLD = 0.9


def measure_pace(dim: int, scanner: Scanner, comparisons: int | None = None) -> float:
    """Comparisons a second of a join on this machine with these threads; takes a second at most.

    In a process that has not searched yet its first call also loads the machine code. Where the
    pace is asked for no more `comparisons` than a first look makes, that look is enough.
    """
    _time_join(_FIRST_ROWS, dim, scanner)
    pace = _comparisons(_FIRST_ROWS) / _time_join(_FIRST_ROWS, dim, scanner)
    rows = min(_MOST_ROWS, int((2 * pace * _MEASURED_S) ** 0.5))
    is_enough = comparisons is not None and comparisons <= _comparisons(_FIRST_ROWS)
    if is_enough or rows <= _FIRST_ROWS:
        return pace
    return _comparisons(rows) / _time_join(rows, dim, scanner)


class ProgressCount:
    """What a join reports, with the time that remains at the pace of this run alone.

    What a run before did may have been done on another machine, or beside other work. `pace` is
    in comparisons a second, None before a first tile was made.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._begun: tuple[float, int] | None = None
        self.pace: float | None = None

    def count(self, progress: Progress) -> SweepProgress:
        """The progress of the sweep; no remaining time before a first tile was made."""
        now = self._clock()
        if self._begun is None:
            self._begun = (now, progress.comparisons)
        began, before = self._begun
        if progress.comparisons > before:
            self.pace = (progress.comparisons - before) / max(now - began, 1e-9)
        left = progress.comparisons_total - progress.comparisons
        remaining_s = None if self.pace is None else left / self.pace
        return SweepProgress(
            comparisons=progress.comparisons,
            comparisons_total=progress.comparisons_total,
            pairs=progress.pairs,
            remaining_s=remaining_s if left else 0.0,
        )


def _comparisons(rows: int) -> int:
    return rows * (rows - 1) // 2


def _time_join(rows: int, dim: int, scanner: Scanner) -> float:
    segment = Exact8Index.of_rows(np.arange(rows), _strangers(rows, dim), scanner=scanner)
    started = monotonic()
    join([segment], None, _THRESHOLD)
    return max(monotonic() - started, 1e-6)


def _strangers(rows: int, dim: int) -> Vectors:
    vectors = np.random.default_rng(0).standard_normal((rows, dim), dtype=np.float32)
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
