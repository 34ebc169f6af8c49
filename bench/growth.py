"""A gallery that grows: what an add costs with all the upkeep it causes, and whether it is seen."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from bench.vectors import Vectors
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.segmented.segments import SegmentedIndex

# Upkeep is asked for after so many adds; it is what a thread of its own does in a deployment.
_LOOK_EVERY = 256


@dataclass(frozen=True, slots=True)
class Growth:
    """Seconds of the adds, and of the seals and merges that they led to; adds that were not seen.

    All are one after the other: with the thread of `Upkeep` an add does not wait for them.
    """

    added: int
    adding_s: float
    upkeep_s: float
    looked_for: int
    unseen: int

    @property
    def microseconds(self) -> float:
        """Of one reference, upkeep included."""
        return (self.adding_s + self.upkeep_s) / self.added * 1e6


def grow(gallery: Gallery, references: Vectors, first_id: int, batch: int, looks: int) -> Growth:
    """Adds them in batches, ids from `first_id` on; `looks` times searches for the last one."""
    adding_s = upkeep_s = 0.0
    unseen = looked_for = 0
    starts = range(0, len(references), batch)
    look_every = max(1, len(starts) // looks)
    since = 0
    for number, start in enumerate(starts):
        rows = references[start : start + batch]
        ids = np.arange(first_id + start, first_id + start + len(rows))
        before = time.perf_counter()
        gallery.add(ids, rows, gallery.sequence + 1)
        adding_s += time.perf_counter() - before
        if number % look_every == 0:
            looked_for += 1
            unseen += not sees(gallery, rows[-1:], int(ids[-1]))
        since += len(rows)
        if since >= _LOOK_EVERY:
            before = time.perf_counter()
            gallery.settle()
            upkeep_s += time.perf_counter() - before
            since = 0
    return Growth(len(references), adding_s, upkeep_s, looked_for, unseen)


def sees(gallery: Gallery, vector: Vectors, key: int) -> bool:
    """Whether a reference is the best answer to its own vector."""
    return bool(gallery.search(vector, 1).hits.ids.tolist() == [key])


def open_empty(dim: int, scanner: Scanner) -> Gallery:
    """As a deployment opens one."""
    return Gallery(SegmentedIndex(dim, scanner=scanner))
