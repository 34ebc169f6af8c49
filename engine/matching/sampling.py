"""From photographs to samples: vectors are rotated here, so no face goes on in the clear."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import ImageError
from engine.matching.requests import Sample

if TYPE_CHECKING:
    from engine.faces.extractor import Extracted, Extractor
    from engine.registry.vault import Vault


def take_samples(
    images: Sequence[bytes], extractor: Extractor, vault: Vault
) -> list[Sample | ImageError]:
    """A sample of each image file, or what is wrong with the file, in their order."""
    return make_samples(images, extractor.extract(images), vault)


def make_samples(
    images: Sequence[bytes], extracted: Sequence[Extracted], vault: Vault
) -> list[Sample | ImageError]:
    """The samples of photographs that are extracted already; `images` are the same, in order."""
    vectors = [
        one.vector
        for one in extracted
        if not isinstance(one, ImageError) and one.vector is not None
    ]
    turned = iter(vault.rotate(np.stack(vectors)) if vectors else ())
    return [
        one
        if isinstance(one, ImageError)
        else Sample(
            vector=None if one.vector is None else next(turned),
            digest=hashlib.sha256(data).digest(),
            problems=one.problems,
            quality={} if one.quality is None else asdict(one.quality),
        )
        for data, one in zip(images, extracted, strict=True)
    ]
