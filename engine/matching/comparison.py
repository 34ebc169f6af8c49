"""The comparisons of a batch: live against portrait, against the gallery, against each other."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from functools import reduce
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.matching.calibration import Thresholds
from engine.matching.policy import FaceScores
from engine.matching.samples import Sample
from engine.registry.references import SecondTemplate
from engine.registry.watchlist import WatchEntry
from indexes.base import Floats, exact_scores, products, rounding_bound
from schema import frozen
from schema.decisions import Comparison, Interval, Watermarks

if TYPE_CHECKING:
    from indexes.gallery import Found, Gallery

FalseCandidates = Callable[[int, Sequence[tuple[float, Comparison]]], Interval]
"""Expected false candidates of one search of so many references: for each face that is searched for
the score from which it counts, and which comparisons it makes."""


class WatchList:
    """Watch-list in memory: faces and documents that an enrollment is checked against."""

    def __init__(self, dim: int, entries: Iterable[WatchEntry] = ()) -> None:
        # An ingress has none, and does not load numba.
        from indexes.exact.scanner import Scanner  # noqa: PLC0415
        from indexes.gallery import Gallery  # noqa: PLC0415
        from indexes.segmented.segments import SegmentedIndex  # noqa: PLC0415

        # Without upkeep all stay in heads, which no kernel scans: none is compiled, or warned of.
        self._faces = Gallery(SegmentedIndex(dim, scanner=Scanner("numba", threads=1)))
        self._documents: dict[int, bytes] = {}
        # How many entries name a document: every attempt asks, so asking must not walk the list.
        self._named: Counter[bytes] = Counter()
        self.ids = set[int]()
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
            self.ids.add(entry.id)
            if entry.template is not None:
                ids = np.array([entry.id], dtype=np.int64)
                self._faces.add(ids, entry.template[None], self._faces.sequence + 1)
            if entry.document_lookup is not None:
                self._documents[entry.id] = entry.document_lookup
                self._named[entry.document_lookup] += 1

    def remove(self, entry_id: int) -> None:
        """Removes an entry; an unknown id is ignored."""
        with self._lock:
            self.ids.discard(entry_id)
            lookup = self._documents.pop(entry_id, None)
            if lookup is not None:
                self._named[lookup] -= 1
            if entry_id in self._faces:
                ids = np.array([entry_id], dtype=np.int64)
                self._faces.remove(ids, self._faces.sequence + 1)

    def search(self, probes: Floats, threshold: float) -> Found:
        """Watched faces at or above the threshold, for each probe float32[d] of a batch."""
        return self._faces.range_search(probes, threshold)

    def refresh(self, found: Found, probes: Floats, threshold: float) -> Found:
        """Brings an earlier answer of `search` up to date."""
        return self._faces.refresh(found, probes, threshold)

    def has_document(self, lookup: bytes | None) -> bool:
        with self._lock:
            return lookup is not None and self._named.get(lookup, 0) > 0


Pair = tuple[Sample, Sample]
"""The live face and the portrait of one attempt; one of them twice where there is but one."""


class Faces(NamedTuple):
    """The faces that one attempt shows, each of which is held against what is stored.

    The portrait is any file that the caller sends, and so is half of the mean: neither may lift a
    living face to another's identity, or hide it. The first is the probe: the mean where the 1:1
    passes, which becomes the reference; where it fails the portrait is somebody else, and the live
    face stands alone. A live face of several frames weighs as one photograph in that mean: frames
    of one moment must not outweigh the portrait.
    """

    names: tuple[str, ...]
    """Of `FaceScores`."""
    kinds: tuple[Comparison, ...]
    """Which comparisons each makes with references."""
    vectors: Floats
    """Unit rows, float32[n, d]."""

    @classmethod
    def of(cls, live: Floats, portrait: Floats | None, *, is_fused: bool) -> Faces:
        """Without a `portrait` the live face alone; `is_fused` where several frames show it."""
        of_live = Comparison.FUSED if is_fused else Comparison.FUSED_TO_ONE
        if portrait is None:
            return cls(("live",), (of_live,), live[None])
        vectors = np.stack([fuse_vectors(live, portrait), live, portrait])
        kinds = (Comparison.FUSED, of_live, Comparison.FUSED_TO_ONE)
        return cls(("mean", "live", "portrait"), kinds, vectors)


class Resemblance(NamedTuple):
    """The likeness of an attempt's faces to one stored face.

    `least` counts for being that person and `most` for looking like them, both on the fused scale
    (`Thresholds.on_fused_scale`); `each` has the cosines themselves.
    """

    least: float
    most: float
    each: FaceScores


def compare_faces(
    faces: Faces, references: Floats, thresholds: Thresholds | None
) -> Resemblance | None:
    """With a person's references, float32[n, d], the best of which counts for each face; None
    without any. Without thresholds, as of a model that is not calibrated, cosines are their own
    scale."""
    shape = len(faces.vectors), len(references)
    if not len(references):
        return None
    rows, others = (one.ravel() for one in np.indices(shape))
    scores = exact_scores(faces.vectors, references, rows, others).reshape(shape).max(axis=1)
    levels = [
        float(score if thresholds is None else thresholds.on_fused_scale(score, kind))
        for score, kind in zip(scores, faces.kinds, strict=True)
    ]
    each = FaceScores(**dict(zip(faces.names, scores.tolist(), strict=True)))
    return Resemblance(min(levels), max(levels), each)


class Scan:
    """The faces of some attempts, and what gallery and watch-list had for them at one moment.

    Attempt i is searched for when both of its photographs may be matched: every face that it shows
    (`Faces`), in one pass over the gallery.
    """

    def __init__(
        self,
        pairs: Sequence[Pair | None],
        gallery: Gallery,
        watch: WatchList,
        thresholds: Thresholds,
        unsearched: Set[int] = frozenset(),
    ) -> None:
        """The places `unsearched` are of faces that are held against their own document alone."""
        self.thresholds = thresholds
        usable = {
            place: pair
            for place, pair in enumerate(pairs)
            if pair is not None and pair[0].is_usable and pair[1].is_usable
        }
        self.pair_scores = dict(
            zip(usable, _score_pairs(list(usable.values()), gallery.dim), strict=True)
        )
        self.faces: dict[int, Faces] = {}
        self.rows: dict[int, slice] = {}
        """The rows of `probes` of each attempt that is searched for."""
        count = 0
        for place, (live, portrait) in usable.items():
            assert live.vector is not None
            assert portrait.vector is not None
            is_match = live is not portrait and (
                self.pair_scores[place] >= thresholds.verify_for(live.length)
            )
            shown = portrait.vector if is_match else None
            faces = Faces.of(live.vector, shown, is_fused=live.length < 1)
            self.faces[place] = faces
            if place not in unsearched:
                self.rows[place] = slice(count, count + len(faces.vectors))
                count += len(faces.vectors)
        self.probes = np.empty((count, gallery.dim), dtype=np.float32)
        for place, rows in self.rows.items():
            self.probes[rows] = self.faces[place].vectors
        self.found: Found = gallery.range_search(self.probes, thresholds.lowest_review)
        self.watched = self._search_watched(watch)
        """None where no face is watched."""

    def serves(self, thresholds: Thresholds) -> bool:
        """True where its probes are those of these thresholds, and its hits all that they need."""
        own = self.thresholds
        if own is thresholds:
            return True
        is_same = (own.verify, own.verify_fused) == (thresholds.verify, thresholds.verify_fused)
        return is_same and own.lowest_review <= thresholds.lowest_review

    def refresh(self, gallery: Gallery, watch: WatchList) -> None:
        """Brings what was found up to date."""
        review = self.thresholds.lowest_review
        self.found = gallery.refresh(self.found, self.probes, review)
        if self.watched is None:
            self.watched = self._search_watched(watch)
        else:
            self.watched = watch.refresh(self.watched, self.probes, review)

    def _search_watched(self, watch: WatchList) -> Found | None:
        if not watch.face_count:
            return None
        return watch.search(self.probes, self.thresholds.lowest_review)


@frozen(eq=False)
class Scanned:
    """The part of a scan that is about one attempt; `searched_at`: the gallery's sequence then."""

    scan: Scan
    place: int
    searched_at: int


