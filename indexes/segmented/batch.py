"""References on their way into a segmented index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexes.base import Ids, Vectors
from indexes.errors import IdInvalid
from indexes.exact.exact8 import Exact8Index
from indexes.flat import FlatIndex

Part = FlatIndex | Exact8Index


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """References to add, checked but for whether their ids are new; sealed where they are many."""

    keys: list[int]
    ids: Ids
    rows: Vectors
    segment: Exact8Index | None


def require_new(batch: Batch, parts: Sequence[Part]) -> None:
    """Refuses a batch of which an id is in one of the parts already."""
    keys = batch.keys
    lowest, highest = min(keys, default=0), max(keys, default=-1)
    for part in parts:
        if isinstance(part, FlatIndex):
            part.require_new(keys)
        elif part.may_hold(lowest, highest):
            # One id, the usual batch, is looked up without the cost of arrays.
            present = part.find(batch.ids)[1] if len(keys) > 1 else np.array([keys[0] in part])
            if present.any():
                key = keys[int(present.argmax())]
                raise IdInvalid(f"id {key} is in the index already; remove it first")
