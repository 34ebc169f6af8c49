"""Searching while everything changes: adds, removals, seals, merges and compactions at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event, Lock

import numpy as np
from numpy.typing import NDArray

from bench.vectors import Vectors
from indexes.gallery import Gallery
from indexes.upkeep import Upkeep

BATCH, PAUSE_S = 32, 0.005
"""References of one add, and how long those who change something wait before they go on."""
_REMOVED_AT_ONCE, _LOOKED_FOR = 16, 16


@dataclass(slots=True)
class Commotion:
    """What happened in `seconds`.

    `missed`: searches for a reference that was committed before and not yet to be removed, and
    did not come back as the best; `ghosts`: references found though they had been removed.
    `lost`: how far the number of references is off at the end.
    """

    seconds: float
    added: int = 0
    removed: int = 0
    looked_for: int = 0
    missed: int = 0
    ghosts: int = 0
    lost: int = 0
    search_s: list[float] = field(default_factory=list)
    add_s: list[float] = field(default_factory=list)


class Stage:
    """A gallery of `references` under ids from 0, and `newcomers` to add after them.

    The first half may be removed, in order; the second half stays and is looked for, with all
    that has been added.
    """

    def __init__(self, gallery: Gallery, references: Vectors, newcomers: Vectors) -> None:
        self._gallery = gallery
        self._references, self._newcomers = references, newcomers
        self._committed = len(references)
        self._gone = 0
        self._changes = Lock()
        self._stop = Event()

    def look_quietly(self, seconds: float, seed: int) -> Commotion:
        """Searches alone, for comparison."""
        return self._play(seconds, seed, ())

    def play(self, seconds: float, seed: int) -> Commotion:
        """Everything at once; a thread does the upkeep, as in a deployment."""
        with Upkeep(self._gallery):
            return self._play(seconds, seed, (self._add, self._remove))

    def _play(
        self, seconds: float, seed: int, changes: tuple[Callable[[Commotion], None], ...]
    ) -> Commotion:
        found = Commotion(seconds)
        before = len(self._gallery)
        self._stop.clear()
        with ThreadPoolExecutor(len(changes) + 1) as pool:
            running = [pool.submit(change, found) for change in changes]
            try:
                self._search(found, time.perf_counter() + seconds, seed)
            finally:
                self._stop.set()
            for one in running:
                one.result()
        found.lost = abs(before + found.added - found.removed - len(self._gallery))
        return found

    def _search(self, found: Commotion, end: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        while time.perf_counter() < end:
            # Read before the search: what is committed now must be found, what is gone must not.
            committed, gone = self._committed, self._gone
            keys = rng.integers(len(self._references) // 2, committed, _LOOKED_FOR)
            removed = rng.integers(0, gone, 1) if gone else np.empty(0, np.int64)
            vectors = self._vectors(np.concatenate([keys, removed]))
            start = time.perf_counter()
            hits = self._gallery.search(vectors, 1).hits
            found.search_s.append(time.perf_counter() - start)
            best = np.array([hits.of(query)[0][0] for query in range(len(vectors))])
            found.looked_for += len(keys)
            found.missed += int((best[: len(keys)] != keys).sum())
            found.ghosts += int((best[len(keys) :] == removed).sum())

    def _add(self, found: Commotion) -> None:
        while not self._stop.wait(PAUSE_S) and found.added < len(self._newcomers):
            rows = self._newcomers[found.added : found.added + BATCH]
            ids = np.arange(self._committed, self._committed + len(rows))
            start = time.perf_counter()
            with self._changes:
                self._gallery.add(ids, rows, self._gallery.sequence + 1)
            found.add_s.append(time.perf_counter() - start)
            self._committed += len(rows)
            found.added += len(rows)

    def _remove(self, found: Commotion) -> None:
        removable = len(self._references) // 2
        while not self._stop.wait(PAUSE_S) and self._gone < removable:
            ids = np.arange(self._gone, min(self._gone + _REMOVED_AT_ONCE, removable))
            with self._changes:
                self._gallery.remove(ids, self._gallery.sequence + 1)
            found.removed += len(ids)
            self._gone += len(ids)

    def _vectors(self, keys: NDArray[np.int64]) -> Vectors:
        return np.stack(
            [
                self._references[key]
                if key < len(self._references)
                else self._newcomers[key - len(self._references)]
                for key in keys.tolist()
            ]
        )
