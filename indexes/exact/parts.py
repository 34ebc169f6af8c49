"""What a sealed segment is made of, for those who write it down and bring it back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexes.base import Ids
from indexes.exact.rowstore import RowStore


@dataclass(frozen=True, slots=True, eq=False)
class SegmentParts:
    """A segment without its tombstones; all by row, and rows by ascending residual.

    `name` is 32 hex digits, new for every build and merge: segments of one name hold the same.
    `limit` is the component that has the highest code. `ids` int64[n], `residuals` float32[n],
    `codes` uint8[n padded, dim padded], 128 standing for zero. What was removed is wiped where
    the memory is ours, so codes and rows of removed rows tell nothing.
    """

    name: str
    dim: int
    limit: float
    ids: Ids
    residuals: NDArray[np.float32]
    codes: NDArray[np.uint8]
    rows: RowStore
