"""The vectors of a segment where its file has them: on the disk, revealed row by row."""

from __future__ import annotations

import mmap
from typing import BinaryIO, Literal

import numpy as np

from indexes.base import Vectors
from indexes.scoring import Positions
from indexes.snapshots.sealing import FileSeal, Octets

_ROWS_AT_ONCE = 1 << 14


class MappedRows:
    """A `RowStore` over a verified file; only the pages that are read come into memory.

    The file is verified once, when it is opened: whoever may write into the folder afterwards can
    alter what is read here. It must never be cut short while it is mapped, which would end the
    process; removing its name is fine, for the content lives as long as the mapping. `wipe` does
    nothing: a removed row goes with the file, at the next save after its segment was compacted.
    """

    def __init__(
        self,
        file: BinaryIO,
        seal: FileSeal,
        *,
        offset: int,
        rows: int,
        dim: int,
        dtype: Literal["float32", "float16"],
    ) -> None:
        self.dtype = np.dtype(dtype)
        self.dim = dim
        self.memory_bytes = 0
        self._seal = seal
        self._offset, self._rows = offset, rows
        self._row_bytes = dim * self.dtype.itemsize
        # The mapping stays when the file is closed.
        self._memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        # Rows are wanted here and there: reading ahead would fill the memory we save.
        self._memory.madvise(mmap.MADV_RANDOM)

    def __len__(self) -> int:
        return self._rows

    def take(self, rows: Positions) -> Vectors:
        """These rows in the order asked, float32[m, dim]; a copy."""
        taken = np.empty((len(rows), self.dim), np.float32)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE]
            plain = self._run(part) if _is_run(part) else self._reveal(part)
            taken[start : start + len(part)] = plain.view(self.dtype)
        return taken

    def select(self, rows: Positions) -> tuple[Vectors, Positions]:
        """A matrix that holds these rows, each once, and where in it each of them is."""
        distinct, places = np.unique(rows, return_inverse=True)
        return self.take(distinct), places

    def wipe(self, rows: Positions) -> None:
        """Does nothing: the file is immutable."""

    def _reveal(self, rows: Positions) -> Octets:
        return self._seal.reveal_rows(self._hidden()[rows], self._offset + rows * self._row_bytes)

    def _run(self, rows: Positions) -> Octets:
        """Neighbours, in one go."""
        first, count = int(rows[0]), len(rows)
        start = self._offset + first * self._row_bytes
        end = start + count * self._row_bytes
        # The seal's runs start at a multiple of 16 bytes.
        aligned = start - start % 16
        page = aligned - aligned % mmap.PAGESIZE
        self._memory.madvise(mmap.MADV_WILLNEED, page, end - page)
        with memoryview(self._memory) as memory:
            plain = self._seal.reveal(bytes(memory[aligned:end]), aligned)
        return np.frombuffer(plain, np.uint8)[start - aligned :].reshape(count, self._row_bytes)

    def _hidden(self) -> Octets:
        """The rows as they lie in the file: a view, uint8[n, bytes of a row]."""
        size = self._rows * self._row_bytes
        octets = np.frombuffer(self._memory, np.uint8, size, self._offset)
        return octets.reshape(self._rows, self._row_bytes)


def _is_run(rows: Positions) -> bool:
    return len(rows) > 1 and bool((np.diff(rows) == 1).all())
