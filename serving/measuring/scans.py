"""What a scan of the gallery costs a core for each reference, by the index as it comes."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from engine.capacity.costs import PROBES_AT_ONCE
from engine.capacity.figures import Quantity
from indexes.gallery import Gallery
from indexes.kinds import open_index
from indexes.segmented.merging import SegmentsConfig
from serving.measuring.stopwatch import time_call
from serving.models import embedder_card

if TYPE_CHECKING:
    from indexes.base import Vectors
    from serving.settings import Settings

MOST_REFERENCES = 1_000_000
"""Codes of so many are more than a processor's caches hold."""
LONE_PROBES, BATCHES = 60, 5
THRESHOLD = 0.57
"""About where a search looks from; random strangers do not reach it."""
_DRAWN_AT_ONCE = 100_000


def measure_scans(
    settings: Settings, references: int | None = None
) -> tuple[dict[Quantity, float], str]:
    """Core-seconds a reference and bytes a reference, and of how many."""
    dim = embedder_card(settings).dimension
    count = references or _affordable(dim)
    config = SegmentsConfig(rows=settings.gallery.rows)
    gallery = Gallery(open_index("exact8", dim, config))
    rng = np.random.default_rng(0)
    rows = _draw(rng, count, dim)
    gallery.add(np.arange(count), rows, 1)
    del rows
    gallery.settle()
    probes = _draw(rng, PROBES_AT_ONCE, dim)
    cores = len(os.sched_getaffinity(0))
    gallery.range_search(probes, THRESHOLD)
    gallery.range_search(probes[:1], THRESHOLD)
    lone = np.array(
        [
            time_call(partial(gallery.range_search, probes[row : row + 1], THRESHOLD))
            for row in range(LONE_PROBES)
        ]
    )
    batch = np.array(
        [time_call(lambda: gallery.range_search(probes, THRESHOLD)) for _ in range(BATCHES)]
    )
    p50, p90 = np.quantile(lone, (0.5, 0.9))
    found = {
        Quantity.SCAN_ALONE: float(p50) * cores / count,
        Quantity.SCAN: float(np.median(batch)) * cores / count / PROBES_AT_ONCE,
        # 1.28 standard deviations above the median: sixty scans have no p99.
        Quantity.SCAN_SPREAD: float(np.log(p90 / p50)) / 1.2816,
        Quantity.REFERENCE_BYTES: gallery.account().bytes_per_reference,
    }
    return found, f"{count:,} random references of {dim} floats, {cores} threads"


def _affordable(dim: int) -> int:
    """A million, or what a quarter of the memory holds while it is built."""
    free_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return max(10_000, min(MOST_REFERENCES, free_bytes // 4 // (8 * dim)))


def _draw(rng: np.random.Generator, count: int, dim: int) -> Vectors:
    """Unit rows in random directions: float32[count, dim]."""
    rows = np.empty((count, dim), np.float32)
    for start in range(0, count, _DRAWN_AT_ONCE):
        part = rows[start : start + _DRAWN_AT_ONCE]
        rng.standard_normal(dtype=np.float32, out=part)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return rows
