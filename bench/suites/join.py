"""Suite `join`: all against all, beside the bare product that is the machine's ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from unittest.mock import patch

import faiss
import numpy as np
from numpy.typing import NDArray

from bench.core.machine import TILES, cores, measure_product
from bench.core.reports import Figure, Measured, Result, Setup, Skipped, SuiteOutput
from bench.core.timing import Seconds, clock, interleave, rested, speedup
from bench.data.vectors import Faces, Vectors, default_thresholds, find_pairs
from bench.suites.baselines import SCORE_TOLERANCE
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.scanner import Scanner, available_kernels
from indexes.joining import tiling
from indexes.joining.join import join
from indexes.joining.tiling import Pairs

QUICK = {
    "references": 20_000,
    "compared": 5_000,
    "rounds": 2,
    "compared_rounds": 2,
    "product_s": 0.05,
    "prefix_rounds": 1,
}
ALL, PREFIX, PREFIXED_KERNEL = "all components", "a prefix first", "vnni"
WHOLE, PARTS = "one segment", "four segments"
FLAT, NUMPY = "FAISS Flat, range search", "numpy float32, upper triangle"

_PROMISED, _PROMISED_DIM, _FEWEST = 1_000_000, 128, 200_000
_MANY_AT = 0.40
# What a prefix saves depends on the threshold, so the goals are not for those of a deployment.
_PREFIXED_AT = (0.57, 0.671)
_SHARES = {WHOLE: (0.0, 1.0), PARTS: (0.0, 0.5, 0.8, 0.95, 1.0)}
# From so many references on a join takes minutes: one is made, of one segment.
_LONG_FROM = 400_000
_FLAT_COMPARISONS = 2_500_000_000
"""FAISS searches for a part of the references, of about so many comparisons: all take minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinConfig:
    """`compared` references are joined by the others too, in rounds of their own, and held against
    brute force; `_FEWEST` at most with and without a prefix, in `prefix_rounds`."""

    references: int = 200_000
    dim: int = 128
    compared: int = 50_000
    rounds: int = 5
    compared_rounds: int = 3
    product_s: float = 0.4
    prefix_rounds: int = 2
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """Seconds of each way to join all, and the pairs; comparisons a second of the product. `flat`:
    of FAISS Flat, as many times those of a part of the references as that part is in all."""

    seconds: Mapping[str, Seconds]
    pairs: int
    products: Mapping[str, float]
    flat: Seconds

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


