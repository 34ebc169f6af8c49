"""Templates in clients' hands: rotated vectors, sealed for one tenant, one model and a time."""

from __future__ import annotations

import base64
import binascii
import struct
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.registry.vault import OVERHEAD_BYTES, Vault
from serving.errors import TemplateInvalid

PLACE = "issued.template"
MAX_AHEAD_S = 300
"""How far the clock of the ingress that issued may be ahead of the one that opens."""

_ISSUED_AT = struct.Struct("<q")
_FLOATS = np.dtype("<f4")


class SealedTemplates:
    """Templates that clients keep: sealed, bound to a tenant and a model, good for a time. A token
    is one AES-256-GCM seal of the moment of issue (int64, seconds) and the vector (float32[d]),
    both little-endian.

    Tenant and model are part of what the seal authenticates.
    """

    def __init__(
        self,
        vault: Vault,
        model_digest: str,
        ttl_h: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._vault = vault
        self._model_digest = model_digest
        self._ttl_s = ttl_h * 3600
        self._clock = clock
        self._plain_bytes = _ISSUED_AT.size + 4 * vault.dim

    @property
    def token_bytes(self) -> int:
        """Length of a token."""
        return self._plain_bytes + OVERHEAD_BYTES

    def issue(self, vectors: NDArray[np.float32], tenant: str) -> list[bytes]:
        """A token for each rotated unit row of float32[n, d]."""
        assert vectors.ndim == 2
        assert vectors.shape[1] == self._vault.dim
        row, issued_at = self._row(tenant), _ISSUED_AT.pack(int(self._clock()))
        return [
            self._vault.seal(PLACE, row, issued_at + vector.tobytes())
            for vector in np.ascontiguousarray(vectors, dtype=_FLOATS)
        ]

    def open(
        self, tokens: Sequence[bytes], tenant: str
    ) -> list[NDArray[np.float32] | TemplateInvalid]:
        """The rotated unit vector float32[d] of each token, or that it is none: no more is told."""
        now, read_time, length = self._clock(), _ISSUED_AT.unpack_from, self.token_bytes
        unsealed = self._vault.open_all(PLACE, self._row(tenant), tokens)
        return [
            np.frombuffer(plain, _FLOATS, -1, _ISSUED_AT.size)
            if plain is not None
            and len(token) == length
            and -MAX_AHEAD_S <= now - read_time(plain)[0] <= self._ttl_s
            else refuse_template()
            for token, plain in zip(tokens, unsealed, strict=True)
        ]

    def _row(self, tenant: str) -> str:
        # The length keeps tenant and digest apart, whatever either holds.
        return f"{len(tenant)}:{tenant}:{self._model_digest}"


def refuse_template() -> TemplateInvalid:
    """The one answer to every token that is none, so that nothing can be learnt from it."""
    return TemplateInvalid(
        "the template is not one that was issued to you here, or has expired: ask for a new one"
    )


def write_token(token: bytes) -> str:
    """A token as text: base64url without padding."""
    return base64.urlsafe_b64encode(token).rstrip(b"=").decode()


def read_token(text: str) -> bytes:
    """The token that `write_token` wrote; empty where the text is no token."""
    try:
        token = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return b""
    # The decoder skips what is not of its alphabet; a token has one text and no other.
    return token if write_token(token) == text else b""


# Base64 as bodies hold it.

PIECE_CHARS = 1 << 20
"""Divisible by four; Python's other threads wait while one piece is read, 2 ms or so."""


def read_base64(text: str) -> bytes:
    """The bytes of base64 text (RFC 4648, section 4, padded), strictly; `ValueError`."""
    if len(text) <= PIECE_CHARS:
        return _read(text)
    pieces = []
    for start in range(0, len(text), PIECE_CHARS):
        piece = _read(text[start : start + PIECE_CHARS])
        if start + PIECE_CHARS < len(text) and 4 * len(piece) != 3 * PIECE_CHARS:
            raise ValueError("not base64: padded before its end")
        pieces.append(piece)
    return b"".join(pieces)


def _read(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise ValueError("not base64 (RFC 4648, section 4, padded)") from None
