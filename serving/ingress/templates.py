"""Templates that clients keep: rotated vectors, sealed for a tenant, a model and a time."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.errors import SealBroken
from engine.registry.vault import Vault
from indexes.base import UNIT_TOLERANCE, check_vectors
from serving.errors import TemplateInvalid

PLACE = "issued.template"
MAX_AHEAD_S = 300
"""How far the clock of the ingress that issued may be ahead of the one that opens."""

_ISSUED_AT = struct.Struct("<q")
_FLOATS = np.dtype("<f4")


class SealedTemplates:
    """Issues and opens tokens: the moment of issue (int64, seconds) and the vector (float32[d]),
    both little-endian, sealed by `Vault.seal_token` for a tenant and the model."""

    def __init__(
        self, vault: Vault, model_digest: str, ttl_h: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._vault = vault
        self._model_digest = model_digest
        self._ttl_s = ttl_h * 3600
        self._clock = clock
        self._plain_bytes = _ISSUED_AT.size + 4 * vault.dim

    def issue(self, vectors: NDArray[np.float32], tenant: str) -> list[bytes]:
        """A token for each rotated row of float32[n, d]; `VectorInvalid` for one not of unit
        length."""
        vectors = check_vectors(vectors, self._vault.dim)
        row, now = self._row(tenant), self._clock()
        issued_at = _ISSUED_AT.pack(int(now))
        return [
            self._vault.seal_token(PLACE, row, issued_at + vector.tobytes(), now)
            for vector in np.ascontiguousarray(vectors, dtype=_FLOATS)
        ]

    def open(
        self, tokens: Sequence[bytes], tenant: str
    ) -> list[NDArray[np.float32] | TemplateInvalid]:
        """The rotated unit vector float32[d] of each token, or the same error for every other."""
        now, read_time, length = self._clock(), _ISSUED_AT.unpack_from, self._plain_bytes
        row = self._row(tenant)
        opened = [
            np.frombuffer(plain, _FLOATS, -1, _ISSUED_AT.size)
            if plain is not None
            and len(plain) == length
            and -MAX_AHEAD_S <= now - read_time(plain)[0] <= self._ttl_s
            else None
            for plain in (self._unseal(row, token) for token in tokens)
        ]
        return [
            refuse_template()
            if vector is None or not abs(vector @ vector - 1) <= 2 * UNIT_TOLERANCE
            else vector
            for vector in opened
        ]

    def _unseal(self, row: str, token: bytes) -> bytes | None:
        try:
            return self._vault.open_token(PLACE, row, token)
        except SealBroken:
            return None

    def _row(self, tenant: str) -> str:
        # The length keeps tenant and digest apart, whatever either holds.
        return f"{len(tenant)}:{tenant}:{self._model_digest}"


def refuse_template() -> TemplateInvalid:
    """The one answer to every token that is none, so that nothing can be learnt from it."""
    return TemplateInvalid(
        "the template is not one that was issued to you here, or has expired: ask for a new one"
    )
