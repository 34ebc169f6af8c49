"""Suite `kernels`: the scans of `indexes` on one core, beside numpy, FAISS and the core's limits.

They compare byte codes. Rows and queries are random bytes, and each query has one row near it;
their products fit float32 without rounding, so all have to find the very same pairs. Every action
is timed once in each block, so that a ratio is of neighbours in time.
"""

from __future__ import annotations

import operator
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from bench.core.machine import Tile, bind_product, sum_words
from bench.core.reports import Figure, Result, Setup, SuiteOutput, spread
from bench.core.timing import Seconds, repeat
from bench.suites.serve.process import Worker
from engine.errors import RequestError
from indexes.exact.codes import no_plane
from indexes.exact.intrinsics import BLOCK, pack
from indexes.exact.kernels import LOWEST, STRETCH, Found, Rows, Wanted
from indexes.exact.scanner import ProductScan, available_kernels
from indexes.exact.scans import Scan, scan_amx, scan_few_vnni, scan_plain, scan_vnni

QUICK = {"rows": 16_384, "queries": 64, "blocks": 3, "most_s": 0.03}
RATES = "Rate"
"""How the results begin that say what a kernel does in a second; the docs draw them."""

_DIM_STEP = 64
# BLAS reads how many threads it may have when it is loaded.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelsConfig:
    """Scans of `rows` and of fewer, for one query and for `queries`; `most_s` of each action."""

    rows: int = 262_144
    queries: int = 256
    dim: int = 128
    blocks: int = 3
    most_s: float = 0.5
    seed: int = 0


Prepared = tuple[Callable[[], Any], Callable[[Any], bool]]
"""The call to time, and whether what it returns is right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What `who` does for the result of that name; the first of a result is what others are to.

    `work`: 1e9 operations or bytes; `unit`: that of their rate.
    """

    result: str
    who: str
    prepare: Callable[[], Prepared]
    setup: Setup = field(default_factory=dict)
    work: float = 0.0
    unit: str = ""


@dataclass(slots=True)
class Timing:
    """Seconds of an action's calls, block by block, and in how many blocks it erred."""

    action: Action
    blocks: list[Seconds] = field(default_factory=list)
    wrong: int = 0

    @property
    def medians(self) -> Seconds:
        return np.array([np.median(one) for one in self.blocks])

    def make_figure(self, unit: str, convert: Callable[[float], float], **more: Any) -> Figure:
        """Quartiles within a block, each the median over blocks, in a unit of their own."""
        quartiles = [np.quantile(one, [0.25, 0.5, 0.75]) for one in self.blocks]
        low, value, high = (convert(float(one)) for one in np.median(quartiles, axis=0))
        return Figure(
            name=self.action.who,
            unit=unit,
            value=value,
            low=min(low, high),
            high=max(low, high),
            noise=spread(self.medians.tolist()),
            repeats=min(map(len, self.blocks)),
            **more,
        )


def run(config: KernelsConfig) -> SuiteOutput:
    if config.dim % _DIM_STEP:
        raise RequestError(f"--dim is {config.dim}: give a multiple of {_DIM_STEP}")
    before = dict(os.environ)
    os.environ.update(_ONE_THREAD)
    try:
        with Worker() as pool:
            return pool.submit(_run_here, config).result()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run_here(config: KernelsConfig) -> SuiteOutput:
    timings = time_actions(list_scans(config), config.blocks, config.most_s)
    setup: Setup = {"threads": 1, "seed": config.seed}
    wrong = sum(one.wrong for one in timings)
    return tuple(_list_results(timings, setup)), {"wrong_kernels": float(wrong)}


def time_actions(actions: Sequence[Action], blocks: int, most_s: float) -> list[Timing]:
    """Every action for `most_s` seconds, then every action again, block after block."""
    timings = [Timing(action) for action in actions]
    for _ in range(blocks):
        for timing in timings:
            act, is_right = timing.action.prepare()
            timing.wrong += not is_right(act())
            timing.blocks.append(repeat(act, most_s))
    return timings


