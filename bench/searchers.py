"""Who is asked for the nearest vectors in the index suites: the same questions for all."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bench.vectors import Vectors
from indexes.exact.certificate import CertifiedHits
from indexes.exact.exact8 import Exact8Index
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.segmented.segments import SegmentedIndex

SEGMENT, GALLERY = "exact8, one segment", "exact8, the gallery"

Best = Callable[[Vectors, int], NDArray[np.int64]]
"""Queries and k to the rows of the k best: int64[q, k], best first."""
Reaching = Callable[[Vectors, float], object]
"""Queries and a threshold to whatever reaches it, in a form of its own."""

Built = TypeVar("Built")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Searcher:
    """An index with all vectors in it, under their rows as ids.

    `reaching` is None where it has no range search, and `no_range` says why. `build_s` is with
    training. `bytes_per_reference`: codes, vectors and what else it keeps of each.
    """

    name: str
    best: Best
    reaching: Reaching | None = None
    no_range: str = ""
    build_s: float = 0.0
    bytes_per_reference: float = 0.0


def clock(action: Callable[[], Built]) -> tuple[Built, float]:
    """What the action returns, and its seconds."""
    start = time.perf_counter()
    built = action()
    return built, time.perf_counter() - start


def build_segment(references: Vectors, scanner: Scanner) -> tuple[Exact8Index, Searcher]:
    """One sealed segment, and how it is asked."""
    rows = np.arange(len(references), dtype=np.int64)
    dim = references.shape[1]
    segment, build_s = clock(lambda: Exact8Index(dim, rows, references, scanner=scanner))
    searcher = Searcher(
        name=SEGMENT,
        best=lambda queries, k: _rows_of(segment.search(queries, k)),
        reaching=segment.range_search,
        build_s=build_s,
        bytes_per_reference=segment.account().bytes_per_reference,
    )
    return segment, searcher


def build_gallery(references: Vectors, scanner: Scanner) -> tuple[Gallery, Searcher]:
    """The gallery of a deployment, and how it is asked."""
    rows = np.arange(len(references), dtype=np.int64)

    def build() -> Gallery:
        gallery = Gallery(SegmentedIndex(references.shape[1], scanner=scanner))
        gallery.add(rows, references, 1)
        gallery.settle()
        return gallery

    gallery, build_s = clock(build)
    searcher = Searcher(
        name=GALLERY,
        best=lambda queries, k: _rows_of(certified(gallery.search(queries, k).hits)),
        reaching=gallery.range_search,
        build_s=build_s,
        bytes_per_reference=gallery.account().bytes_per_reference,
    )
    return gallery, searcher


def certified(hits: object) -> CertifiedHits:
    """The hits of an index that certifies them; any other here would be our own mistake."""
    assert isinstance(hits, CertifiedHits)
    return hits


def _rows_of(hits: CertifiedHits) -> NDArray[np.int64]:
    """int64[q, k]: every query has as many."""
    return hits.ids.reshape(len(hits), -1)
