"""How the files of a snapshot are protected: what the keys of a store must be able to do."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Octets = NDArray[np.uint8]
Buffer = bytes | memoryview


class Digest(Protocol):
    """A digest that grows with what it is fed."""

    def update(self, data: Buffer, /) -> None: ...

    def digest(self) -> bytes: ...


class FileSeal(Protocol):
    """Hides and authenticates one file, whose bytes keep their number and their places.

    A run starts at a multiple of 16 bytes. Hiding alone stops no forger: what was revealed may be
    used only where the digest of the whole file, as it is on the disk, has been compared. A seal
    is for one content: it must never hide a second one. May be used from several threads.
    """

    def hide(self, plain: Buffer, offset: int) -> bytes:
        """What lies in the file for this run."""
        ...

    def reveal(self, hidden: Buffer, offset: int) -> bytes:
        """The run that was hidden at this offset."""
        ...

    def reveal_rows(self, hidden: Octets, offsets: NDArray[np.int64]) -> Octets:
        """Many short runs at once, at any offsets: uint8[n, size] to uint8[n, size]."""
        ...

    def digest(self) -> Digest:
        """A new digest, keyed, to be fed the whole file as it lies on the disk."""
        ...


class Sealer(Protocol):
    """Binds bytes to a context, so that neither can be altered or exchanged unnoticed."""

    @property
    def file_key(self) -> str:
        """Names, without showing, the key that new files get."""
        ...

    def seal(self, data: bytes, context: bytes) -> bytes: ...

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The sealed data; any exception where it or its context is not what was sealed."""
        ...

    def file(self, name: str, key: str) -> FileSeal:
        """The seal of the file with this name, under the key so named; each name is used once.

        Any exception where there is no such key.
        """
        ...