class Comparisons:
    """All scores that a batch needs, as of one moment.

    Its attempts may have been searched for at different moments before: each scan is brought up to
    date. Every score is the one of `indexes.base.exact_scores`, so that no decision depends on
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
        self.thresholds, self._least = thresholds, thresholds.lowest_review
        for scan in {id(one.scan): one.scan for one in scanned if one is not None}.values():
            scan.refresh(gallery, watch)
        self.sequence, self.searched = gallery.sequence, len(gallery)
        self._scanned = {
            place: one
            for place, one in enumerate(scanned)
            if one is not None and one.place in one.scan.faces
        }
        searched = {p: one for p, one in self._scanned.items() if one.place in one.scan.rows}
        self.hits = {
            place: self._resembling(one, one.scan.found) for place, one in searched.items()
        }
        """By place (reference id, how alike) of the gallery, from the review threshold on."""
        self.unsearched = set(self._scanned.keys() - self.hits.keys())
        """Places of faces that were compared with their own portrait alone."""
        self.watched = {
            place: self._resembling(one, one.scan.watched)
            for place, one in searched.items()
            if one.scan.watched is not None
        }
        """The same of the watch-list, by the ids of its entries."""

    def forget(self, places: Iterable[int]) -> None:
        """Makes these attempts as if nothing had been compared."""
        for place in places:
            for kept in (self._scanned, self.hits, self.watched):
                kept.pop(place, None)
            self.unsearched.discard(place)

    def has_probe(self, place: int) -> bool:
        return place in self._scanned

    def pair_score(self, place: int) -> float | None:
        """The live photograph against the portrait; None where they were not compared."""
        one = self._scanned.get(place)
        return None if one is None else one.scan.pair_scores[one.place]

    def searched_at(self, place: int) -> int | None:
        """The gallery's sequence when this attempt was searched for, at `sequence` or before."""
        return self._scanned[place].searched_at if place in self.hits else None

    def watermarks(self, place: int) -> Watermarks | None:
        searched_at = self.searched_at(place)
        return None if searched_at is None else Watermarks(searched_at, self.sequence)

    def faces(self, place: int) -> Faces:
        one = self._scanned[place]
        return one.scan.faces[one.place]

    def probe(self, place: int) -> Floats:
        """float32[d], a unit vector."""
        row: Floats = self.faces(place).vectors[0]
        return row

    def resemblance(self, place: int, references: Floats) -> Resemblance | None:
        """How alike the attempt's faces are to a person's references, float32[n, d]."""
        return compare_faces(self.faces(place), references, self.thresholds)

    def look_alikes(self, place: int, stored: Floats) -> list[tuple[int, Resemblance]]:
        """The rows of float32[n, d] that the attempt's faces are as like as `hits` are."""
        if not len(stored):
            return []
        # A sieve: its rounding depends on how many there are.
        scores = products(self.faces(place).vectors, stored)
        least = self._least - rounding_bound(stored.shape[1])
        if scores.max() < least:
            return []
        near = [
            (row, self.resemblance(place, stored[row : row + 1])) for row in _rows(scores, least)
        ]
        return [
            (row, alike)
            for row, alike in near
            if alike is not None and alike.most >= self.thresholds.review
        ]

    def _resembling(self, one: Scanned, found: Found) -> list[tuple[int, Resemblance]]:
        """How alike each id is that was found for one of its faces from that one's own threshold
        on."""
        reaching: dict[int, tuple[list[float], dict[str, float]]] = {}
        faces, first = one.scan.faces[one.place], one.scan.rows[one.place].start
        for row, (name, kind) in enumerate(zip(faces.names, faces.kinds, strict=True), first):
            ids, scores = found.hits.of(row)
            if not len(ids):
                continue
            levels = self.thresholds.on_fused_scale(scores, kind)
            for key, score, level in zip(
                ids.tolist(), scores.tolist(), levels.tolist(), strict=True
            ):
                # A scan may have been made for a lower threshold.
                if level >= self.thresholds.review:
                    of_id = reaching.setdefault(key, ([], {}))
                    of_id[0].append(level)
                    of_id[1][name] = score
        return [
            (key, Resemblance(min(levels), max(levels), FaceScores(**scores)))
            for key, (levels, scores) in reaching.items()
        ]


