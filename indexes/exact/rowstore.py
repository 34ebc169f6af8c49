"""The vectors of a sealed segment by row, wherever they are kept."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from indexes.base import Vectors
from indexes.scoring import Positions


class RowStore(Protocol):
    """Rows of one segment; safe to read from many threads."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float16: how a row is kept."""
        ...

    @property
    def dim(self) -> int: ...

    @property
    def memory_bytes(self) -> int:
        """What it takes of this process's own memory."""
        ...

    def __len__(self) -> int: ...

    def take(self, rows: Positions) -> Vectors:
        """These rows, in any order and as often as asked: float32[m, dim]; a copy."""
        ...

    def select(self, rows: Positions) -> tuple[Vectors, Positions]:
        """A matrix float32[p, dim] and where in it each asked row is: int64[m]; to read only."""
        ...

    def wipe(self, rows: Positions) -> None:
        """Overwrites these rows with zeros where the memory is ours."""
        ...


class MemoryRows:
    """A `RowStore` over an array, float32 or float16[n, dim], which it owns from here on."""

    def __init__(self, rows: NDArray[Any]) -> None:
        assert rows.ndim == 2
        assert rows.dtype in (np.float32, np.float16)
        self._rows = rows

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._rows.dtype

    @property
    def dim(self) -> int:
        return int(self._rows.shape[1])

    @property
    def memory_bytes(self) -> int:
        return self._rows.nbytes

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: Positions) -> Vectors:
        return self._rows[rows].astype(np.float32, copy=False)

    def select(self, rows: Positions) -> tuple[Vectors, Positions]:
        """The array itself where it is float32: nothing is copied."""
        if self._rows.dtype == np.float32:
            return self._rows, rows
        distinct, places = np.unique(rows, return_inverse=True)
        return self.take(distinct), places

    def wipe(self, rows: Positions) -> None:
        self._rows[rows] = 0
