"""What the approximate kinds share: answers with exact scores, in which hits can be missing."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from indexes.approximate.misses import BAND, MissRate, measure_misses
from indexes.approximate.proposed import ProposedRows, Proposer, Scored
from indexes.base import Hits, Ids, MemoryAccount, Vectors
from indexes.errors import IdInvalid, SearchInvalid
from indexes.flat import FlatIndex
from indexes.scoring import arrange
from indexes.validation import check_distinct, check_hit_count, check_ids, check_vectors

_log = logging.getLogger(__name__)
_ROWS_AT_ONCE = 1 << 18


@dataclass(frozen=True, slots=True)
class ApproximateConfig:
    """What every approximate kind can be told.

    threshold: the score at which it measures its misses, just above it.
    candidates: how many rows get an exact score for each hit that is wanted.
    least_rows: below so many references everything is compared, and nothing can be missed.
    tail_rows: so many new references are compared one by one before the structure takes them.
    dead_share: once so much of the structure has been removed, it is built again.
    training_rows: how many references it learns from. seed: which they are.
    erasure_deadline_s: so long after a removal, the structure is built again without it.
    """

    threshold: float = 0.50
    candidates: int = 20
    least_rows: int = 10_000
    tail_rows: int = 8192
    dead_share: float = 0.2
    training_rows: int = 65_536
    seed: int = 0
    erasure_deadline_s: float = 86_400

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise SearchInvalid(f"threshold is {self.threshold}; give a score between 0 and 1")
        if not 0 < self.dead_share < 1:
            raise SearchInvalid(f"dead_share is {self.dead_share}; give a share between 0 and 1")
        if not self.erasure_deadline_s >= 0:
            raise SearchInvalid(f"erasure_deadline_s is {self.erasure_deadline_s}; give 0 or more")
        if self.least_rows < 1000:
            raise SearchInvalid(
                f"least_rows is {self.least_rows}; give at least 1000 to learn from"
            )
        for name in ("candidates", "tail_rows"):
            if getattr(self, name) < 1:
                raise SearchInvalid(f"{name} is {getattr(self, name)}; give at least 1")
        if self.training_rows < self.least_rows:
            raise SearchInvalid(
                f"training_rows is {self.training_rows}; give at least least_rows, "
                f"{self.least_rows}"
            )


class ApproximateIndex(ABC):
    """A `VectorIndex` that finds most hits, with the scores, order and form of `FlatIndex`.

    Only hits can be missing, and `miss_rate` says how often; `search` gives k hits where there
    are so many, perhaps not the best. What was added or removed last is seen at once. The
    structure is built once there are references enough, and again whenever they have doubled or
    a share of it is dead: that add or removal takes as long as building does, and the searches
    behind it wait. Each time it measures its own misses, and warns of them in the log.

    A removed vector is overwritten at once where vectors are kept, while what the structure
    derived from it stays until that is built again: `compact` does it now.
    """

    kind: ClassVar[str]

    def __init__(self, dim: int, config: ApproximateConfig) -> None:
        self._tail = FlatIndex(dim)
        self._dim = dim
        self._config = config
        self._proposed: ProposedRows | None = None
        self._miss_rate: MissRate | None = None
        self._removed_since: float | None = None

    @abstractmethod
    def _propose(self, sample: Vectors, rows: int) -> Proposer:
        """A proposer that has learnt from the sample, fit for so many rows."""

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def ids(self) -> Ids:
        """All ids, ascending; a copy."""
        if self._proposed is None:
            return self._tail.ids
        return np.sort(np.concatenate([self._proposed.ids, self._tail.ids]))

    @property
    def miss_rate(self) -> MissRate | None:
        """As measured when the structure was built; `None` while everything is compared."""
        return self._miss_rate

    @property
    def removed_since(self) -> float | None:
        """When the first of the removed that the structure still holds something of went.

        Seconds since the epoch; `None` where nothing is left of any.
        """
        return self._removed_since

    def __len__(self) -> int:
        return len(self._tail) + (0 if self._proposed is None else len(self._proposed))

    def __contains__(self, key: object) -> bool:
        if key in self._tail:
            return True
        # A bool or a float would equal an id; only a whole number is one.
        if isinstance(key, bool) or not isinstance(key, int | np.integer):
            return False
        if self._proposed is None or not 0 <= key <= np.iinfo(np.int64).max:
            return False
        return bool(self._proposed.find(np.array([key], np.int64))[1][0])

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Adds new ids; an id that is there already is refused."""
        check_ids(ids)
        if self._proposed is not None:
            present = self._proposed.find(ids)[1]
            if present.any():
                twice = ids[int(np.argmax(present))]
                raise IdInvalid(f"id {twice} is in the index already; remove it first")
        self._tail.add(ids, vectors)
        self._settle()

    def remove(self, ids: Ids) -> None:
        """Removes these ids; an unknown one is refused, and then none is removed."""
        check_distinct(check_ids(ids))
        if self._proposed is None:
            self._tail.remove(ids)
            return
        places, present = self._proposed.find(ids)
        # Refuses the unknown, and is the first change.
        self._tail.remove(ids[~present])
        if present.any():
            self._proposed.remove(places[present])
            self._removed_since = self._removed_since or time.time()
        self._settle()

    def vectors(self, ids: Ids) -> Vectors:
        """The stored rows in the order asked: float32[n, dim]; a copy."""
        if self._proposed is None:
            return self._tail.vectors(ids)
        check_ids(ids)
        places, present = self._proposed.find(ids)
        rows = np.empty((len(ids), self._dim), np.float32)
        rows[~present] = self._tail.vectors(ids[~present])
        rows[present] = self._proposed.vectors(places[present])
        return rows

    def search(self, queries: Vectors, k: int) -> Hits:
        """The k best that were found of each query, or all where there are fewer."""
        queries, k = check_vectors(queries, self._dim), check_hit_count(k)
        late = self._tail.search(queries, k)
        if self._proposed is None or not len(queries):
            return late
        return _merge(late, self._proposed.search(queries, k), k)

    def range_search(self, queries: Vectors, threshold: float) -> Hits:
        """What was found with a score, as a float, at or above the threshold."""
        late = self._tail.range_search(queries, threshold)
        if self._proposed is None or not len(queries):
            return late
        queries = np.ascontiguousarray(queries)
        return _merge(late, self._proposed.range_search(queries, float(threshold)))

    def compact(self) -> None:
        """Builds the structure again if anything removed is left in it."""
        if self._removed_since is not None:
            self._rebuild()

    def deadline_s(self) -> float | None:
        """Seconds until what is left of the removed has to be gone; None where nothing is left."""
        if self._removed_since is None:
            return None
        return self._removed_since + self._config.erasure_deadline_s - time.time()

    def account(self) -> MemoryAccount:
        """Where the memory goes, as far as it is ours to count; `codes` is the structure's."""
        tail = MemoryAccount(len(self._tail), head=self._tail.account().total)
        return tail if self._proposed is None else tail + self._proposed.account()

    def _settle(self) -> None:
        """Builds, or builds again, or lets the structure take the tail, whatever is due."""
        late, proposed = len(self._tail), self._proposed
        if proposed is None:
            if late >= self._config.least_rows:
                self._rebuild()
        elif late > proposed.room or proposed.dead_share >= self._config.dead_share:
            self._rebuild()
        elif late >= self._config.tail_rows:
            ids = self._tail.ids
            proposed.append(ids, self._tail.vectors(ids))
            self._tail = FlatIndex(self._dim)

    def _rebuild(self) -> None:
        ids = self.ids
        tail, proposed = FlatIndex(self._dim), None
        if len(ids) < self._config.least_rows:
            tail.add(ids, self.vectors(ids))
        else:
            proposed = self._build(ids)
        self._tail, self._proposed, self._miss_rate = tail, proposed, None
        self._removed_since = None
        if proposed is not None:
            self._measure()

    def _build(self, ids: Ids) -> ProposedRows:
        rng = np.random.default_rng(self._config.seed)
        taught = min(self._training_rows(len(ids)), len(ids))
        sample = self.vectors(np.sort(rng.choice(ids, taught, replace=False)))
        built = ProposedRows(
            self._dim,
            self._propose(sample, len(ids)),
            room=2 * len(ids),
            candidates=self._config.candidates,
        )
        # In pieces, so that no third copy of all vectors is made beside the old and the new.
        for start in range(0, len(ids), _ROWS_AT_ONCE):
            some = ids[start : start + _ROWS_AT_ONCE]
            built.append(some, self.vectors(some))
        return built

    def _training_rows(self, rows: int) -> int:
        del rows
        return self._config.training_rows

    def _measure(self) -> None:
        threshold = self._config.threshold
        self._miss_rate = measure_misses(self, threshold, seed=self._config.seed)
        measured = self._miss_rate or "an unknown share, for no probe could be made,"
        _log.warning(
            "%s is approximate: it misses %s of probes made to score %.2f to %.2f with their "
            "reference, among %d references",
            self.kind,
            measured,
            threshold,
            min(1.0, threshold + BAND),
            len(self),
        )


def _merge(late: Hits, scored: Scored, k: int | None = None) -> Hits:
    """One answer of the tail's hits and the scored candidates."""
    query_of, ids, scores = scored
    late_query_of = np.repeat(np.arange(len(late)), np.diff(late.offsets))
    return arrange(
        len(late),
        np.concatenate([late_query_of, query_of]),
        np.concatenate([late.ids, ids]),
        np.concatenate([late.scores, scores]),
        k,
    )
