"""How the files of a snapshot are protected: the seams, and a stand-in for those without keys."""

from __future__ import annotations

import hashlib
import hmac
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


class Unsealed:
    """A `Sealer` without a key: finds damage by SHA-256, but hides nothing and stops no forger."""

    file_key = "none"

    def seal(self, data: bytes, context: bytes) -> bytes:
        return self._digest(data, context) + data

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The data; `ValueError` where it or its context has changed."""
        size = hashlib.sha256().digest_size
        digest, data = sealed[:size], sealed[size:]
        if not hmac.compare_digest(digest, self._digest(data, context)):
            raise ValueError("the digest does not match")
        return data

    def file(self, name: str, key: str) -> UnsealedFile:
        """A seal that changes nothing; `ValueError` where the file is under a real key."""
        if key != self.file_key:
            raise ValueError("the file is sealed with a key")
        return UnsealedFile(name)

    @staticmethod
    def _digest(data: bytes, context: bytes) -> bytes:
        digest = hashlib.sha256(len(context).to_bytes(8, "little"))
        digest.update(context)
        digest.update(data)
        return digest.digest()


class UnsealedFile:
    """A `FileSeal` that hides nothing; its digest is SHA-256 over the name and the file."""

    def __init__(self, name: str) -> None:
        self._name = name.encode()

    def hide(self, plain: Buffer, offset: int) -> bytes:
        del offset
        return bytes(plain)

    def reveal(self, hidden: Buffer, offset: int) -> bytes:
        del offset
        return bytes(hidden)

    def reveal_rows(self, hidden: Octets, offsets: NDArray[np.int64]) -> Octets:
        del offsets
        return hidden.copy()

    def digest(self) -> Digest:
        """A new SHA-256."""
        return hashlib.sha256(self._name)
