"""Joins, and the sizes that an estimate needs to know without one."""

import numpy as np
from numpy.typing import NDArray

RECORD = np.dtype([("left", "<i8"), ("right", "<i8"), ("score", "<f4")])
"""A pair, as it is kept."""
Records = NDArray[np.void]
NO_PAIRS = np.empty(0, RECORD)
PIECE_RECORDS = 1 << 20
TILE_ROWS = 1 << 17
"""Some seconds of work for two cores, so that gathering the codes costs little in comparison."""
PAIRS_LIMIT = 50_000_000
"""A gigabyte of pairs, in memory or in a checkpoint."""
