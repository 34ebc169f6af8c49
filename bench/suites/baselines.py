"""The indexes that Sosie's search is compared with, each as its documentation calls it."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from bench.core.reports import Figure, Result, Setup
from bench.datasets import Answer, Faces, Vectors, find_best
from engine.errors import RequestError
from indexes.base import Hits, Ints
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.segmented.segments import SegmentedIndex
from indexes.segmented.view import SealedView, SegmentSearch
from schema import frozen

SEGMENT, GALLERY = "exact8, one segment", "exact8, the gallery"
K = 10
SCORE_TOLERANCE = 1e-6
INDEXES_AT_ONCE = 8
"""Of `build_participants`."""


Best = Callable[[Vectors, int], Ints]
"""Queries and k to the rows of the k best: int64[q, k], best first."""


@frozen(eq=False)
class Searcher:
    """An index with all vectors in it, under their rows as ids."""

    name: str
    best: Best


def build_segment(references: Vectors, scanner: Scanner) -> Exact8Segment:
    """One sealed segment."""
    return Exact8Segment(np.arange(len(references)), references, scanner=scanner)


def search_segment(segment: Exact8Segment) -> SegmentSearch:
    """The search of this segment alone."""
    return SegmentSearch([SealedView.of(segment)], [], segment.scanner.kernel)


def build_gallery(references: Vectors, scanner: Scanner) -> Gallery:
    """The gallery of a deployment."""
    gallery = Gallery(SegmentedIndex(references.shape[1], scanner=scanner))
    gallery.add(np.arange(len(references)), references, 1)
    gallery.settle()
    return gallery


def _ask_ours(segment: Exact8Segment, gallery: Gallery) -> tuple[Searcher, Searcher]:
    def rows_of(hits: Hits) -> Ints:
        return hits.ids.reshape(len(hits), -1)

    alone = search_segment(segment)
    return (
        Searcher(GALLERY, lambda q, k: rows_of(gallery.search(q, k).hits)),
        Searcher(SEGMENT, lambda q, k: rows_of(alone.search(q, k))),
    )


FLAT, FLAT_BLAS = "FAISS Flat", "FAISS Flat by BLAS"
PANORAMA, USEARCH = "FAISS Flat Panorama", "usearch int8, exact"
IVF, RABITQ = "FAISS IVF", "FAISS RaBitQ IVF"
NPROBES = (64, 256)

# Its stubs do not know that parameters take their fields by name.
_faiss: Any = faiss
_K_FACTOR = 20
_TRAINING_ROWS = 262_144
_FEW_ROWS = 100_000
_LISTS = 4096
_ROWS_A_LIST = 39  # below it FAISS warns that a centroid has seen too little
_HIGHEST_CODE = 127
_LEVELS = 8
"""Steps of Panorama, of equally many dimensions each."""


def _build_flat(references: Vectors) -> Iterator[Searcher]:
    """FAISS's brute force as it comes, and with BLAS even for few queries.

    FAISS compares without BLAS what has fewer numbers in its queries than a threshold, which its
    version 1.15 sets so high that a batch of 256 falls below: many times slower.
    """
    index = faiss.IndexFlatIP(references.shape[1])
    index.add(references)

    def best(queries: Vectors, k: int) -> Ints:
        found: Ints = index.search(queries, k)[1]
        return found

    def best_by_blas(queries: Vectors, k: int) -> Ints:
        before = faiss.cvar.distance_compute_blas_threshold
        faiss.cvar.distance_compute_blas_threshold = 1
        try:
            return best(queries, k)
        finally:
            faiss.cvar.distance_compute_blas_threshold = before

    yield Searcher(FLAT, best)
    yield Searcher(FLAT_BLAS, best_by_blas)


def _build_panorama(references: Vectors) -> Searcher:
    """Flat that leaves a row as soon as its first components rule it out: exact, the fairest peer.

    Rows and queries are turned to the principal axes, as its documentation asks.
    """
    dim = references.shape[1]
    axes = faiss.PCAMatrix(dim, dim)
    axes.train(references[:_TRAINING_ROWS])
    # Centred vectors would have other inner products.
    axes.have_bias = False
    index = _faiss.IndexPreTransform(axes, _faiss.IndexFlatIPPanorama(dim, _LEVELS))
    index.add(references)
    return Searcher(PANORAMA, lambda queries, k: index.search(queries, k)[1])


def count_lists(references: int) -> int:
    """Lists of an inverted file of so many."""
    return min(_LISTS, max(16, min(references, _TRAINING_ROWS) // _ROWS_A_LIST))


def _build_lists(references: Vectors, name: str, codes: str) -> Iterator[Searcher]:
    """Codes in lists, of which the nearest `nprobe` are looked through, the best refined."""
    lists = count_lists(len(references))
    index = _build_index(f"IVF{lists},{codes},RFlat", references)

    def searcher(nprobe: int) -> Searcher:
        options = _faiss.IndexRefineSearchParameters(
            k_factor=_K_FACTOR, base_index_params=_faiss.IVFSearchParameters(nprobe=nprobe)
        )
        return Searcher(
            f"{name}{lists}, nprobe {nprobe}",
            lambda queries, k: index.search(queries, k, params=options)[1],
        )

    return (searcher(nprobe) for nprobe in NPROBES if nprobe <= lists)


def _build_usearch(references: Vectors) -> Searcher:
    """Bytes compared one with another; `ImportError` where usearch is not installed."""
    from usearch.index import MetricKind, search

    limit = float(np.abs(references).max())
    codes = _to_bytes(references, limit)
    threads = len(os.sched_getaffinity(0))

    def best(queries: Vectors, k: int) -> Ints:
        coded = _to_bytes(queries, limit)
        found = search(codes, coded, k, MetricKind.IP, exact=True, threads=threads)
        return np.asarray(found.keys).astype(np.int64).reshape(len(queries), -1)

    return Searcher(USEARCH, best)


def _build_index(factory: str, references: Vectors) -> Any:
    """Trained and filled."""
    index = faiss.index_factory(references.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    threads = faiss.omp_get_max_threads()
    # FAISS's threads wait for each other, spinning, after each small step.
    faiss.omp_set_num_threads(1 if len(references) < _FEW_ROWS else threads)
    index.train(references[:_TRAINING_ROWS])
    faiss.omp_set_num_threads(threads)
    index.add(references)
    return index


def _to_bytes(vectors: Vectors, limit: float) -> NDArray[np.int8]:
    """One scale for all: the largest component gets the highest code."""
    scaled = np.clip(vectors * (_HIGHEST_CODE / limit), -_HIGHEST_CODE, _HIGHEST_CODE)
    codes: NDArray[np.int8] = np.rint(scaled).astype(np.int8)
    return codes


@dataclass(slots=True, eq=False)
class Participants:
    """The searchers of a comparison, FAISS Flat first; those that are not installed, and why."""

    segment: Exact8Segment
    gallery: Gallery
    searchers: list[Searcher]
    missing: dict[str, str]


def refuse_too_much(references: int, dim: int, indexes: int) -> None:
    """`RequestError` where the vectors and so many indexes of them would not fit in memory."""
    needed = references * dim * 4 * indexes
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise RequestError(
            f"{references:,} references of {dim} dimensions need {needed / 2**30:.0f} GiB, the "
            f"machine has {memory / 2**30:.0f}: lower --n"
        )


def build_participants(references: Vectors, scanner: Scanner) -> Participants:
    """Builds one index after the other."""
    segment, gallery = build_segment(references, scanner), build_gallery(references, scanner)
    searchers = [*_build_flat(references), _build_panorama(references)]
    searchers += _ask_ours(segment, gallery)
    searchers += _build_lists(references, IVF, f"PQ{references.shape[1] // 2}x4fs")
    # A bit a dimension; its bound on the error is probable only.
    searchers += _build_lists(references, RABITQ, "RaBitQfs")
    missing: dict[str, str] = {}
    try:
        searchers.append(_build_usearch(references))
    except ImportError:
        missing[USEARCH] = "not installed: pip install usearch"
    return Participants(segment, gallery, searchers, missing)


def mix(faces: Faces, count: int) -> Vectors:
    """float32[count, dim]: probes of people in the gallery and of strangers, in turn."""
    mates, strangers = faces.sample(-(-count // 2))[1], faces.strangers(count)
    probes = strangers.copy()
    probes[: 2 * len(mates) : 2] = mates
    return probes


def compare_hits(hits: Hits, right: Sequence[Answer], first: int = 0) -> Iterator[bool]:
    """Whether each query has the ids, in their order, and the scores that are right."""
    for query in range(len(hits)):
        ids, scores = hits.of(query)
        rows, expected = right[first + query]
        yield np.array_equal(ids, rows) and bool(
            (np.abs(scores - expected) <= SCORE_TOLERANCE).all()
        )


def ask_in_turn(searcher: Searcher, probes: Vectors, k: int) -> Callable[[], object]:
    """Asks for the k best of one probe, of the next one at each call."""
    turn = cycle(probes[:, None])
    return lambda: searcher.best(next(turn), k)


_BAND = (0.45, 0.50)
_WIDTH = 0.05
_FEWEST = 20


def list_recall(
    faces: Faces, review: float, count: int, participants: Participants, setup: Setup
) -> Iterator[Result]:
    """The share of mates that each finds: a result for the band that the literature calls hard, and
    one for that above the review threshold. Counted are mates that brute force has among its `K`
    best."""
    # Both ways of FAISS Flat answer the same; one is asked.
    searchers = [one for one in participants.searchers if one.name != FLAT]
    bands = {
        f"score {_BAND[0]:.2f} to {_BAND[1]:.2f}": _BAND,
        f"score {review:.2f} to {review + _WIDTH:.2f}, just in review": (review, review + _WIDTH),
    }
    for name, band in bands.items():
        rows, probes = faces.near(*band, count)
        best = find_best(probes, faces.references, K)
        kept = [query for query, row in enumerate(rows) if row in best[query][0]]
        rows, probes = rows[kept], probes[kept]
        if len(rows) < _FEWEST:
            reason = f"only {len(rows)} mates have such a score: raise --n"
            figures = [Figure.skip(one.name, "share", reason) for one in searchers]
        else:
            found = {one.name: one.best(probes, K) == rows[:, None] for one in searchers}
            figures = [
                Figure(name, "share", float(has.any(axis=1).mean())) for name, has in found.items()
            ]
        figures += [Figure.skip(one, "share", why) for one, why in participants.missing.items()]
        counts: Setup = {"k": K, "mates": len(rows)}
        yield Result(f"Recall of mates, {name}", setup | counts, tuple(figures))
