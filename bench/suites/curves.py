"""Suite `curves`: latency against the size of the gallery, recall against speed; it has no goals.

`sosie bench docs` draws them from the committed report.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.core.machine import cores
from bench.core.reports import Figure, Result, Setup, SuiteOutput
from bench.core.timing import Seconds, interleave, rested
from bench.data.vectors import Faces, Vectors, default_thresholds
from bench.suites.baselines import (
    HNSW,
    K_FACTOR,
    NPROBES,
    K,
    add_if_installed,
    ask_in_turn,
    build_fastscan,
    build_flat,
    build_gallery,
    build_hnsw,
    build_ivf,
    build_segment,
    find_bands,
    list_recall,
    mix,
    refuse_too_much,
    time_batch,
)
from indexes.exact.scanner import Scanner

LATENCY_ONE, LATENCY_BATCH = "Latency, one query", "Latency, a batch"
SPEED, RECALL = "Speed of a batch", "Recall of mates"
"""Names of results, by which the plots find them; the last is only how they begin."""
QUICK = {"references": 20_000, "smallest": 5_000, "batch": 32, "near": 100, "rounds": 2}

_GROWTH = 10**0.5
_CURVE_NPROBES, _CURVE_EFS = (16, 64, 256, 1024), (32, 64, 128, 256, 512)
_INDEXES_AT_ONCE = 6
_CALLS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvesConfig:
    """Sizes grow from `smallest` to `references` by about three.

    Recall is at `recall_references` at most: the graph of more takes very long to build.
    """

    references: int = 2_000_000
    smallest: int = 10_000
    recall_references: int = 1_000_000
    dim: int = 128
    batch: int = 256
    near: int = 1_000
    rounds: int = 5
    has_graph: bool = True
    seed: int = 0

    @property
    def sizes(self) -> tuple[int, ...]:
        """References of each point of the curve."""
        sizes, size = [self.references], self.references / _GROWTH
        while size >= self.smallest * 0.9:
            sizes.append(_round(size))
            size /= _GROWTH
        return tuple(sorted(sizes))


def run(config: CurvesConfig) -> SuiteOutput:
    """The points of all curves; no figure of them is promised."""
    refuse_too_much(config.references, config.dim, _INDEXES_AT_ONCE)
    faces = Faces(config.references, config.dim, config.seed)
    probes = mix(faces, config.batch)
    scanner = Scanner()
    setup: Setup = faces.setup | {"threads": cores(), "kernel": scanner.kernel, "k": K}
    results: list[Result] = []
    for size in config.sizes:
        results += _measure_size(faces.references[:size], probes, config, setup, scanner)
    if config.references > config.recall_references:
        faces = Faces(config.recall_references, config.dim, config.seed)
    results += _measure_recall(faces, mix(faces, config.batch), config, setup, scanner)
    scanner.close()
    return tuple(results), {}


def _measure_size(
    references: Vectors, probes: Vectors, config: CurvesConfig, setup: Setup, scanner: Scanner
) -> list[Result]:
    """One point of each latency curve."""
    searchers = [
        build_gallery(references, scanner)[1],
        *build_flat(references),
        build_fastscan(references)[K_FACTOR],
        *build_ivf(references, NPROBES).values(),
    ]
    actions = {who.name: rested(ask_in_turn(who, probes, K), _CALLS) for who in searchers}
    one = interleave(actions, config.rounds)
    batch = time_batch(searchers, probes, K, config.rounds)
    setup = setup | {"references": len(references)}
    return [
        Result(LATENCY_ONE, setup, _list(one)),
        Result(LATENCY_BATCH, setup | {"batch": len(probes)}, _list(batch)),
    ]


def _measure_recall(
    faces: Faces, probes: Vectors, config: CurvesConfig, setup: Setup, scanner: Scanner
) -> list[Result]:
    """Speed and recall of each kind at several settings."""
    references = faces.references
    searchers = [build_segment(references, scanner)[1], *build_fastscan(references).values()]
    searchers += build_ivf(references, _CURVE_NPROBES).values()
    missing: dict[str, str] = {}
    if config.has_graph:
        add_if_installed(
            searchers, missing, HNSW, lambda: build_hnsw(references, _CURVE_EFS).values()
        )
    seconds = time_batch(searchers, probes, K, config.rounds)
    setup = setup | {"references": len(faces), "batch": len(probes)}
    bands = find_bands(faces, default_thresholds().review, config.near, K)
    return [Result(SPEED, setup, _list(seconds)), *list_recall(bands, searchers, missing, setup)]


def _list(seconds: dict[str, Seconds]) -> tuple[Figure, ...]:
    return tuple(Figure.of(name, "ms", values * 1e3) for name, values in seconds.items())


def _round(size: float) -> int:
    """To two digits, as people write sizes."""
    unit = int(10 ** (len(str(int(size))) - 2))
    return round(size / unit) * unit
