"""One process against two shards, each a process with its share of the cores."""

from __future__ import annotations

from functools import partial

import numpy as np

from bench.report import Figure, Result, Setup
from bench.searchers import clock
from bench.timing import interleave, rested, speedup
from bench.vectors import Vectors
from indexes.base import VectorIndex
from indexes.gallery import Gallery
from indexes.sharding.process import open_processes
from indexes.sharding.shards import ShardPlan

SHARDS = 2
ONE, SEVERAL = "one process", f"{SHARDS} shards"
_ADDED_AT_ONCE = 65_536


def compare_processes(
    gallery: Gallery, references: Vectors, probes: Vectors, k: int, rounds: int, setup: Setup
) -> Result:
    """Times of one query and of a batch; `gallery` holds the references under their rows."""
    with open_processes(ShardPlan("exact8", references.shape[1]), SHARDS) as sharded:
        build_s = clock(lambda: _fill(sharded, references))[1]
        several = Gallery(sharded)
        figures = [Figure(f"{SEVERAL}: fill", "s", build_s)]
        for name, count in (("one query", 1), (f"a batch of {len(probes)}", len(probes))):
            queries = probes[:count]
            actions = {
                ONE: rested(partial(gallery.search, queries, k)),
                SEVERAL: rested(partial(several.search, queries, k)),
            }
            seconds = interleave(actions, rounds)
            for who, values in seconds.items():
                ratio = speedup(seconds[ONE], values)
                figures.append(Figure.of(f"{who}: {name}", "ms", values / count * 1e3, ratio))
        one, other = gallery.search(probes, k).hits, several.search(probes, k).hits
        same = np.array_equal(one.ids, other.ids) and np.array_equal(one.scores, other.scores)
        figures.append(Figure("answers identical", "share", float(same)))
    return Result("Shards", setup | {"k": k, "shards": SHARDS}, tuple(figures))


def _fill(index: VectorIndex, references: Vectors) -> None:
    """In pieces: the whole would be in memory once more on its way."""
    for start in range(0, len(references), _ADDED_AT_ONCE):
        rows = references[start : start + _ADDED_AT_ONCE]
        index.add(np.arange(start, start + len(rows)), rows)
