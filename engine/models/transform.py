"""What a card adds to its embedder: the mean face subtracted, and directions weighed anew."""

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
    """`(vector - mean) @ matrix` at unit length, of unit vectors; thread-safe.

    `mean` float32[d]; `matrix` float32[d, d], or None where no direction is weighed.
    """

    mean: Vectors
    matrix: Vectors | None = None

    def apply(self, vectors: Vectors) -> Vectors:
        """Unit rows float32[n, d] of unit rows; a row has the same bits in any batch."""
        moved = vectors - self.mean
        if self.matrix is not None:
            # A product for each row, as in `Vault.rotate`.
            moved = np.matmul(moved[:, None], self.matrix)[:, 0]
        lengths = np.linalg.norm(moved, axis=1, keepdims=True)
        unit: Vectors = (moved / np.maximum(lengths, 1e-12)).astype(np.float32)
        return unit

    def undo(self, vectors: Vectors) -> Vectors:
        """The unit rows float32[n, d] that `apply` made these of; the mean is shorter than 1."""
        mean, moved = self.mean.astype(np.float64), vectors.astype(np.float64)
        if self.matrix is not None:
            moved = np.linalg.solve(self.matrix.T.astype(np.float64), moved.T).T
        # How long a row was before it was scaled to unit length: |mean + scale * row| = 1.
        square, along = np.einsum("nd,nd->n", moved, moved), moved @ mean
        scale = (np.sqrt(along**2 + square * (1 - mean @ mean)) - along) / square
        rows: Vectors = (mean + scale[:, None] * moved).astype(np.float32)
        return rows

    def turned(self, rotation: Vectors) -> Transform:
        """The same transform of rows multiplied by an orthogonal `rotation` float32[d, d]."""
        exact = rotation.astype(np.float64)
        matrix = None if self.matrix is None else (exact.T @ self.matrix @ exact)
        return Transform(
            (self.mean @ exact).astype(np.float32),
            None if matrix is None else matrix.astype(np.float32),
        )

    def to_bytes(self) -> bytes:
        """The file that `read_transform` reads; the same transform gives the same bytes."""
        kept = {"format": np.array(FORMAT), "mean": self.mean}
        if self.matrix is not None:
            kept["matrix"] = self.matrix
        file = io.BytesIO()
        np.savez(file, **kept)  # type: ignore[arg-type]
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, dimension: int) -> Self:
        """Raises ModelCardInvalid for what is no transform of vectors of this dimension."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as kept:
                version, mean = int(kept["format"]), kept["mean"]
                matrix = kept.get("matrix")
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise ModelCardInvalid("the card's transform is no transform: fit it again") from error
        if version != FORMAT:
            raise ModelCardInvalid(
                f"the card's transform has format {version}, this version reads {FORMAT}: "
                "fit it again"
            )
        parts = {(dimension,): mean} | ({} if matrix is None else {(dimension,) * 2: matrix})
        for shape, part in parts.items():
            if part.shape != shape or part.dtype != np.float32 or not np.isfinite(part).all():
                raise ModelCardInvalid(
                    f"the card's transform is not of {dimension} finite float32 numbers: "
                    "fit it again"
                )
        return cls(mean, matrix)


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
