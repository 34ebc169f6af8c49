"""A clock of events, and cores that tasks share: what a simulation runs on."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

Act = Callable[[], None]
_EQUAL = 1e-9


class Clock:
    """Events in order of their time; those of one moment in the order in which they were made."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Act]] = []
        self._numbers = count()

    def after(self, seconds: float, act: Act) -> None:
        heappush(self._due, (self.now + seconds, next(self._numbers), act))

    def run(self, is_over: Callable[[], bool]) -> None:
        """Until nothing is due, or it is over."""
        while self._due and not is_over():
            self.now, _, act = heappop(self._due)
            act()


class Cores:
    """Tasks of one thread or several share so many cores in equal parts (processor sharing).

    A thread runs at full speed while there is a core for each. All run equally fast, so one
    measure of how far a thread has come since the beginning serves them all: a task ends when
    that has grown by its seconds.
    """

    def __init__(self, clock: Clock, cores: int) -> None:
        self._clock = clock
        self._cores = cores
        self._threads = 0
        self._progress = 0.0
        self._looked = 0.0
        self._tasks: list[tuple[float, int, int, Act]] = []
        self._numbers = count()
        self._version = 0
        self.busy_s = 0.0
        """Core-seconds so far."""

    def work(self, seconds: float, act: Act, threads: int = 1) -> None:
        """Then `act`; `seconds` at full speed on each of the threads."""
        self._advance()
        heappush(self._tasks, (self._progress + seconds, next(self._numbers), threads, act))
        self._threads += threads
        self._await_next()

    def _speed(self) -> float:
        return min(1.0, self._cores / self._threads) if self._threads else 1.0

    def _advance(self) -> None:
        passed = self._clock.now - self._looked
        self._looked = self._clock.now
        self._progress += passed * self._speed()
        self.busy_s += passed * min(self._threads, self._cores)

    def _await_next(self) -> None:
        self._version += 1
        if not self._tasks:
            return
        left = max(self._tasks[0][0] - self._progress, 0.0)
        version = self._version
        self._clock.after(left / self._speed(), lambda: self._end(version))

    def _end(self, version: int) -> None:
        if version != self._version:
            return  # another task has come or gone since: it is awaited anew
        self._advance()
        ended = []
        while self._tasks and self._tasks[0][0] <= self._progress + _EQUAL:
            _, _, threads, act = heappop(self._tasks)
            self._threads -= threads
            ended.append(act)
        self._await_next()
        for act in ended:
            act()
