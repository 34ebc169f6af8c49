"""Suite `extract`: from bytes to vectors, and how soon a command answers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from bench.accelerator import measure_batches
from bench.ceiling import cores
from bench.checks import Measured
from bench.graphs import compare_graphs
from bench.micro.running import measure_actions
from bench.pairs import Interpreters, PairSizes, compare_pairs
from bench.photographs import PhotographPairs, open_pairs
from bench.report import Result, Setup
from bench.startup import measure_startup
from engine.errors import RequestError
from engine.faces.extractor import Extraction, open_extractor
from engine.models.session import SessionOptions

QUICK = {"pairs": 10, "rounds": 2, "graph_rounds": 3, "action_s": 0.03, "action_blocks": 1}
PEER_SHARE = 10
"""The others get a tenth of the pairs: they are slower by about as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractConfig:
    """`pairs` of photographs a round; each step by itself for `action_s`."""

    faces: Path | None = None
    pairs: int = 200
    rounds: int = 7
    crops: int = 16
    graph_rounds: int = 15
    action_s: float = 0.3
    action_blocks: int = 3
    seed: int = 0
    interpreters: Interpreters = field(default_factory=Interpreters)


def run(config: ExtractConfig) -> tuple[tuple[Result, ...], dict[str, Measured]]:
    """All results of the suite, and the figures that its goals name."""
    with (
        TemporaryDirectory(prefix="sosie-bench-") as folder,
        open_pairs(config.faces, config.pairs, config.seed) as photographs,
    ):
        cache = Path(folder)
        crops = _cut_crops(photographs, config.crops, cache)
        graphs = compare_graphs(crops, config.graph_rounds, cache)
        batches = measure_batches(crops, config.rounds, cache)
        few = max(1, config.pairs // PEER_SHARE)
        sizes = PairSizes(config.pairs, few, few, config.rounds, threads=2)
        pairs, measured = compare_pairs(photographs, sizes, config.interpreters, cache)
        start, starts = measure_startup(photographs, config.rounds, cache)
        source = photographs.source
    steps = measure_actions(
        "test_extract.py",
        config.action_s,
        {},
        seed=config.seed,
        blocks=config.action_blocks,
        faces=config.faces or "",
    )
    measured |= starts | {
        "rewritten_speedup": graphs.speedup,
        "rewritten_difference": graphs.difference,
    }
    # Where a result says nothing of threads it has those of the product: one a core.
    common: Setup = {"photographs": source, "seed": config.seed, "threads": cores()}
    results = (*graphs.results, batches, *pairs, start, *steps)
    return tuple(replace(one, setup=common | one.setup) for one in results), measured


def _cut_crops(photographs: PhotographPairs, count: int, cache: Path) -> NDArray[np.uint8]:
    """uint8[count, side, side, 3]: aligned faces; fewer photographs are taken several times."""
    options = SessionOptions(provider="cpu")
    files = [path.read_bytes() for path in photographs.photographs[:count]]
    with open_extractor(cache, session=options) as extractor:
        found = extractor.extract(files)
    crops = [one.crop for one in found if isinstance(one, Extraction) and one.crop is not None]
    if not crops:
        raise RequestError("no face in the first photographs: give others as --faces")
    return np.stack([crops[place % len(crops)] for place in range(count)])
