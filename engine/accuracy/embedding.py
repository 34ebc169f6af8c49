"""Every photograph of a folder through an extractor: vectors, quality, and what went wrong."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, Protocol

import numpy as np

from engine.accuracy.likeness import FINGERPRINT, fingerprint
from engine.faces.quality import Quality

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from engine.accuracy.labelled import LabelledFolder
    from engine.faces.extractor import Extracted

BATCH = 64
QUALITIES = tuple(field.name for field in fields(Quality))
"""The columns of `Embeddings.qualities`."""

Progress = Callable[[int, int], None]
"""Told the photographs done and the photographs in all."""


class FaceExtractor(Protocol):
    """What an evaluation needs of `engine.faces.extractor.Extractor`."""

    @property
    def model_digest(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def extract(self, images: Sequence[bytes]) -> list[Extracted]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """What an extractor made of each photograph of a folder, a row each.

    `vectors` float32[n, d]: unit rows, zero where none was acquired; `failed` int64: the places of
    those. `reasons`: why there is no vector, or what is wrong with the photograph that has one.
    `qualities` float32[n, 8]: the columns QUALITIES, NaN without a face. `prints` float32[n, f]:
    see `engine.accuracy.likeness`, zero without a face. `digests`: of the files' bytes.
    """

    folder: LabelledFolder
    vectors: NDArray[np.float32]
    failed: NDArray[np.int64]
    reasons: tuple[tuple[str, ...], ...]
    qualities: NDArray[np.float32]
    prints: NDArray[np.float32]
    digests: tuple[bytes, ...]

    @property
    def failures(self) -> dict[str, int]:
        """Photographs without a vector, by cause."""
        return _count(self.reasons[place][:1] for place in self.failed)

    @property
    def problems(self) -> dict[str, int]:
        """Photographs with a vector, by what is wrong with them; some are counted twice."""
        failed = set(self.failed.tolist())
        return _count(r for place, r in enumerate(self.reasons) if place not in failed)

    @property
    def places(self) -> NDArray[np.int64]:
        """int64[acquired], rising: the photographs with a vector."""
        return np.setdiff1d(np.arange(len(self.vectors)), self.failed)

    def acquired(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The vectors that there are, and their people by the folder's numbers."""
        places = self.places
        return self.vectors[places], self.folder.people[places]


def embed_folder(
    folder: LabelledFolder, extractor: FaceExtractor, progress: Progress | None = None
) -> Embeddings:
    """The vector of each photograph; what can't be acquired is counted, never raised."""
    count = len(folder.paths)
    vectors = np.zeros((count, extractor.dim), np.float32)
    qualities = np.full((count, len(QUALITIES)), np.nan, np.float32)
    prints = np.zeros((count, FINGERPRINT**2), np.float32)
    failed: list[int] = []
    reasons: list[tuple[str, ...]] = []
    digests: list[bytes] = []
    for start in range(0, count, BATCH):
        images = [_read(path) for path in folder.paths[start : start + BATCH]]
        digests += [hashlib.sha256(image).digest() for image in images]
        for place, one in enumerate(extractor.extract(images), start):
            if isinstance(one, Exception):
                failed.append(place)
                reasons.append((one.code,))
                continue
            reasons.append(tuple(map(str, one.problems)))
            if one.vector is None or one.quality is None or one.crop is None:
                failed.append(place)
                continue
            vectors[place] = one.vector
            qualities[place] = astuple(one.quality)
            prints[place] = fingerprint(one.crop)
        if progress:
            progress(start + len(images), count)
    return Embeddings(
        folder,
        vectors,
        np.array(failed, dtype=np.int64),
        tuple(reasons),
        qualities,
        prints,
        tuple(digests),
    )


def _read(path: Path) -> bytes:
    """The file's bytes; none where it can't be read, which the extractor calls damaged."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _count(reasons: Iterable[tuple[str, ...]]) -> dict[str, int]:
    counted = Counter(reason for each in reasons for reason in each)
    return dict(counted.most_common())
