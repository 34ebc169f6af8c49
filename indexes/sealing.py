"""How the files of a snapshot are protected: the seam, and the digest for those without keys."""

from __future__ import annotations

import hashlib
import hmac
from typing import Protocol


class Sealer(Protocol):
    """Binds bytes to a context, so that neither can be altered or exchanged unnoticed."""

    def seal(self, data: bytes, context: bytes) -> bytes: ...

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The sealed data; any exception where it or its context is not what was sealed."""
        ...


class Unsealed:
    """A `Sealer` without a key: finds damage by SHA-256, but hides nothing and stops no forger."""

    def seal(self, data: bytes, context: bytes) -> bytes:
        return self._digest(data, context) + data

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The data; `ValueError` where it or its context has changed."""
        size = hashlib.sha256().digest_size
        digest, data = sealed[:size], sealed[size:]
        if not hmac.compare_digest(digest, self._digest(data, context)):
            raise ValueError("the digest does not match")
        return data

    @staticmethod
    def _digest(data: bytes, context: bytes) -> bytes:
        digest = hashlib.sha256(len(context).to_bytes(8, "little"))
        digest.update(context)
        digest.update(data)
        return digest.digest()
