"""The comparisons of a batch: live against portrait, against the gallery, against each other."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from engine.matching.calibration import Comparison, Thresholds
from engine.matching.requests import Sample
from engine.registry.records import SecondTemplate, WatchEntry
from indexes.flat import FlatIndex
from indexes.gallery import Found, Gallery
from indexes.scoring import exact_scores, products, rounding_bound


class WatchList:
    """Watch-list in memory: faces and documents that an enrollment is checked against."""

    def __init__(self, dim: int, entries: Iterable[WatchEntry] = ()) -> None:
        self._faces = Gallery(FlatIndex(dim))
        self._documents: dict[int, bytes] = {}
        # How many entries name a document: every attempt asks, so asking must not walk the list.
        self._named: Counter[bytes] = Counter()
        self._lock = threading.Lock()
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return self.face_count + len(self._documents)

    @property
    def face_count(self) -> int:
        return len(self._faces)

    def add(self, entry: WatchEntry) -> None:
        """Adds an entry that is committed."""
        with self._lock:
            if entry.template is not None:
                ids = np.array([entry.id], dtype=np.int64)
                self._faces.add(ids, entry.template[None], self._faces.sequence + 1)
            if entry.document_lookup is not None:
                self._documents[entry.id] = entry.document_lookup
                self._named[entry.document_lookup] += 1

    def remove(self, entry_id: int) -> None:
        """Removes an entry; an unknown id is ignored."""
        with self._lock:
            lookup = self._documents.pop(entry_id, None)
            if lookup is not None:
                self._named[lookup] -= 1
            if entry_id in self._faces:
                ids = np.array([entry_id], dtype=np.int64)
                self._faces.remove(ids, self._faces.sequence + 1)

    def search(self, probes: NDArray[np.float32], threshold: float) -> Found:
        """Watched faces at or above the threshold, for each probe float32[d] of a batch."""
        return self._faces.range_search(probes, threshold)

    def refresh(self, found: Found, probes: NDArray[np.float32], threshold: float) -> Found:
        """What `search` would answer now, from what it answered before."""
        return self._faces.refresh(found, probes, threshold)

    def has_document(self, lookup: bytes | None) -> bool:
        with self._lock:
            return lookup is not None and self._named.get(lookup, 0) > 0


Pair = tuple[Sample, Sample]
"""The live face and the portrait of one attempt; one of them twice where there is but one."""


class Scan:
    """The probes of some attempts, and what gallery and watch-list had for them at one moment.

    Attempt i has a probe when both photographs may be matched. Where the 1:1 passes, the probe
    is the normalised mean of both vectors, and becomes the reference; where it fails the
    portrait is somebody else, and the live face alone is searched. A live face of several frames
    weighs as one photograph in that mean: frames of one moment must not outweigh the portrait.
    """

    def __init__(
        self,
        pairs: Sequence[Pair | None],
        gallery: Gallery,
        watch: WatchList,
        thresholds: Thresholds,
    ) -> None:
        self.thresholds = thresholds
        usable = {
            place: pair
            for place, pair in enumerate(pairs)
            if pair is not None and pair[0].is_usable and pair[1].is_usable
        }
        self.rows = {place: row for row, place in enumerate(usable)}
        """The row of each attempt that has a probe."""
        self.pair_scores = _score_pairs(list(usable.values()), gallery.dim)
        self.kinds: list[Comparison] = []
        self.probes = np.empty((len(usable), gallery.dim), dtype=np.float32)
        for row, (live, portrait) in enumerate(usable.values()):
            assert live.vector is not None
            assert portrait.vector is not None
            is_match = live is not portrait and (
                self.pair_scores[row] >= thresholds.verify_for(live.length)
            )
            is_fused = is_match or live.length < 1
            self.kinds.append(Comparison.FUSED if is_fused else Comparison.FUSED_TO_ONE)
            self.probes[row] = (
                fuse_vectors(live.vector, portrait.vector) if is_match else live.vector
            )
        self.found: Found = gallery.range_search(self.probes, thresholds.review)
        self.watched: Found = watch.search(self.probes, thresholds.review)

    def serves(self, thresholds: Thresholds) -> bool:
        """Whether its probes are those of these thresholds, and its hits all that they ask for."""
        own = self.thresholds
        is_same = (own.verify, own.verify_fused) == (thresholds.verify, thresholds.verify_fused)
        return is_same and own.review <= thresholds.review

    def refresh(self, gallery: Gallery, watch: WatchList) -> None:
        """Brings what was found up to date."""
        review = self.thresholds.review
        self.found = gallery.refresh(self.found, self.probes, review)
        self.watched = watch.refresh(self.watched, self.probes, review)


@dataclass(frozen=True, slots=True, eq=False)
class Scanned:
    """The part of a scan that is about one attempt; `searched_at`: the gallery's sequence then."""

    scan: Scan
    place: int
    searched_at: int