def _rows(scores: Floats, least: float) -> list[int]:
    """The columns of float32[k, n] in which one is at or above `least`."""
    columns: list[int] = np.flatnonzero((scores >= least).any(axis=0)).tolist()
    return columns


def _score_pairs(pairs: Sequence[Pair], dim: int) -> list[float]:
    """The score of each live face with its portrait."""
    sides = np.array([[one.vector for one in pair] for pair in pairs], np.float32)
    sides = sides.reshape(len(pairs), 2, dim)
    rows = np.arange(len(pairs))
    scores: list[float] = exact_scores(sides[:, 0], sides[:, 1], rows, rows).tolist()
    return scores


def score_best(probe: Floats, references: Floats) -> float | None:
    """The highest score of a probe float32[d] among references float32[n, d]; `None` for none."""
    if len(references) == 0:
        return None
    rows = np.arange(len(references))
    return float(exact_scores(probe[None], references, np.zeros_like(rows), rows).max())


def fuse_vectors(*vectors: Floats) -> Floats:
    """The normalised mean of unit vectors float32[d]: one face from several photographs."""
    total = reduce(np.add, vectors)
    fused: Floats = total / np.float32(np.linalg.norm(total))
    return fused


def fuse_seconds(templates: Sequence[SecondTemplate | None]) -> SecondTemplate | None:
    """The same of a second model's templates, of those that are there; None for none."""
    held = [one for one in templates if one is not None]
    if len(held) < 2:
        return held[0] if held else None
    return SecondTemplate(held[0].digest, fuse_vectors(*(one.vector for one in held)))
