"""The transform that a card adds to its embedder: the mean of people's vectors, which is
subtracted."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Self

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from engine.errors import ModelCardInvalid
from engine.models.catalog import ModelCard, read_transform_file

FORMAT = 1
"""Of the file; another is refused."""

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """`vector - mean` at unit length, of unit vectors; `mean` float32[d] is shorter than 1."""

    mean: Vectors

    def apply(self, vectors: Vectors) -> Vectors:
        """Unit rows float32[n, d] of unit rows; a row has the same bits in any batch."""
        moved = vectors - self.mean
        lengths = np.linalg.norm(moved, axis=1, keepdims=True)
        unit: Vectors = (moved / np.maximum(lengths, 1e-12)).astype(np.float32)
        return unit

    def undo(self, vectors: Vectors) -> Vectors:
        """The unit rows float32[n, d] that `apply` made these of."""
        mean, rows = self.mean.astype(np.float64), vectors.astype(np.float64)
        # How long a row was before it was scaled to unit length: |mean + length * row| = 1.
        along = rows @ mean
        lengths = np.sqrt(along**2 + 1 - mean @ mean) - along
        before: Vectors = (mean + lengths[:, None] * rows).astype(np.float32)
        return before

    def turned(self, rotation: Vectors) -> Transform:
        """The same transform of rows multiplied by an orthogonal `rotation` float32[d, d]."""
        return Transform((self.mean @ rotation.astype(np.float64)).astype(np.float32))

    def to_bytes(self) -> bytes:
        """The file that `read_transform` reads; the same transform gives the same bytes."""
        file = io.BytesIO()
        np.savez(file, format=np.array(FORMAT), mean=self.mean)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, dimension: int) -> Self:
        """Raises ModelCardInvalid for what is no transform of vectors of this dimension."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as kept:
                version, mean = int(kept["format"]), kept["mean"]
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise ModelCardInvalid("the card's transform is no transform: fit it again") from error
        if version != FORMAT:
            raise ModelCardInvalid(
                f"the card's transform has format {version}, this version reads {FORMAT}: "
                "fit it again"
            )
        is_mean = mean.shape == (dimension,) and mean.dtype == np.float32
        if not is_mean or not np.linalg.norm(mean) < 1:
            raise ModelCardInvalid(
                f"the card's transform is not the mean of unit vectors float32[{dimension}]: "
                "fit it again"
            )
        return cls(mean)


def read_transform(card: ModelCard) -> Transform | None:
    """The transform of a card, its SHA-256 verified; None where it has none.

    Raises ModelMissing, ModelDamaged or ModelCardInvalid.
    """
    if not card.transform:
        return None
    return Transform.from_bytes(read_transform_file(card), card.dimension)


def name_transform(card: ModelCard, file: str, transform: Transform) -> ModelCard:
    """The card with this transform, which is in `file` beside it."""
    sha256 = hashlib.sha256(transform.to_bytes()).hexdigest()
    return structs.replace(card, transform=file, transform_sha256=sha256)


def without_transform(card: ModelCard) -> ModelCard:
    """The card of the model alone."""
    return structs.replace(card, transform="", transform_sha256="")


@dataclass(frozen=True, slots=True)
class Conversion:
    """From the templates of the model `before` to those of `after`, by their digests.

    A fused template is converted as if it were of one photograph, which is nearly what fusing
    converted ones gives.
    """

    before: str
    after: str
    transform: Transform