class Comparisons:
    """All scores that a batch needs, as of one moment.

    Its attempts may have been searched for at different moments before: each scan is brought up to
    date. Every score is the one of `indexes.scoring.exact_scores`, so that no decision depends on
    who else is in the batch, or on when it was searched for.
    """

    def __init__(
        self,
        scanned: Sequence[Scanned | None],
        gallery: Gallery,
        watch: WatchList,
        thresholds: Thresholds,
    ) -> None:
        """`scanned`: of each attempt; None where its photographs are not compared. Scans must
        serve the thresholds; nothing may change the gallery meanwhile."""
        self.watch = watch
        self.review = thresholds.review
        for scan in {id(one.scan): one.scan for one in scanned if one is not None}.values():
            scan.refresh(gallery, watch)
        self.sequence, self.searched = gallery.sequence, len(gallery)
        self._scanned = {
            place: (one, one.scan.rows[one.place])
            for place, one in enumerate(scanned)
            if one is not None and one.place in one.scan.rows
        }
        self._rows = {place: row for row, place in enumerate(self._scanned)}
        probes = [one.scan.probes[row] for one, row in self._scanned.values()]
        self._probes = np.array(probes, np.float32).reshape(len(probes), gallery.dim)
        self._among = products(self._probes, self._probes)

    def has_probe(self, place: int) -> bool:
        return place in self._rows

    def pair_score(self, place: int) -> float | None:
        """The live photograph against the portrait; None where they were not compared."""
        if place not in self._scanned:
            return None
        one, row = self._scanned[place]
        return one.scan.pair_scores[row]

    def kind(self, place: int) -> Comparison:
        """Which comparisons with references this probe makes."""
        if place not in self._scanned:
            return Comparison.FUSED_TO_ONE
        one, row = self._scanned[place]
        return one.scan.kinds[row]

    def searched_at(self, place: int) -> int | None:
        """The gallery's sequence when this probe was searched for, at `sequence` or before."""
        return self._scanned[place][0].searched_at if place in self._scanned else None

    def probe(self, place: int) -> NDArray[np.float32]:
        """float32[d], a unit vector."""
        row: NDArray[np.float32] = self._probes[self._rows[place]]
        return row

    def hits(self, place: int) -> list[tuple[int, float]]:
        """(reference id, score) of the gallery at or above the review threshold, best first."""
        one, row = self._scanned[place]
        ids, scores = one.scan.found.hits.of(row)
        found = zip(ids.tolist(), scores.tolist(), strict=True)
        # A scan may have been made for a lower threshold.
        return [(key, score) for key, score in found if score >= self.review]

    def all_hit_ids(self) -> list[int]:
        return sorted({key for place in self._scanned for key, _ in self.hits(place)})

    def is_watched(self, place: int) -> bool:
        one, row = self._scanned[place]
        return any(score >= self.review for score in one.scan.watched.hits.of(row)[1].tolist())

    def among(self, place: int, earlier: int) -> float | None:
        """The score between the probes of two attempts; `None` where it is surely no candidate.

        The matrix product of the whole batch is only a sieve: its rounding depends on the batch.
        """
        row, other = self._rows[place], self._rows[earlier]
        if self._among[row, other] < self.review - rounding_bound(self._probes.shape[1]):
            return None
        return score_best(self._probes[row], self._probes[other][None])


def _score_pairs(pairs: Sequence[Pair], dim: int) -> list[float]:
    """The score of each live face with its portrait."""
    sides = np.array([[one.vector for one in pair] for pair in pairs], np.float32)
    sides = sides.reshape(len(pairs), 2, dim)
    rows = np.arange(len(pairs))
    scores: list[float] = exact_scores(sides[:, 0], sides[:, 1], rows, rows).tolist()
    return scores


def score_best(probe: NDArray[np.float32], references: NDArray[np.float32]) -> float | None:
    """The highest score of a probe float32[d] among references float32[n, d]; `None` for none."""
    if len(references) == 0:
        return None
    rows = np.arange(len(references))
    return float(exact_scores(probe[None], references, np.zeros_like(rows), rows).max())


def fuse_vectors(*vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The normalised mean of unit vectors float32[d]: one face from several photographs."""
    total = reduce(np.add, vectors)
    fused: NDArray[np.float32] = total / np.float32(np.linalg.norm(total))
    return fused


def fuse_seconds(templates: Sequence[SecondTemplate | None]) -> SecondTemplate | None:
    """The same of a second model's templates, of those that are there; None for none."""
    held = [one for one in templates if one is not None]
    if len(held) < 2:
        return held[0] if held else None
    total = np.stack([one.vector for one in held]).sum(axis=0)
    return SecondTemplate(held[0].digest, np.asarray(total / np.linalg.norm(total), np.float32))
