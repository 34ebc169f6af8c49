"""A `Sealer` for tests that leaves files readable and changeable."""

import hashlib
import hmac

import numpy as np
from numpy.typing import NDArray

from indexes.snapshots.manifest import Buffer, Octets


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

    def file(self, name: str, key: str) -> "UnsealedFile":
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

    def reveal(self, hidden: Buffer, offset: int, plain: Octets) -> None:
        del offset
        plain[:] = np.frombuffer(hidden, np.uint8)

    def reveal_rows(self, hidden: Octets, offsets: NDArray[np.int64]) -> Octets:
        del offsets
        return hidden.copy()

    def digest(self) -> hmac.HMAC:
        return hmac.new(self._name, digestmod=hashlib.sha256)
