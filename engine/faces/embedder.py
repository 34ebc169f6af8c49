"""Aligned crops to unit vectors."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import ModelCardInvalid
from engine.models.catalog import ModelCard, Role
from engine.models.session import Session

# Enough to share one reading of the dense layer's weights; an accelerator needs many to be filled.
_CPU_BATCH = 16
_ACCELERATOR_BATCH = 256


class CropEmbedder(Protocol):
    """Turns aligned crops into vectors, here or elsewhere; several threads may use it at once."""

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        ...

    @property
    def flip(self) -> bool:
        """True where a row is averaged with that of the mirrored crop."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    @property
    def side_px(self) -> int:
        """Side of the square crop that the model expects."""
        ...

    @property
    def prefers_large_batches(self) -> bool:
        """True where one call with many crops is quicker than several threads' calls."""
        ...

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Crops uint8[n, side, side, 3] (RGB) to float32[n, d], unit rows."""
        ...


class Embedder:
    """Runs an embedding model as its card says; may be used by several threads at once."""

    def __init__(self, session: Session, card: ModelCard, flip: bool = False) -> None:
        if card.role is not Role.EMBEDDER:
            raise ModelCardInvalid(f"model {card.name} is a {card.role}; choose an embedder")
        if session.fixed_batch not in (None, 1):
            raise ModelCardInvalid(
                f"model {card.name} takes batches of {session.fixed_batch} only; "
                "export it with a free batch dimension"
            )
        self.card = card
        self.flip = flip
        self._session = session
        self._max_batch = session.fixed_batch or (
            _ACCELERATOR_BATCH if session.prefers_large_batches else _CPU_BATCH
        )

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.card.dimension

    @property
    def side_px(self) -> int:
        """Side of the square crop that the model expects."""
        return self.card.input.size_px[0]

    @property
    def prefers_large_batches(self) -> bool:
        """True where one call with many crops is quicker than several threads' calls."""
        return self._session.prefers_large_batches

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Crops uint8[n, side, side, 3] (RGB) to float32[n, d], unit rows.

        With `flip`, a row is the direction of the sum over the crop and its mirror image.
        """
        if len(crops) == 0:
            return np.zeros((0, self.dim), dtype=np.float32)
        vectors = self._embed_plain(crops)
        if self.flip:
            vectors = vectors + self._embed_plain(crops[:, :, ::-1])
        return _normalise(vectors)

    def _embed_plain(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = [
            self._session.run(self._prepare(crops[start : start + self._max_batch]))[0]
            for start in range(0, len(crops), self._max_batch)
        ]
        vectors = np.concatenate(parts).reshape(len(crops), -1)
        if vectors.shape[1] != self.dim:
            raise ModelCardInvalid(
                f"model {self.card.name} gives {vectors.shape[1]} numbers, "
                f"its card says dimension {self.dim}; correct the card"
            )
        return _normalise(vectors)

    def _prepare(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        contract = self.card.input
        values = (crops if contract.channels == "rgb" else crops[..., ::-1]).astype(np.float32)
        if any(contract.mean) or contract.scale != (1.0, 1.0, 1.0):
            values -= np.array(contract.mean, dtype=np.float32)
            values *= np.array(contract.scale, dtype=np.float32)
        if contract.layout == "nchw":
            values = values.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(values)


def _normalise(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return unit