def _list_results(timings: Sequence[Timing], setup: Setup) -> Iterator[Result]:
    """A result for each name, then the rates of the largest scans: what a kernel reaches."""
    named: dict[str, list[Timing]] = {}
    for one in timings:
        named.setdefault(one.action.result, []).append(one)
    for name, mine in named.items():
        blocks = {"blocks": len(mine[0].blocks)}
        yield Result(name, setup | mine[0].action.setup | blocks, tuple(_list_times(mine)))
    for name, mine in list(named.items())[-2:]:
        figures = tuple(
            one.make_figure(one.action.unit, partial(operator.truediv, one.action.work))
            for one in mine
        )
        called = f"{RATES}, {name[0].lower()}{name[1:]}"
        yield Result(called, setup | mine[0].action.setup, figures)


def _list_times(mine: Sequence[Timing]) -> Iterator[Figure]:
    """Times as good: as the first, block by block."""
    unit, scale = ("ms", 1e3) if max(one.medians.max() for one in mine) >= 1e-3 else ("us", 1e6)
    for one in mine:
        ratios = (mine[0].medians / one.medians).tolist()
        more = {"ratio": statistics.median(ratios), "ratio_noise": spread(ratios)}
        yield one.make_figure(unit, partial(operator.mul, scale), **more)


NUMPY, FAISS = "numpy float32", "FAISS Flat, range search"
PRODUCT, READING = "MatMulInteger alone", "reading the codes"
SMALLER = 16
"""The small scans have so many times fewer rows."""

# So many standard deviations above the mean: a pair in 100,000 gets there by chance.
_DEVIATIONS = 4.3
_MARGIN = 2  # what a scan keeps below the level, since its floor is rounded
_PAIRS_AT_ONCE = 1 << 23
_PLAIN_PAIRS = 1 << 22  # the plain loop is slow: beyond it says nothing new

