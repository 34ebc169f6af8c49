"""The parts of the service as a simulation has them: what waits where, and who takes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from engine.capacity.costs import PAIRS_AT_ONCE, PROBES_AT_ONCE, Costs
from engine.capacity.events import Act, Clock, Cores
from engine.capacity.layout import Layout
from engine.capacity.times import slowest_of


@dataclass(slots=True, eq=False)
class Visit:
    """A request on its way; `pairs` of photographs, half a pair for a search."""

    due: float
    pairs: float
    is_search: bool
    end: Callable[[Visit], None]
    ingress: int = 0


@dataclass(slots=True)
class Dice:
    """Log-normal factors of mean 1, drawn by thousands."""

    rng: np.random.Generator
    spread: float
    _left: list[float] = field(default_factory=list)

    def throw(self) -> float:
        if not self._left:
            drawn = self.rng.normal(-(self.spread**2) / 2, self.spread, 4096)
            self._left = np.exp(drawn).tolist()
        return self._left.pop()


class Ingress:
    """One worker that takes whatever pairs have gathered, on cores that it shares."""

    def __init__(
        self, cores: Cores, costs: Costs, dice: Dice, hand_on: Callable[[Visit], None]
    ) -> None:
        self._cores, self._costs, self._dice = cores, costs, dice
        self._hand_on = hand_on
        self._waiting: deque[Visit] = deque()
        self._is_busy = False

    def take(self, visit: Visit) -> None:
        """Its HTTP first, then its photographs in their turn."""
        self._cores.work(self._costs.http_s * self._dice.throw(), lambda: self._queue(visit))

    def _queue(self, visit: Visit) -> None:
        self._waiting.append(visit)
        if not self._is_busy:
            self._begin()

    def _begin(self) -> None:
        batch: list[Visit] = []
        pairs = 0.0
        while self._waiting and pairs + self._waiting[0].pairs <= PAIRS_AT_ONCE:
            batch.append(self._waiting.popleft())
            pairs += batch[-1].pairs
        self._is_busy = bool(batch)
        if batch:
            seconds = self._costs.photographs(pairs) * self._dice.throw()
            self._cores.work(seconds, lambda: self._finish(batch))

    def _finish(self, batch: list[Visit]) -> None:
        for visit in batch:
            self._hand_on(visit)
        self._begin()


class Scans:
    """Passes over the gallery with all cores of a machine; over shards, as long as the slowest.

    Of many log-normal times the greatest varies less than each: its median stands for it.
    """

    def __init__(
        self, clock: Clock, cores: Cores, layout: Layout, faces: int, costs: Costs, dice: Dice
    ) -> None:
        self._clock, self._cores, self._layout = clock, cores, layout
        self._costs, self._dice = costs, dice
        self._references = layout.references_a_scanner(faces)
        self._slowest = slowest_of(layout.shards, costs.scan_spread)

    def scan(self, probes: int, act: Act) -> None:
        """One pass for so many probes, then `act`."""
        node, costs = self._layout.node, self._costs
        seconds = costs.scan_s(self._references, probes, node)
        if not self._layout.shards:
            self._cores.work(seconds * self._dice.throw(), act, threads=node.cores)
            return
        self._cores.work(
            seconds * self._slowest,
            lambda: self._clock.after(costs.fan_out_s, act),
            threads=node.cores,
        )


class Writer:
    """The registrar's thread: a batch of whatever has gathered, by turns with audit entries.

    After a batch of several it waits a moment for more to share the next.
    """

    def __init__(self, clock: Clock, cores: Cores, scans: Scans, costs: Costs, dice: Dice) -> None:
        self._clock, self._cores, self._scans = clock, cores, scans
        self._costs, self._dice = costs, dice
        self._waiting: deque[Visit] = deque()
        self._notes: list[Visit] = []
        self._is_busy = self._is_gathering = False
        self._had_company = self._was_note = False
        self._turn = 0
        self.decided = self.batches = 0

    def enroll(self, visit: Visit) -> None:
        """Decides it in its turn."""
        self._waiting.append(visit)
        if self._is_busy:
            return
        if not self._is_gathering:
            self._look()
        elif len(self._waiting) >= self._costs.batch:
            self._begin()

    def note(self, visit: Visit) -> None:
        """Makes the audit entry of a search durable; all that wait share one transaction."""
        self._notes.append(visit)
        if not self._is_busy:
            self._begin()

    def _look(self) -> None:
        if self._notes or not self._had_company or len(self._waiting) >= self._costs.batch:
            self._begin()
            return
        self._is_gathering = True
        turn = self._turn
        self._clock.after(self._costs.gather_s, lambda: self._end_gathering(turn))

    def _end_gathering(self, turn: int) -> None:
        if self._is_gathering and turn == self._turn:
            self._begin()

    def _begin(self) -> None:
        self._turn += 1
        self._is_gathering, self._is_busy = False, True
        self._was_note = bool(self._notes) and not (self._was_note and self._waiting)
        if self._was_note:
            notes, self._notes = self._notes, []
            seconds = self._costs.decision(0) * self._dice.throw()
            self._cores.work(seconds, lambda: self._finish(notes))
            return
        size = min(len(self._waiting), self._costs.batch)
        batch = [self._waiting.popleft() for _ in range(size)]
        self._had_company = size > 1
        self.decided += size
        self.batches += 1
        seconds = self._costs.decision(size) * self._dice.throw()
        self._cores.work(seconds, lambda: self._scans.scan(size, lambda: self._finish(batch)))

    def _finish(self, done: list[Visit]) -> None:
        self._is_busy = False
        for visit in done:
            visit.end(visit)
        if self._waiting or self._notes:
            self._look()


class Searcher:
    """One thread that scans for all who gathered during the last scan; each is audited then."""

    def __init__(self, scans: Scans, writer: Writer) -> None:
        self._scans, self._writer = scans, writer
        self._waiting: deque[Visit] = deque()
        self._is_busy = False

    def search(self, visit: Visit) -> None:
        """Scans for it in its turn."""
        self._waiting.append(visit)
        if not self._is_busy:
            self._begin()

    def _begin(self) -> None:
        size = min(len(self._waiting), PROBES_AT_ONCE)
        batch = [self._waiting.popleft() for _ in range(size)]
        self._is_busy = bool(batch)
        if batch:
            self._scans.scan(size, lambda: self._finish(batch))

    def _finish(self, batch: list[Visit]) -> None:
        for visit in batch:
            self._writer.note(visit)
        self._begin()
