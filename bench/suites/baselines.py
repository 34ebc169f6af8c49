"""The indexes that Sosie's search is compared with, each as its documentation calls it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from bench.core.reports import Figure, Result, Setup
from bench.core.timing import Seconds, clock, interleave, rested
from bench.data.vectors import Faces, Near, Vectors, find_best
from engine.errors import RequestError
from indexes.base import CertifiedHits
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.segmented.segments import SegmentedIndex
from indexes.segmented.view import SealedView, SegmentSearch

SEGMENT, GALLERY = "exact8, one segment", "exact8, the gallery"
K = 10
PROMISED_SIZE = (1_000_000, 128)
"""References and dimensions that the promised speeds are for."""
SCORE_TOLERANCE = 1e-6
INDEXES_AT_ONCE = 10
"""Of `build_participants`."""


def size_reason(references: int, dim: int) -> str:
    """Why a goal for that size says nothing of another."""
    return f"promised for {references:,} references of {dim} dimensions"


Best = Callable[[Vectors, int], NDArray[np.int64]]
"""Queries and k to the rows of the k best: int64[q, k], best first."""
Reaching = Callable[[Vectors, float], object]
"""Queries and a threshold to whatever reaches it, in a form of its own."""


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


def build_segment(references: Vectors, scanner: Scanner) -> tuple[Exact8Segment, Searcher]:
    """One sealed segment, and how it is asked."""
    rows = np.arange(len(references), dtype=np.int64)
    segment, build_s = clock(lambda: Exact8Segment(rows, references, scanner=scanner))
    parts = SegmentSearch([SealedView.of(segment)], [], scanner.kernel)
    searcher = Searcher(
        name=SEGMENT,
        best=lambda queries, k: _rows_of(parts.search(queries, k)),
        reaching=parts.range_search,
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


FLAT, FLAT_BLAS, SQ8 = "FAISS Flat", "FAISS Flat by BLAS", "FAISS SQ8"
FASTSCAN, IVF, RABITQ = "FAISS PQ4fs+refine", "FAISS IVF", "FAISS RaBitQ IVF"
USEARCH, HNSW, NUMKONG = "usearch int8, exact", "hnswlib", "NumKong int8, exact"
K_FACTOR = 20
NPROBES, EFS, K_FACTORS = (64, 256), (64, 256), (1, 5, 20, 80)

# Its stubs do not know that parameters take their fields by name.
_faiss: Any = faiss
_TRAINING_ROWS = 262_144
_FEW_ROWS = 100_000
_LISTS = 4096
_ROWS_A_LIST = 39  # below it FAISS warns that a centroid has seen too little
_HNSW_LINKS, _HNSW_EF_CONSTRUCTION = 16, 100
_HIGHEST_CODE = 127
_NUMKONG_ROWS = 65_536


def build_flat(references: Vectors) -> tuple[Searcher, Searcher]:
    """FAISS's brute force as it comes, and with BLAS even for few queries.

    FAISS compares without BLAS what has fewer numbers in its queries than a threshold, which its
    version 1.15 sets so high that a batch of 256 falls below: many times slower.
    """
    index = faiss.IndexFlatIP(references.shape[1])
    build_s = clock(lambda: index.add(references))[1]
    size = float(4 * index.d)

    def with_blas(action: Callable[..., Any]) -> Callable[..., Any]:
        def perform(*given: Any) -> Any:
            with _blas_threshold(1):
                return action(*given)

        return perform

    def best(queries: Vectors, k: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = index.search(queries, k)[1]
        return found

    plain = Searcher(
        name=FLAT, best=best, reaching=index.range_search, build_s=build_s, bytes_per_reference=size
    )
    by_blas = Searcher(
        name=FLAT_BLAS,
        best=with_blas(best),
        reaching=with_blas(index.range_search),
        build_s=build_s,
        bytes_per_reference=size,
    )
    return plain, by_blas


def build_sq8(references: Vectors) -> Searcher:
    """A trained byte a dimension, searched whole; scores are those of the codes."""
    dim = references.shape[1]
    index = faiss.IndexScalarQuantizer(
        dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    return Searcher(
        name=SQ8,
        best=lambda queries, k: index.search(queries, k)[1],
        no_range="FAISS has only a slow one for it, row by row",
        build_s=_train_and_add(index, references),
        bytes_per_reference=float(dim),
    )


def build_fastscan(references: Vectors) -> dict[int, Searcher]:
    """Four bits for two dimensions, searched whole, the best refined; by how many: k_factor."""
    dim = references.shape[1]
    index = faiss.index_factory(dim, f"PQ{dim // 2}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT)
    build_s = _train_and_add(index, references)

    def searcher(k_factor: int) -> Searcher:
        options = _faiss.IndexRefineSearchParameters(k_factor=k_factor)
        return Searcher(
            name=f"{FASTSCAN}, k_factor {k_factor}",
            best=lambda queries, k: index.search(queries, k, params=options)[1],
            no_range="FAISS has none for it",
            build_s=build_s,
            bytes_per_reference=dim / 4 + 4 * dim,
        )

    return {k_factor: searcher(k_factor) for k_factor in K_FACTORS}


def build_ivf(references: Vectors, nprobes: tuple[int, ...]) -> dict[int, Searcher]:
    """The same codes in lists, of which the nearest `nprobe` are looked through."""
    dim = references.shape[1]
    return _build_lists(references, nprobes, IVF, f"PQ{dim // 2}x4fs", dim / 4)


def build_rabitq(references: Vectors, nprobes: tuple[int, ...]) -> dict[int, Searcher]:
    """A bit a dimension in lists, whose bound on the error is probable only; the best refined."""
    dim = references.shape[1]
    return _build_lists(references, nprobes, RABITQ, "RaBitQfs", dim / 8 + 8)


def count_lists(references: int) -> int:
    """Lists of an inverted file of so many."""
    return min(_LISTS, max(16, min(references, _TRAINING_ROWS) // _ROWS_A_LIST))


def _build_lists(
    references: Vectors, nprobes: tuple[int, ...], name: str, codes: str, code_bytes: float
) -> dict[int, Searcher]:
    count, dim = references.shape
    lists = count_lists(count)
    factory = f"IVF{lists},{codes},RFlat"
    index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    build_s = _train_and_add(index, references)

    def searcher(nprobe: int) -> Searcher:
        options = _faiss.IndexRefineSearchParameters(
            k_factor=K_FACTOR, base_index_params=_faiss.IVFSearchParameters(nprobe=nprobe)
        )
        return Searcher(
            name=f"{name}{lists}, nprobe {nprobe}",
            best=lambda queries, k: index.search(queries, k, params=options)[1],
            reaching=(
                (lambda queries, at: index.range_search(queries, at, params=options))
                if name == IVF
                else None
            ),
            no_range="FAISS's answers of it are not compared",
            build_s=build_s,
            bytes_per_reference=code_bytes + 4 * dim + 8,
        )

    return {nprobe: searcher(nprobe) for nprobe in nprobes if nprobe <= lists}


def build_usearch(references: Vectors) -> Searcher:
    """Bytes compared one with another; `ImportError` where usearch is not installed."""
    from usearch.index import MetricKind, search

    limit = float(np.abs(references).max())
    codes, coding_s = clock(lambda: _to_bytes(references, limit))
    threads = len(os.sched_getaffinity(0))

    def best(queries: Vectors, k: int) -> NDArray[np.int64]:
        coded = _to_bytes(queries, limit)
        found = search(codes, coded, k, MetricKind.IP, exact=True, threads=threads)
        return np.asarray(found.keys).astype(np.int64).reshape(len(queries), -1)

    return Searcher(
        name=USEARCH,
        best=best,
        no_range="usearch has no exact one",
        build_s=coding_s,
        bytes_per_reference=float(references.shape[1]),
    )


def build_numkong(references: Vectors) -> Searcher:
    """Packed bytes and their products with the queries, the k best of each block by numpy;
    `ImportError` where numkong is not installed."""
    import numkong

    limit = float(np.abs(references).max())
    starts = range(0, len(references), _NUMKONG_ROWS)

    def pack() -> list[Any]:
        codes = _to_bytes(references, limit)
        return [numkong.dots_pack(codes[at : at + _NUMKONG_ROWS]) for at in starts]

    blocks, build_s = clock(pack)
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    def best(queries: Vectors, k: int) -> NDArray[np.int64]:
        coded = _to_bytes(queries, limit)

        def look(start: int, block: Any) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
            scores = np.asarray(numkong.dots_packed(coded, block))
            kept = min(k, scores.shape[1])
            rows = np.argpartition(scores, scores.shape[1] - kept, axis=1)[:, -kept:]
            return rows + start, np.take_along_axis(scores, rows, axis=1)

        found = list(pool.map(look, starts, blocks))
        rows, scores = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(rows, order, axis=1)

    return Searcher(
        name=NUMKONG,
        best=best,
        no_range="NumKong has kernels, and no search",
        build_s=build_s,
        bytes_per_reference=float(sum(block.nbytes for block in blocks)) / len(references),
    )


def build_hnsw(references: Vectors, efs: tuple[int, ...]) -> dict[int, Searcher]:
    """A graph walked with a list of `ef` places; `ImportError` where hnswlib is not installed."""
    import hnswlib

    count, dim = references.shape
    index = hnswlib.Index("ip", dim)
    index.init_index(count, ef_construction=_HNSW_EF_CONSTRUCTION, M=_HNSW_LINKS, random_seed=7)
    index.set_num_threads(len(os.sched_getaffinity(0)))
    build_s = clock(lambda: index.add_items(references, np.arange(count)))[1]
    size = index.index_file_size() / count

    def searcher(ef: int) -> Searcher:
        def best(queries: Vectors, k: int) -> NDArray[np.int64]:
            index.set_ef(ef)
            found: NDArray[np.int64] = index.knn_query(queries, k)[0].astype(np.int64)
            return found

        return Searcher(
            name=f"{HNSW}, ef {ef}",
            best=best,
            no_range="hnswlib has none",
            build_s=build_s,
            bytes_per_reference=size,
        )

    return {ef: searcher(ef) for ef in efs}


@contextmanager
def _threads_for(rows: int) -> Iterator[None]:
    """One for few rows: FAISS's threads wait for each other, spinning, after each small step."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1 if rows < _FEW_ROWS else before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@contextmanager