Pairs = NDArray[np.int64]
"""int64[m, 2], row and query, sorted."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """Rows and queries as bytes and as floats, and the pairs that reach the threshold."""

    rows: Rows
    wanted: Wanted
    floats: NDArray[np.float32]
    queries: NDArray[np.float32]
    threshold: float
    right: Pairs


Make = Callable[[Case], Callable[[], Pairs | None]]


@lru_cache(maxsize=1)
def make_case(sizes: KernelsConfig) -> Case:
    """The data of so many rows and queries; the last that was made is kept."""
    random = np.random.default_rng([sizes.seed, sizes.rows, sizes.queries])
    signed = random.integers(-128, 128, (sizes.rows, sizes.dim), np.int8)
    factors = random.integers(-127, 128, (sizes.queries, sizes.dim), np.int8)
    near = random.choice(sizes.rows, min(sizes.queries, sizes.rows), replace=False)
    noise = random.integers(-40, 41, (len(near), sizes.dim))
    signed[near] = np.clip(factors[: len(near)] + noise, -128, 127)
    floats, queries = signed.astype(np.float32), factors.astype(np.float32)
    level = int(_DEVIATIONS * 73.5**2 * sizes.dim**0.5)
    threshold = level - _MARGIN - 0.5
    codes = (signed.view(np.uint8) ^ 128).astype(np.uint8)
    levels = np.full(-(-sizes.queries // BLOCK) * BLOCK, LOWEST, np.int32)
    levels[: sizes.queries] = level + 128 * factors.sum(axis=1, dtype=np.int32)
    alive, reach = np.ones(len(codes), np.bool_), np.zeros(-(-len(codes) // STRETCH))
    rows = Rows(codes, alive, reach, no_plane(), codes.shape[1], reach)
    zeros = np.zeros(sizes.queries)
    heaps = np.empty((sizes.queries, 0), np.int32)
    no_tails = np.zeros(sizes.queries, np.int64)
    wanted = Wanted(factors, pack(factors), zeros, zeros, levels, heaps, zeros, no_tails)
    right = find_by_numpy(floats, queries, threshold)
    return Case(rows, wanted, floats, queries, threshold, right)


def list_scans(sizes: KernelsConfig) -> list[Action]:
    """One query and a batch, on few rows and on many, by every searcher that can."""
    found = []
    for rows in (max(STRETCH, sizes.rows // SMALLER), sizes.rows):
        for queries in (1, sizes.queries):
            found += _list_of(replace(sizes, rows=rows, queries=queries))
    return found


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


def _list_of(sizes: KernelsConfig) -> list[Action]:
    called = "one query" if sizes.queries == 1 else f"a batch of {sizes.queries}"
    result = f"Scan of {sizes.rows:,} rows, {called}"
    size = sizes.rows * sizes.dim
    work, unit = (size, "GB/s") if sizes.queries == 1 else (2 * size * sizes.queries, "GOPS")
    makers: dict[str, Make] = {
        NUMPY: lambda case: partial(find_by_numpy, case.floats, case.queries, case.threshold),
        FAISS: _make_faiss,
    }
    for kernel in available_kernels():
        scan = _scan_of(kernel, sizes)
        if scan is not None:
            makers[f"kernel {kernel}"] = partial(_make_scan, scan)
    makers |= {READING: _make_reading} if sizes.queries == 1 else {PRODUCT: _make_product}
    setup: Setup = {"rows": sizes.rows, "queries": sizes.queries, "dim": sizes.dim}
    return [
        Action(
            result=result,
            who=who,
            prepare=partial(_prepare_scan, sizes, make),
            setup=setup,
            work=work / 1e9,
            unit=unit,
        )
        for who, make in makers.items()
    ]


def _prepare_scan(sizes: KernelsConfig, make: Make) -> Prepared:
    case = make_case(sizes)
    return make(case), partial(has_found, case.right)


def has_found(right: Pairs, found: Pairs | None) -> bool:
    """True where `found` has the right pairs in any order, or is None: a scan that finds none."""
    if found is None:
        return True
    order = np.lexsort((found[:, 1], found[:, 0]))
    return np.array_equal(found[order], right)


def _scan_of(kernel: str, sizes: KernelsConfig) -> Scan | None:
    """The scan that a `Scanner` of this kernel would choose, if it is worth the time."""
    is_one = sizes.queries == 1
    if kernel == "amx":
        return scan_few_vnni if is_one else scan_amx
    if kernel == "vnni":
        return scan_few_vnni if is_one else scan_vnni
    if kernel == "onnxruntime":
        return None if is_one else ProductScan()
    return scan_plain if sizes.rows * sizes.queries <= _PLAIN_PAIRS else None


def _make_scan(scan: Scan, case: Case) -> Callable[[], Pairs]:
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


def _make_faiss(case: Case) -> Callable[[], Pairs]:
    index = faiss.IndexFlatIP(case.floats.shape[1])
    index.add(case.floats)

    def find() -> Pairs:
        offsets, _, rows = index.range_search(case.queries, case.threshold)
        query_of = np.repeat(np.arange(len(case.queries)), np.diff(offsets.astype(np.int64)))
        return np.stack([rows, query_of], axis=1)

    return find


def _make_reading(case: Case) -> Callable[[], None]:
    """The least that a scan for one query must do."""
    words: Any = case.rows.codes.reshape(-1).view(np.uint64)

    def read() -> None:
        sum_words(words)

    return read


def _make_product(case: Case) -> Callable[[], None]:
    """As many bare products as the scan needs; the sums are not read."""
    queries = len(case.wanted.codes)
    run = bind_product(case.rows.codes.shape[1], Tile(STRETCH, queries), 0)
    times = -(-len(case.rows.codes) // STRETCH)

    def multiply() -> None:
        for _ in range(times):
            run()

    return multiply
