"""Suite `join`: all against all, beside the bare product that is the machine's ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import faiss
import numpy as np
from numpy.typing import NDArray

from bench.core.machine import TILES, cores, measure_product
from bench.core.reports import Figure, Measured, Result, Setup, Skipped, SuiteOutput
from bench.core.timing import Seconds, clock, interleave, rested, speedup
from bench.data.vectors import Faces, Vectors, default_thresholds, find_pairs
from bench.suites.search import SCORE_TOLERANCE
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.scanner import Scanner
from indexes.joining.join import join

QUICK = {
    "references": 20_000,
    "compared": 5_000,
    "rounds": 2,
    "compared_rounds": 2,
    "product_s": 0.05,
}
WHOLE, PARTS = "one segment", "four segments"
FLAT, NUMPY = "FAISS Flat, range search", "numpy float32, upper triangle"

_PROMISED, _PROMISED_DIM, _FEWEST = 1_000_000, 128, 200_000
_MANY_AT = 0.40
_SHARES = {WHOLE: (0.0, 1.0), PARTS: (0.0, 0.5, 0.8, 0.95, 1.0)}
# From so many references on a join takes minutes: one is made, of one segment.
_LONG_FROM = 400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinConfig:
    """`compared` references are joined by the others too, in rounds of their own, and held against
    brute force."""

    references: int = 200_000
    dim: int = 128
    compared: int = 50_000
    rounds: int = 5
    compared_rounds: int = 3
    product_s: float = 0.4
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """Seconds of each way to join all, and the pairs; comparisons a second of the product."""

    seconds: Mapping[str, Seconds]
    pairs: int
    products: Mapping[str, float]

    @property
    def ceiling(self) -> float:
        return max(self.products.values())


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """Joins of the same `count` references; `same`: the share that agrees."""

    count: int
    pairs: int
    seconds: Mapping[str, Seconds]
    same: Mapping[str, float]

    @property
    def flat_s(self) -> float:
        return float(np.median(self.seconds[FLAT]))


def run(config: JoinConfig) -> SuiteOutput:
    threshold = default_thresholds().review
    faces = Faces(config.references, config.dim, config.seed)
    scanner = Scanner()
    compared = _compare(
        faces.references[: config.compared], threshold, config.compared_rounds, scanner
    )
    joined = _join_all(faces.references, threshold, config, scanner)
    scanner.close()
    setup: Setup = faces.setup | {
        "threshold": round(threshold, 4),
        "threads": cores(),
        "kernel": scanner.kernel,
    }
    results = (
        _list_speed(config.references, joined, compared, setup),
        _list_ceiling(config.references, joined, setup),
        _list_compared(
            compared, setup | {"references": compared.count, "rounds": len(compared.seconds[FLAT])}
        ),
    )
    return results, _measure(config, joined, compared)


def count_pairs(references: int) -> int:
    """Pairs of different references: what a join decides on."""
    return references * (references - 1) // 2


def cut(references: Vectors, shares: Sequence[float], scanner: Scanner) -> list[Exact8Segment]:
    """Segments that end at these shares of the references, under their rows as ids."""
    ends = [round(share * len(references)) for share in shares]
    return [
        Exact8Segment(np.arange(start, end), references[start:end], scanner=scanner)
        for start, end in pairwise(ends)
    ]


def _compare(some: Vectors, threshold: float, rounds: int, scanner: Scanner) -> Compared:
    """Joins the same references by FAISS Flat, by brute force, and by us, in rounds in turn."""
    # Few pairs reach the threshold: it takes many to tell that none is lost.
    many = find_pairs(some, _MANY_AT)
    index = faiss.IndexFlatIP(some.shape[1])
    index.add(some)
    actions = {
        FLAT: rested(lambda: index.range_search(some, threshold)),
        NUMPY: rested(lambda: find_pairs(some, threshold)),
    }
    same = {}
    for name, shares in _SHARES.items():
        segments = cut(some, shares, scanner)
        ours = join(segments, None, _MANY_AT)
        same[name] = share_same((ours.left, ours.right, ours.scores), many)
        actions[name] = rested(partial(join, segments, None, threshold))
    return Compared(len(some), len(many[0]), interleave(actions, rounds), same)


def share_same(
    ours: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]],
    right: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]],
) -> float:
    """Pairs that both have, with one score to 1e-6, of those that either has."""
    found, wanted = (
        dict(zip(zip(left.tolist(), other.tolist(), strict=True), scores.tolist(), strict=True))
        for left, other, scores in (ours, right)
    )
    both = sum(
        pair in found and abs(found[pair] - score) <= SCORE_TOLERANCE
        for pair, score in wanted.items()
    )
    either = len(found.keys() | wanted.keys())
    return both / either if either else 1.0


def _join_all(
    references: Vectors, threshold: float, config: JoinConfig, scanner: Scanner
) -> Joined:
    """Round by round in turn, the product among them: its best rate is the ceiling."""
    is_long = len(references) >= _LONG_FROM
    segments = {
        name: cut(references, shares, scanner)
        for name, shares in _SHARES.items()
        if name == WHOLE or not is_long
    }
    rates = {str(tile): measure_product(config.dim, tile, config.product_s) for tile in TILES}
    best = max(TILES, key=lambda tile: rates[str(tile)])
    seconds: dict[str, list[float]] = {name: [] for name in segments}
    found = 0
    for number in range(1 if is_long else config.rounds):
        for name in list(segments)[:: 1 if number % 2 == 0 else -1]:
            pairs, taken = clock(partial(join, segments[name], None, threshold))
            seconds[name].append(taken)
            found = len(pairs)
            again = measure_product(config.dim, best, config.product_s)
            rates[str(best)] = max(rates[str(best)], again)
    return Joined({name: np.array(values) for name, values in seconds.items()}, found, rates)


def _list_speed(references: int, joined: Joined, compared: Compared, setup: Setup) -> Result:
    """All references; FAISS at the rate at which it decided on the pairs of fewer."""
    pairs = count_pairs(references)
    flat_s = compared.flat_s / count_pairs(compared.count) * pairs
    figures = []
    for name, seconds in joined.seconds.items():
        figures.append(Figure.of(f"{name}: all pairs", "s", seconds, flat_s / np.median(seconds)))
        figures.append(Figure.of(f"{name}: rate", "G comparisons/s", pairs / seconds / 1e9))
        figures.append(
            Figure.of(f"{name}: {_PROMISED:,}, projected", "s", seconds * _scale(references))
            if references < _PROMISED
            else Figure.of(f"{name}: measured in full", "s", seconds)
        )
    figures.append(Figure("pairs found", "pairs", float(joined.pairs)))
    return Result("All pairs", setup | {"rounds": len(joined.seconds[WHOLE])}, tuple(figures))


def _scale(references: int) -> float:
    """How many times as many pairs the promised size has."""
    return count_pairs(_PROMISED) / count_pairs(references)


def _list_ceiling(references: int, joined: Joined, setup: Setup) -> Result:
    operations = 2 * int(setup["dim"]) / 1e9
    figures = [
        Figure(f"MatMulInteger {tile}", "GOPS", rate * operations)
        for tile, rate in joined.products.items()
    ]
    for name, seconds in joined.seconds.items():
        rates = count_pairs(references) / seconds
        figures.append(Figure.of(f"join, {name}", "GOPS", rates * operations))
        figures.append(Figure.of(f"join, {name}", "of the best", rates / joined.ceiling))
    return Result("The int8 ceiling", setup, tuple(figures))


def _list_compared(compared: Compared, setup: Setup) -> Result:
    """Times as good: as FAISS Flat, which compares each pair from both sides."""
    pairs, flat = count_pairs(compared.count), compared.seconds[FLAT]
    figures = [
        Figure.of(name, "M pairs decided/s", pairs / seconds / 1e6, speedup(flat, seconds))
        for name, seconds in compared.seconds.items()
    ]
    figures += [
        Figure(f"{name}: identical to brute force", "share", share)
        for name, share in compared.same.items()
    ]
    figures.append(Figure("pairs found", "pairs", float(compared.pairs)))
    return Result("The same references by everybody", setup, tuple(figures))


def _measure(config: JoinConfig, joined: Joined, compared: Compared) -> dict[str, Measured]:
    """The figures that `targets.toml` names, of one segment."""
    names = ("all_pairs_seconds", "comparisons_per_second", "share_of_ceiling", "flat_speedup")
    same: dict[str, Measured] = {"identical_pairs": min(compared.same.values())}
    if config.dim != _PROMISED_DIM or config.references < _FEWEST:
        reason = f"promised for {_FEWEST:,} references and more of {_PROMISED_DIM} dimensions"
        return same | dict.fromkeys(names, Skipped(reason))
    seconds = float(np.median(joined.seconds[WHOLE]))
    rate = count_pairs(config.references) / seconds
    flat_rate = count_pairs(compared.count) / compared.flat_s
    values = (seconds * _scale(config.references), rate, rate / joined.ceiling, rate / flat_rate)
    return same | dict(zip(names, values, strict=True))