def run(config: JoinConfig) -> SuiteOutput:
    threshold = default_thresholds().review
    faces = Faces(config.references, config.dim, config.seed)
    scanner = Scanner()
    compared = _compare(
        faces.references[: config.compared], threshold, config.compared_rounds, scanner
    )
    joined = _join_all(faces.references, threshold, config, scanner)
    scanner.close()
    prefixed = _join_by_prefix(faces.references[:_FEWEST], config.prefix_rounds)
    setup: Setup = faces.setup | {
        "threshold": round(threshold, 4),
        "threads": cores(),
        "kernel": scanner.kernel,
    }
    results = (
        _list_speed(config.references, joined, setup),
        _list_ceiling(config.references, joined, setup),
        _list_compared(
            compared, setup | {"references": compared.count, "rounds": len(compared.seconds[FLAT])}
        ),
        _list_prefixed(prefixed, min(config.references, _FEWEST), setup),
    )
    return results, _measure(config, joined, compared, prefixed)


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
    """Round by round in turn, FAISS Flat and the product among them: the best rate of the latter is
    the ceiling."""
    index = faiss.IndexFlatIP(references.shape[1])
    index.add(references)
    part = references[: min(len(references), _FLAT_COMPARISONS // len(references))]
    flat: list[float] = []
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
        flat.append(clock(partial(index.range_search, part, threshold))[1])
    times = {name: np.array(values) for name, values in seconds.items()}
    return Joined(times, found, rates, np.array(flat) * (len(references) / len(part)))


@dataclass(frozen=True, slots=True, eq=False)
class Prefixed:
    """Joins at one threshold, by `ALL` components or a `PREFIX` first; `same`: share of pairs."""

    threshold: float
    seconds: Mapping[str, Seconds]
    same: float

    @property
    def gain(self) -> float:
        return speedup(self.seconds[ALL], self.seconds[PREFIX])


def _join_by_prefix(references: Vectors, rounds: int) -> list[Prefixed]:
    """At the thresholds of the goals; nothing without the kernel for which a prefix is chosen."""
    if PREFIXED_KERNEL not in available_kernels():
        return []
    scanner = Scanner(PREFIXED_KERNEL)
    segments = cut(references, (0.0, 1.0), scanner)
    found: dict[str, Pairs] = {}

    def join_from(fewest: int, name: str, threshold: float) -> None:
        with patch.object(tiling, "_AXES_FROM", fewest):
            found[name] = join(segments, None, threshold)

    joined = []
    for threshold in _PREFIXED_AT:
        actions = {
            ALL: rested(partial(join_from, 1 << 62, ALL, threshold)),
            PREFIX: rested(partial(join_from, 0, PREFIX, threshold)),
        }
        seconds = interleave(actions, rounds)
        pairs = [(one.left, one.right, one.scores) for one in (found[ALL], found[PREFIX])]
        joined.append(Prefixed(threshold, seconds, share_same(*pairs)))
    scanner.close()
    return joined


def _list_prefixed(prefixed: Sequence[Prefixed], references: int, setup: Setup) -> Result:
    figures = []
    for one in prefixed:
        for name, seconds in one.seconds.items():
            ratio = one.gain if name == PREFIX else 1.0
            figures.append(Figure.of(f"at {one.threshold:.3f}: {name}", "s", seconds, ratio))
    if not figures:
        figures.append(Figure.skip(PREFIX, "s", f"this machine has no kernel {PREFIXED_KERNEL}"))
    own: Setup = {"references": references, "kernel": PREFIXED_KERNEL}
    return Result("With a prefix of the components", setup | own, tuple(figures))


def _list_speed(references: int, joined: Joined, setup: Setup) -> Result:
    """All references; FAISS from a part of them as probes, each round beside ours."""
    pairs, flat = count_pairs(references), joined.flat
    figures = [Figure.of(f"{FLAT}, all pairs, projected", "s", flat, 1.0)]
    for name, seconds in joined.seconds.items():
        figures.append(Figure.of(f"{name}: all pairs", "s", seconds, speedup(flat, seconds)))
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


def _measure(
    config: JoinConfig, joined: Joined, compared: Compared, prefixed: Sequence[Prefixed]
) -> dict[str, Measured]:
    """The figures that `targets.toml` names, of one segment."""
    names = ("all_pairs_seconds", "comparisons_per_second", "share_of_ceiling", "flat_speedup")
    gains = ("prefix_speedup_057", "prefix_speedup_0671")
    shares = [*compared.same.values(), *(one.same for one in prefixed)]
    same: dict[str, Measured] = {"identical_pairs": min(shares)}
    if config.dim != _PROMISED_DIM or config.references < _FEWEST:
        reason = f"promised for {_FEWEST:,} references and more of {_PROMISED_DIM} dimensions"
        return same | dict.fromkeys((*names, *gains), Skipped(reason))
    no_kernel = Skipped(f"this machine has no kernel {PREFIXED_KERNEL}")
    same |= dict.fromkeys(gains, no_kernel)
    same |= dict(zip(gains, [one.gain for one in prefixed], strict=bool(prefixed)))
    seconds = float(np.median(joined.seconds[WHOLE]))
    rate = count_pairs(config.references) / seconds
    flat = speedup(joined.flat, joined.seconds[WHOLE])
    values = (seconds * _scale(config.references), rate, rate / joined.ceiling, flat)
    return same | dict(zip(names, values, strict=True))
