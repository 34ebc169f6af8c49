"""Suspects of a case: their references are scored pairwise and put on the watch-list."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from engine.cases.case import Outcome
from engine.cases.decided import read_decided
from engine.matching.comparison import WatchList
from engine.registry.reader import Reader
from engine.registry.records import CaseRecord, JudgedPair, WatchEntry
from indexes.gallery import Gallery
from indexes.scoring import exact_scores

MAX_PAIRS = 20_000
"""Judged pairs of a case; of a larger case, those with the highest scores."""

SAME_FACE = 0.9999
"""From this score on, two templates are of one photograph and share a watch-list entry."""


class Suspects:
    """The suspected documents of a case that have references.

    To be made on the writer's thread, where store and gallery agree.
    """

    def __init__(self, registry: Reader, gallery: Gallery, case: CaseRecord) -> None:
        self._case, self._registry = case, registry
        self._sweep = None if case.sweep_id is None else registry.sweeps.get(case.sweep_id)
        found = registry.documents_by_id(case.suspect_ids)
        self._documents = sorted(key for key, record in found.items() if record.reference_ids)
        ids = [found[key].reference_ids for key in self._documents]
        counts = np.array([len(keys) for keys in ids], dtype=np.int64)
        self._owners = np.repeat(np.arange(len(ids)), counts)
        flat = np.array([key for keys in ids for key in keys], dtype=np.int64)
        self._vectors: NDArray[np.float32] = gallery.vectors(flat)

    def judge(self, outcome: Outcome, actor: str, now: datetime, sequence: int) -> list[JudgedPair]:
        """Every pair of documents, judged with the best score between their references, which are
        those of the gallery at `sequence`.

        A pair that was decided before keeps its outcome, unless its evidence has changed or the
        case has no other pair. Pairs that reach the threshold of the case's sweep are attributed
        to it.
        """
        left, right, scores = self._score_pairs()
        best = np.argsort(-scores, kind="stable")[:MAX_PAIRS]
        standing = read_decided(self._registry, self._documents).standing
        documents = self._documents
        asked = [
            one for one in best if (documents[left[one]], documents[right[one]]) not in standing
        ]
        return [
            JudgedPair(
                left_document=self._documents[left[place]],
                right_document=self._documents[right[place]],
                outcome=outcome,
                score=float(scores[place]),
                case_id=self._case.id,
                sweep_id=self._sweep_of(float(scores[place])),
                decided_at=now,
                decided_by=actor,
                sequence=sequence,
            )
            for place in asked or best
        ]

    def watch(
        self, watchlist: WatchList, next_id: Callable[[], int], now: datetime
    ) -> list[WatchEntry]:
        """A new entry for each face that is not on the watch-list."""
        if not len(self._vectors):
            return []
        watched = watchlist.search(self._vectors, SAME_FACE).hits
        fresh: list[int] = []
        for row, vector in enumerate(self._vectors):
            is_watched = len(watched.of(row)[0]) > 0
            if not is_watched and not np.any(self._vectors[fresh] @ vector >= SAME_FACE):
                fresh.append(row)
        return [
            WatchEntry(
                id=next_id(),
                document_lookup=None,
                template=self._vectors[row],
                reason=f"case {self._case.id}",
                added_at=now,
            )
            for row in fresh
        ]

    def _sweep_of(self, score: float) -> str | None:
        is_found = self._sweep is not None and score >= self._sweep.terms.threshold
        return self._case.sweep_id if is_found else None

    def _score_pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Indices of two documents, the lower first, and their best score: three arrays [pairs]."""
        rows, others = np.triu_indices(len(self._vectors), k=1)
        is_pair = self._owners[rows] != self._owners[others]
        rows, others = rows[is_pair], others[is_pair]
        scores = exact_scores(self._vectors, self._vectors, rows, others)
        # References are ordered by document, so the first of two has the lower index.
        pairs = self._owners[rows] * len(self._documents) + self._owners[others]
        order = np.lexsort((-scores, pairs))
        pairs, scores = pairs[order], scores[order]
        kept = np.flatnonzero(np.diff(pairs, prepend=-1))
        left, right = np.divmod(pairs[kept], max(len(self._documents), 1))
        return left, right, scores[kept]