def _blas_threshold(numbers: int) -> Iterator[None]:
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = numbers
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before


def _train_and_add(index: Any, references: Vectors) -> float:
    def build() -> None:
        with _threads_for(len(references)):
            index.train(references[:_TRAINING_ROWS])
        index.add(references)

    return clock(build)[1]


def _to_bytes(vectors: Vectors, limit: float) -> NDArray[np.int8]:
    """One scale for all: the largest component gets the highest code."""
    scaled = np.clip(vectors * (_HIGHEST_CODE / limit), -_HIGHEST_CODE, _HIGHEST_CODE)
    codes: NDArray[np.int8] = np.rint(scaled).astype(np.int8)
    return codes


PACKAGES = {USEARCH: "usearch", HNSW: "hnswlib", NUMKONG: "numkong"}


@dataclass(slots=True, eq=False)
class Participants:
    """The searchers of a comparison, FAISS Flat first; those that are not installed, and why."""

    segment: Exact8Segment
    gallery: Gallery
    searchers: list[Searcher]
    missing: dict[str, str]


def explain_too_much(references: int, dim: int, indexes: int) -> str | None:
    """Why so many indexes of the vectors would not fit in memory; None where they do."""
    needed = references * dim * 4 * indexes
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed <= memory:
        return None
    return (
        f"{references:,} references of {dim} dimensions need {needed / 2**30:.0f} GiB, the "
        f"machine has {memory / 2**30:.0f}: lower --n"
    )


