"""The comparisons of one batch: live against portrait, against the gallery, against each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.matching.requests import Sample
from engine.matching.thresholds import Thresholds
from engine.matching.watchlist import WatchList
from indexes.gallery import Found, Gallery


class Comparisons:
    """All scores that a batch needs, computed at once.

    Attempt i has a probe when its live photograph may be matched. Where the 1:1 passes, the
    probe is the normalised mean of both vectors, and becomes the reference; where it fails the
    portrait is somebody else, and the live face alone is searched.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Sample, Sample] | None],
        gallery: Gallery,
        watch: WatchList,
        thresholds: Thresholds,
    ) -> None:
        self.watch = watch
        self.pair_scores: list[float | None] = []
        self._rows: dict[int, int] = {}
        probes: list[NDArray[np.float32]] = []
        for place, pair in enumerate(pairs):
            if pair is None or not (pair[0].is_usable and pair[1].is_usable):
                self.pair_scores.append(None)
                continue
            score, probe = _fuse(pair[0], pair[1], thresholds.verify)
            self.pair_scores.append(score)
            self._rows[place] = len(probes)
            probes.append(probe)
        self._probes = np.stack(probes) if probes else np.empty((0, gallery.dim), dtype=np.float32)
        self._found: Found = gallery.range_search(self._probes, thresholds.review)
        self._watched: Found = watch.search(self._probes, thresholds.review)
        self._among = self._probes @ self._probes.T
        self.sequence = self._found.sequence
        self.searched = self._found.searched

    def has_probe(self, place: int) -> bool:
        return place in self._rows

    def probe(self, place: int) -> NDArray[np.float32]:
        """float32[d], a unit vector."""
        row: NDArray[np.float32] = self._probes[self._rows[place]]
        return row

    def hits(self, place: int) -> list[tuple[int, float]]:
        """(reference id, score) of the gallery at or above the review threshold, best first."""
        ids, scores = self._found.hits.of(self._rows[place])
        return [(int(key), float(score)) for key, score in zip(ids, scores, strict=True)]

    def all_hit_ids(self) -> list[int]:
        return [int(key) for key in np.unique(self._found.hits.ids)]

    def is_watched(self, place: int) -> bool:
        return len(self._watched.hits.of(self._rows[place])[0]) > 0

    def among(self, place: int, earlier: int) -> float:
        """The score between the probes of two attempts of this batch."""
        return float(self._among[self._rows[place], self._rows[earlier]])


def _fuse(live: Sample, portrait: Sample, verify: float) -> tuple[float, NDArray[np.float32]]:
    assert live.vector is not None
    assert portrait.vector is not None
    score = float(live.vector @ portrait.vector)
    if score < verify:
        return score, live.vector
    return score, fuse_vectors(live.vector, portrait.vector)


def fuse_vectors(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """The normalised mean of two unit vectors: one reference from two photographs."""
    total = first + second
    fused: NDArray[np.float32] = total / np.float32(np.linalg.norm(total))
    return fused
