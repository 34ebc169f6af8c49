"""The indexes that Sosie's search is compared with, each as its documentation calls it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from bench.searchers import Searcher, clock
from bench.vectors import Vectors

FLAT, FLAT_BLAS, SQ8 = "FAISS Flat", "FAISS Flat by BLAS", "FAISS SQ8"
FASTSCAN, IVF, USEARCH, HNSW = "FAISS PQ4fs+refine", "FAISS IVF", "usearch int8, exact", "hnswlib"
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
        name=FLAT,
        best=best,
        reaching=index.range_search,
        build_s=build_s,
        bytes_per_reference=size,
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
        best=lambda queries, k: _second(index.search(queries, k)),
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
            best=lambda queries, k: _second(index.search(queries, k, params=options)),
            no_range="FAISS has none for it",
            build_s=build_s,
            bytes_per_reference=dim / 4 + 4 * dim,
        )

    return {k_factor: searcher(k_factor) for k_factor in K_FACTORS}


def build_ivf(references: Vectors, nprobes: tuple[int, ...]) -> dict[int, Searcher]:
    """The same codes in lists, of which the nearest `nprobe` are looked through."""
    count, dim = references.shape
    lists = min(_LISTS, max(16, min(count, _TRAINING_ROWS) // _ROWS_A_LIST))
    factory = f"IVF{lists},PQ{dim // 2}x4fs,RFlat"
    index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    build_s = _train_and_add(index, references)

    def searcher(nprobe: int) -> Searcher:
        options = _faiss.IndexRefineSearchParameters(
            k_factor=K_FACTOR, base_index_params=_faiss.IVFSearchParameters(nprobe=nprobe)
        )
        return Searcher(
            name=f"FAISS IVF{lists}, nprobe {nprobe}",
            best=lambda queries, k: _second(index.search(queries, k, params=options)),
            reaching=lambda queries, at: index.range_search(queries, at, params=options),
            build_s=build_s,
            bytes_per_reference=dim / 4 + 4 * dim + 8,
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


def _second(found: tuple[Any, NDArray[np.int64]]) -> NDArray[np.int64]:
    return found[1]