def refuse_too_much(references: int, dim: int, indexes: int) -> None:
    """`RequestError` where the vectors and so many indexes of them would not fit in memory."""
    if reason := explain_too_much(references, dim, indexes):
        raise RequestError(reason)


def build_participants(references: Vectors, scanner: Scanner, *, has_graph: bool) -> Participants:
    """Builds one index after the other."""
    segment, ours = build_segment(references, scanner)
    gallery, deployed = build_gallery(references, scanner)
    searchers = [*build_flat(references), deployed, ours, build_sq8(references)]
    searchers += [build_fastscan(references)[K_FACTOR], *build_ivf(references, NPROBES).values()]
    searchers += build_rabitq(references, NPROBES).values()
    missing: dict[str, str] = {}
    add_if_installed(searchers, missing, USEARCH, lambda: [build_usearch(references)])
    add_if_installed(searchers, missing, NUMKONG, lambda: [build_numkong(references)])
    if has_graph:
        add_if_installed(searchers, missing, HNSW, lambda: build_hnsw(references, EFS).values())
    else:
        missing[HNSW] = "left out by --no-graph: it takes minutes to build"
    return Participants(segment, gallery, searchers, missing)


def mix(faces: Faces, count: int) -> Vectors:
    """float32[count, dim]: probes of people in the gallery and of strangers, in turn."""
    mates, strangers = faces.sample(-(-count // 2)).probes, faces.strangers(count)
    probes = strangers.copy()
    probes[: 2 * len(mates) : 2] = mates
    return probes


def add_if_installed(
    searchers: list[Searcher],
    missing: dict[str, str],
    name: str,
    build: Callable[[], Iterable[Searcher]],
) -> None:
    """With them, or noted as missing where the package is not installed."""
    try:
        searchers += build()
    except ImportError:
        missing[name] = f"not installed: pip install {PACKAGES[name]}"


def ask_in_turn(searcher: Searcher, probes: Vectors, k: int) -> Callable[[], object]:
    """Asks for the k best of one probe, of the next one at each call."""
    places = cycle(range(len(probes)))

    def ask() -> object:
        place = next(places)
        return searcher.best(probes[place : place + 1], k)

    return ask


def time_batch(
    searchers: Iterable[Searcher], probes: Vectors, k: int, rounds: int
) -> dict[str, Seconds]:
    """Seconds of one query where all are asked at once, round by round in turn."""
    actions = {one.name: rested(partial(one.best, probes, k)) for one in searchers}
    seconds = interleave(actions, rounds)
    return {name: values / len(probes) for name, values in seconds.items()}


_BAND = (0.45, 0.50)
_WIDTH = 0.05
_FEWEST = 20


@dataclass(frozen=True, slots=True, eq=False)
class Findable:
    """Mates in a band that brute force has among the k best of their probe."""

    name: str
    near: Near
    k: int

    def __len__(self) -> int:
        return len(self.near)

    def recall(self, searcher: Searcher) -> float:
        """The share of them that it has among its k best."""
        found = searcher.best(self.near.probes, self.k)
        return float((found == self.near.rows[:, None]).any(axis=1).mean())


def find_bands(faces: Faces, review: float, count: int, k: int) -> tuple[Findable, ...]:
    """The band of mates that the literature calls hard, and the one above the review threshold."""
    bands = {
        f"score {_BAND[0]:.2f} to {_BAND[1]:.2f}": _BAND,
        f"score {review:.2f} to {review + _WIDTH:.2f}, just in review": (review, review + _WIDTH),
    }
    return tuple(
        Findable(name, _keep_findable(faces.near(*band, count), faces.references, k), k)
        for name, band in bands.items()
    )


def list_recall(
    bands: Iterable[Findable],
    searchers: Iterable[Searcher],
    missing: Mapping[str, str],
    setup: Setup,
) -> list[Result]:
    """A result a band: the share of its findable mates, 1 for brute force itself."""
    results = []
    for band in bands:
        if len(band) < _FEWEST:
            reason = f"only {len(band)} mates have such a score: raise --n"
            figures = [Figure.skip(one.name, "share", reason) for one in searchers]
        else:
            figures = [Figure(one.name, "share", band.recall(one)) for one in searchers]
        figures += [Figure.skip(one, "share", reason) for one, reason in missing.items()]
        counts: Setup = {"k": band.k, "mates": len(band)}
        results.append(Result(f"Recall of mates, {band.name}", setup | counts, tuple(figures)))
    return results


def _keep_findable(near: Near, references: Vectors, k: int) -> Near:
    best = find_best(near.probes, references, k)
    found = np.array([row in best.of(query)[0] for query, row in enumerate(near.rows)], np.bool_)
    return Near(near.rows[found], near.probes[found])
