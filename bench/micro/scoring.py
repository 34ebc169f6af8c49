"""What follows a scan: true scores of the pairs found, and the k-th best of each query."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.micro.actions import Action, Prepared, Sizes
from bench.micro.scanning import NUMPY
from bench.report import Setup
from indexes.exact.kernels import Found, inner_products, kth_best
from indexes.scoring import rounding_bound

OURS = "kernel numba"
PAIRS = (4_096, 65_536)

_K = 10

Answers = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """Unit `queries` float32[q, dim], unit `rows` float32[n, dim], pairs `found` int32[m, 3] by
    row, as a scan gives them, and a score float32[m] for each."""

    queries: NDArray[np.float32]
    rows: NDArray[np.float32]
    found: Found
    scores: NDArray[np.float32]


Act = Callable[[Data], Answers]


def list_scorings(sizes: Sizes) -> list[Action]:
    """Ours and numpy's, of few pairs and of many."""
    bound = 2 * rounding_bound(sizes.dim)
    kinds: tuple[tuple[str, Act, Act, float], ...] = (
        ("True scores", multiply_by_numpy, multiply, bound),
        (f"The {_K}th best", find_kth_by_numpy, find_kth, 0.0),
    )
    found = []
    for pairs in PAIRS:
        setup: Setup = {"pairs": pairs, "queries": sizes.queries, "dim": sizes.dim}
        for name, right, ours, tolerance in kinds:
            for who, act in ((NUMPY, right), (OURS, ours)):
                prepare = partial(_prepare, sizes, pairs, act, right, tolerance)
                result = f"{name} of {pairs:,} pairs"
                found.append(Action(result=result, who=who, prepare=prepare, setup=setup))
    return found


def make_data(sizes: Sizes, pairs: int) -> Data:
    """Each query has about as many pairs."""
    random = np.random.default_rng([sizes.seed, pairs])
    queries = _unit(random.standard_normal((sizes.queries, sizes.dim)))
    rows = _unit(random.standard_normal((max(1_024, sizes.rows // 16), sizes.dim)))
    found = np.zeros((pairs, 3), np.int32)
    found[:, 0] = np.sort(random.integers(0, len(rows), pairs))
    found[:, 1] = random.integers(0, len(queries), pairs)
    return Data(queries, rows, found, random.random(pairs, np.float32))


def multiply(data: Data) -> Answers:
    products: Answers = inner_products(data.queries, data.rows, data.found)
    return products


def multiply_by_numpy(data: Data) -> Answers:
    row_of, query_of = data.found[:, 0], data.found[:, 1]
    products: Answers = np.einsum("ij,ij->i", data.queries[query_of], data.rows[row_of])
    return products


def find_kth(data: Data) -> Answers:
    best: Answers = kth_best(data.scores, data.found, len(data.queries), _K)
    return best


def find_kth_by_numpy(data: Data) -> Answers:
    """Sorts by query, and asks for the k-th greatest of each."""
    query_of = data.found[:, 1]
    order = np.argsort(query_of, kind="stable")
    ends = np.searchsorted(query_of[order], np.arange(len(data.queries) + 1))
    best = np.full(len(data.queries), -np.inf, np.float32)
    for query in range(len(data.queries)):
        mine = data.scores[order[ends[query] : ends[query + 1]]]
        if len(mine) >= _K:
            best[query] = np.partition(mine, -_K)[-_K]
    return best


def are_near(right: Answers, tolerance: float, answers: Any) -> bool:
    """Whether these are the answers; -inf is equal to itself."""
    with np.errstate(invalid="ignore"):
        near = np.abs(answers.astype(np.float64) - right) <= tolerance
    return bool((near | (answers == right)).all())


def _prepare(sizes: Sizes, pairs: int, act: Act, right: Act, tolerance: float) -> Prepared:
    data = make_data(sizes, pairs)
    return partial(act, data), partial(are_near, right(data), tolerance)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (vectors / lengths).astype(np.float32)
    return unit
