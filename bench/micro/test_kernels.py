"""The scans of `indexes` on one core, beside numpy.

They compare byte codes. Rows and queries are random bytes, and each query has one row near it;
their products fit float32 without rounding, so all have to find the very same pairs.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.conftest import Clock
from bench.core.reports import Measured, Setup
from engine.errors import RequestError
from indexes.exact.codes import no_plane
from indexes.exact.intrinsics import BLOCK
from indexes.exact.kernels import LOWEST, STRETCH, Found, Rows, Wanted
from indexes.exact.scanner import ProductScan, available_kernels
from indexes.exact.scans import Scan, pack, scan_amx, scan_few_vnni, scan_plain, scan_vnni

NUMPY = "numpy float32"
WHO = (NUMPY, *(f"kernel {one}" for one in available_kernels()))
ONE_THREAD = "OPENBLAS_NUM_THREADS"
"""What numpy's BLAS reads when it is loaded."""

# So many standard deviations above the mean: a pair in 100,000 gets there by chance.
_DEVIATIONS = 4.3
_MARGIN = 2  # what a scan keeps below the level, since its floor is rounded
_PAIRS_AT_ONCE = 1 << 23
_PLAIN_PAIRS = 1 << 22  # the plain loop is slow: beyond it says nothing new

Pairs = NDArray[np.int64]
"""int64[m, 2], row and query."""


def configure(config: pytest.Config) -> None:
    if config.getoption("--dim") % 64:
        raise RequestError("give a multiple of 64 as --dim")


@dataclass(frozen=True, slots=True, eq=False)
class ScanCase:
    """Rows and queries as bytes and as floats, and the pairs that reach the threshold."""

    rows: Rows
    wanted: Wanted
    floats: NDArray[np.float32]
    queries: NDArray[np.float32]
    threshold: float
    right: Pairs


@pytest.fixture(scope="module", params=["one", "many"])
def case(request: pytest.FixtureRequest) -> ScanCase:
    option, is_quick = request.config.getoption, request.config.getoption("--quick")
    queries = 1 if request.param == "one" else 64 if is_quick else 256
    rows = option("--n") or (16_384 if is_quick else 262_144)
    return make_case(rows, queries, option("--dim"), option("--seed"))


@pytest.mark.parametrize("who", WHO)
def test_scan(
    who: str,
    case: ScanCase,
    clock: Clock,
    measured: dict[str, Measured],
    pytestconfig: pytest.Config,
) -> None:
    if who == NUMPY and os.environ.get(ONE_THREAD) != "1":
        pytest.skip(f"numpy has all cores: set {ONE_THREAD}=1")
    rows, dim = case.floats.shape
    queries = len(case.queries)
    find = make(who, case)
    if find is None:
        pytest.skip("it is for another number of queries")
    is_right = has_found(case.right, find())
    measured["wrong_kernels"] = float(measured.get("wrong_kernels", 0.0)) + (not is_right)  # type: ignore[arg-type]
    assert is_right, f"{who} finds other pairs"
    called = "one query" if queries == 1 else f"a batch of {queries}"
    seed = pytestconfig.getoption("--seed")
    setup: Setup = {"threads": 1, "seed": seed, "rows": rows, "queries": queries, "dim": dim}
    rounds = 5 if pytestconfig.getoption("--quick") else 30
    clock(f"Scan of {rows:,} rows, {called}", who, find, setup, rounds=rounds)


def make_case(rows: int, queries: int, dim: int, seed: int) -> ScanCase:
    random = np.random.default_rng([seed, rows, queries])
    signed = random.integers(-128, 128, (rows, dim), np.int8)
    factors = random.integers(-127, 128, (queries, dim), np.int8)
    near = random.choice(rows, min(queries, rows), replace=False)
    noise = random.integers(-40, 41, (len(near), dim))
    signed[near] = np.clip(factors[: len(near)] + noise, -128, 127)
    floats, asked = signed.astype(np.float32), factors.astype(np.float32)
    level = int(_DEVIATIONS * 73.5**2 * dim**0.5)
    threshold = level - _MARGIN - 0.5
    codes = (signed.view(np.uint8) ^ 128).astype(np.uint8)
    levels = np.full(-(-queries // BLOCK) * BLOCK, LOWEST, np.int32)
    levels[:queries] = level + 128 * factors.sum(axis=1, dtype=np.int32)
    alive, reach = np.ones(len(codes), np.bool_), np.zeros(-(-len(codes) // STRETCH))
    zeros, no_tails = np.zeros(queries), np.zeros(queries, np.int64)
    heaps = np.empty((queries, 0), np.int32)
    return ScanCase(
        rows=Rows(codes, alive, reach, no_plane(), codes.shape[1], reach),
        wanted=Wanted(factors, zeros, zeros, levels, heaps, zeros, no_tails),
        floats=floats,
        queries=asked,
        threshold=threshold,
        right=find_by_numpy(floats, asked, threshold),
    )


def find_by_numpy(
    floats: NDArray[np.float32], queries: NDArray[np.float32], threshold: float
) -> Pairs:
    """By a product of floats, tile by tile."""
    step = max(1, _PAIRS_AT_ONCE // len(queries))
    parts = []
    for start in range(0, len(floats), step):
        found = np.argwhere(floats[start : start + step] @ queries.T > threshold)
        parts.append(found + np.array([start, 0]))
    return np.concatenate(parts)


def has_found(right: Pairs, found: Pairs) -> bool:
    """True where `found` has the right pairs in any order."""
    order = np.lexsort((found[:, 1], found[:, 0]))
    return np.array_equal(found[order], right)


def make(who: str, case: ScanCase) -> Callable[[], Pairs] | None:
    """What is to be timed, or None where it is not for so many queries."""
    if who == NUMPY:
        return partial(find_by_numpy, case.floats, case.queries, case.threshold)
    scan = _scan_of(who.removeprefix("kernel "), case)
    return None if scan is None else _make_scan(scan, case)


def _scan_of(kernel: str, case: ScanCase) -> Scan | None:
    """The scan that a `Scanner` of this kernel would choose, if it is worth the time."""
    is_one = len(case.queries) == 1
    if kernel == "amx":
        return scan_few_vnni if is_one else partial(scan_amx, pack(case.wanted.codes, BLOCK))
    if kernel == "vnni":
        return scan_few_vnni if is_one else partial(scan_vnni, pack(case.wanted.codes, BLOCK))
    if kernel == "onnxruntime":
        return None if is_one else ProductScan()
    return scan_plain if len(case.floats) * len(case.queries) <= _PLAIN_PAIRS else None


def _make_scan(scan: Scan, case: ScanCase) -> Callable[[], Pairs]:
    """As a `Scanner` scans: part by part into the same room."""
    stretches, queries = len(case.rows.reach), len(case.wanted.codes)
    step = max(1, _PAIRS_AT_ONCE // (queries * STRETCH))
    room: Found = np.empty((step * STRETCH * queries, 3), np.int32)

    def find() -> Pairs:
        parts = []
        for first in range(0, stretches, step):
            kept = scan(case.rows, case.wanted, first, min(first + step, stretches), room)
            parts.append(room[:kept, :2].copy())
        return np.concatenate(parts).astype(np.int64)

    return find
