"""Templates that clients keep: rotated vectors, sealed for a tenant, a model and a time."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.registry.vault import OVERHEAD_BYTES, Vault
from indexes.base import UNIT_TOLERANCE, check_vectors
from serving.errors import TemplateInvalid

PLACE = "issued.template"
MAX_AHEAD_S = 300
"""How far the clock of the ingress that issued may be ahead of the one that opens."""

_ISSUED_AT = struct.Struct("<q")
_FLOATS = np.dtype("<f4")


class SealedTemplates:
    """Issues and opens tokens: AES-256-GCM seals of the moment of issue (int64, seconds) and the
    vector (float32[d]), both little-endian. The seal authenticates tenant and model, too."""

    def __init__(
        self, vault: Vault, model_digest: str, ttl_h: float, clock: Callable[[], float] = time.time
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
        """A token for each rotated row of float32[n, d]; `VectorInvalid` for one not of unit
        length."""
        vectors = check_vectors(vectors, self._vault.dim)
        row, issued_at = self._row(tenant), _ISSUED_AT.pack(int(self._clock()))
        return [
            self._vault.seal(PLACE, row, issued_at + vector.tobytes())
            for vector in np.ascontiguousarray(vectors, dtype=_FLOATS)
        ]

    def open(
        self, tokens: Sequence[bytes], tenant: str
    ) -> list[NDArray[np.float32] | TemplateInvalid]:
        """The rotated unit vector float32[d] of each token, or the same error for every other."""
        now, read_time, length = self._clock(), _ISSUED_AT.unpack_from, self.token_bytes
        unsealed = self._vault.open_all(PLACE, self._row(tenant), tokens)
        opened = [
            np.frombuffer(plain, _FLOATS, -1, _ISSUED_AT.size)
            if plain is not None
            and len(token) == length
            and -MAX_AHEAD_S <= now - read_time(plain)[0] <= self._ttl_s
            else None
            for token, plain in zip(tokens, unsealed, strict=True)
        ]
        return [
            refuse_template()
            if vector is None or not abs(vector @ vector - 1) <= 2 * UNIT_TOLERANCE
            else vector
            for vector in opened
        ]

    def _row(self, tenant: str) -> str:
        # The length keeps tenant and digest apart, whatever either holds.
        return f"{len(tenant)}:{tenant}:{self._model_digest}"


def refuse_template() -> TemplateInvalid:
    """The one answer to every token that is none, so that nothing can be learnt from it."""
    return TemplateInvalid(
        "the template is not one that was issued to you here, or has expired: ask for a new one"
    )
