"""Search queue that batches identify calls, beside the writer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np

from engine.batching import Batch, Batcher, Call, Lane, Pending, Refusals, share_out, weigh
from engine.errors import DeadlinePassed, copy_for_one
from engine.matching.verification import FoundHolders, identify
from engine.registry.store import Reader
from indexes.base import check_threshold, check_vectors
from indexes.gallery import Gallery
from serving.errors import Busy, Interrupted
from serving.registrar.protocol import MOST_CANDIDATES, Probes

ROWS_AT_ONCE = 1024
"""Probes in a batch, where no single call brings more."""
_REFUSALS = Refusals(
    full=Busy("too many searches wait: try again in a second"),
    late=DeadlinePassed("the time ran out while the search waited"),
    closed=Interrupted("the gallery is being closed: try again in a moment"),
    ended=Interrupted("the searches have stopped and are begun again: ask again"),
)

Answers = list[FoundHolders]


class _Search(Pending[Probes, Answers]):
    def __init__(self, probes: Probes, threshold: float, timeout_s: float | None) -> None:
        super().__init__(probes, len(probes), timeout_s)
        self.threshold = threshold


class SearchQueue:
    """One thread that searches for all waiting calls: those that arrive meanwhile come next.

    Calls with one threshold share a pass over the gallery and one look-up of the owners. At most
    `capacity` probes wait; a call that is cancelled or out of time is not searched for.
    `observe(probes, seconds)` is called for each batch.
    """

    def __init__(
        self,
        gallery: Gallery,
        registry: Reader,
        capacity: int,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        self._gallery = gallery
        self._registry = registry
        self.capacity = capacity
        self._queue: Batcher[Probes, Answers] = Batcher(
            self._search,
            [Lane(ROWS_AT_ONCE, capacity)],
            _REFUSALS,
            name="searches",
            observe=observe and (lambda batch, seconds: observe(weigh(batch), seconds)),
        )

    @property
    def queued(self) -> int:
        """The number of waiting probes."""
        return self._queue.queued()

    @property
    def is_alive(self) -> bool:
        """True where its thread lives: without it no waiting call is answered."""
        return self._queue.is_alive

    def submit(
        self, probes: Probes, threshold: float, timeout_s: float | None = None
    ) -> Future[Answers]:
        """The references at or above the threshold, for each row of float32[n, d]: the best
        `MOST_CANDIDATES` of them, and how many there are.

        `Busy` at once where too many wait; `DeadlinePassed` for what waited too long. Rows that
        are no unit vectors are refused here, so that they spoil no other call.
        """
        rows = check_vectors(probes, self._gallery.dim)
        return self._queue.submit(_Search(rows, check_threshold(threshold), timeout_s))

    def close(self) -> None:
        """Answers what waits, then ends."""
        self._queue.close()

    def _search(self, batch: Batch[Probes, Answers]) -> list[Answers | Exception]:
        groups: dict[float, list[Call[Probes, Answers]]] = defaultdict(list)
        for call in batch:
            assert isinstance(call, _Search)
            groups[call.threshold].append(call)
        results: dict[Call[Probes, Answers], Answers | Exception] = {}
        for threshold, group in groups.items():
            try:
                results |= zip(group, self._pass(group, threshold), strict=True)
            except Exception as error:  # noqa: BLE001 - it belongs to those of this threshold
                results |= {call: copy_for_one(error) for call in group}
        return [results[call] for call in batch]

    def _pass(self, group: Batch[Probes, Answers], threshold: float) -> list[Answers]:
        probes = np.concatenate([call.payload for call in group])
        found = identify(
            probes, self._gallery, self._registry, threshold=threshold, most=MOST_CANDIDATES
        )
        return share_out(group, found)
