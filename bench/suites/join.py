"""Suite `join`: all against all, beside the bare product that is the machine's ceiling."""

import math
from functools import partial

import faiss
import numpy as np

from bench.core.machine import TILES, clock, measure_product, speedup
from bench.core.reports import Figure, Measured, Result, Setup, SuiteOutput
from bench.datasets import Faces, Vectors, default_thresholds, find_pairs
from bench.suites.baselines import SCORE_TOLERANCE, build_segment
from indexes.base import Floats, Ints
from indexes.exact.scanner import Scanner
from indexes.joining.join import join
from schema import frozen

QUICK = {"references": 20_000, "compared": 5_000, "rounds": 2, "product_s": 0.05}
OURS, FLAT = "one segment", "FAISS Flat, range search"

_PROMISED = 1_000_000
_MANY_AT = 0.40
# From so many references on a join takes minutes: one is made.
_LONG_FROM = 400_000
_FLAT_COMPARISONS = 2_500_000_000
"""FAISS searches for a part of the references, of about so many comparisons: all take minutes."""


@frozen(kw_only=True)
class JoinConfig:
    """`compared` references are held against brute force."""

    references: int = 200_000
    dim: int = 128
    compared: int = 50_000
    rounds: int = 5
    product_s: float = 0.4
    seed: int = 0


def run(config: JoinConfig) -> SuiteOutput:
    threshold = default_thresholds().review
    faces, scanner = Faces(config.references, config.dim, config.seed), Scanner()
    setup = faces.setup | {"threshold": round(threshold, 4), "kernel": scanner.kernel}
    results, measured = _join_all(faces.references, threshold, config, scanner, setup)
    some = faces.references[: config.compared]
    # At so low a threshold there are many: it takes many to tell that none is lost.
    found = join([build_segment(some, scanner)], None, _MANY_AT)
    ours = found.left, found.right, found.scores
    scanner.close()
    same = share_same(ours, find_pairs(some, _MANY_AT))
    return results, measured | {"identical_pairs": same}


Pairs = tuple[Ints, Ints, Floats]


def share_same(ours: Pairs, right: Pairs) -> float:
    """Pairs that both have, with one score to 1e-6, of those that either has."""
    found, wanted = (left << 32 | other for left, other, _ in (ours, right))
    both, mine, theirs = np.intersect1d(found, wanted, return_indices=True)
    same = np.abs(ours[2][mine] - right[2][theirs]) <= SCORE_TOLERANCE
    either = len(found) + len(wanted) - len(both)
    return float(same.sum()) / either if either else 1.0


def _join_all(
    references: Vectors, threshold: float, config: JoinConfig, scanner: Scanner, setup: Setup
) -> tuple[tuple[Result, ...], dict[str, Measured]]:
    """All references, round by round in turn with the product, whose best rate is the ceiling, and
    with FAISS Flat, which is asked with a part of them as probes."""
    count, index = len(references), faiss.IndexFlatIP(references.shape[1])
    index.add(references)
    part = references[: min(count, _FLAT_COMPARISONS // count)]
    segments = [build_segment(references, scanner)]
    products = {tile: measure_product(config.dim, tile, config.product_s) for tile in TILES}
    best = max(products, key=lambda tile: products[tile])
    ours_s, flat_s, ceiling = [], [], products[best]
    for _ in range(1 if count >= _LONG_FROM else config.rounds):
        ours_s.append(clock(partial(join, segments, None, threshold))[1])
        ceiling = max(ceiling, measure_product(config.dim, best, config.product_s))
        flat_s.append(clock(partial(index.range_search, part, threshold))[1])
    ours, flat = np.array(ours_s), np.array(flat_s) * (count / len(part))
    pairs = math.comb(count, 2)
    rates, operations = pairs / ours, 2 * config.dim / 1e9
    speed = (
        Figure.of(f"{FLAT}, all pairs, projected", "s", flat, 1.0),
        Figure.of(f"{OURS}: all pairs", "s", ours, speedup(flat, ours)),
        Figure.of(f"{OURS}: rate", "G comparisons/s", rates / 1e9),
    )
    limits = (
        Figure.of(f"join, {OURS}", "GOPS", rates * operations),
        Figure.of(f"join, {OURS}", "of the best", rates / ceiling),
    )
    results = (
        Result("All pairs", setup | {"rounds": len(ours)}, speed),
        Result("The int8 ceiling", setup | {"best tile": str(best)}, limits),
    )
    rate = pairs / float(np.median(ours))
    return results, {
        "all_pairs_seconds": math.comb(_PROMISED, 2) / rate,
        "comparisons_per_second": rate,
        "share_of_ceiling": rate / ceiling,
        "flat_speedup": speedup(flat, ours),
    }
