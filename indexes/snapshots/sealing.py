"""Protocols by which a store's keys encrypt and authenticate the files of a snapshot."""

from __future__ import annotations

from hmac import HMAC
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Octets = NDArray[np.uint8]
Buffer = bytes | memoryview


class FileSeal(Protocol):
    """Encrypts and authenticates one file; its bytes keep their number and positions.

    A run starts at a multiple of 16 bytes. Encryption alone prevents no forgery: use revealed bytes
    only after comparing the digest of the whole file on the disk. A seal is for one content: it
    must never hide a second one. Thread-safe.
    """

    def hide(self, plain: Buffer, offset: int) -> bytes:
        """The bytes of this run in the file."""
        ...

    def reveal(self, hidden: Buffer, offset: int, plain: Octets) -> None:
        """Writes the run that was hidden at this offset to `plain`, uint8[n] of its size."""
        ...

    def reveal_rows(self, hidden: Octets, offsets: NDArray[np.int64]) -> Octets:
        """Many short runs at once, at any offsets: uint8[n, size] to uint8[n, size]."""
        ...

    def digest(self) -> HMAC:
        """A new keyed digest for the whole file as it is on the disk."""
        ...


class Sealer(Protocol):
    """Binds bytes to a context, so that altering or exchanging either is detected."""

    @property
    def file_key(self) -> str:
        """The name of the key for new files; does not reveal it."""
        ...

    def seal(self, data: bytes, context: bytes) -> bytes: ...

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The sealed data; any exception where data or context differ from what was sealed."""
        ...

    def file(self, name: str, key: str) -> FileSeal:
        """The seal for the file of this name under the named key; each file name is used once.

        Any exception for an unknown key.
        """
        ...
