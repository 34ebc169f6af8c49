"""From photographs to samples: vectors are rotated here, so no face goes on in the clear."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import ImageError
from engine.matching.requests import Sample
from engine.retention.crops import seal_crop

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.faces.extractor import Extracted, Extraction, Extractor
    from engine.registry.vault import Vault


def take_samples(
    images: Sequence[bytes], extractor: Extractor, vault: Vault, *, with_crops: bool = False
) -> list[Sample | ImageError]:
    """A sample of each image file, or what is wrong with the file, in their order."""
    return make_samples(images, extractor.extract(images), vault, with_crops=with_crops)


def make_samples(
    images: Sequence[bytes],
    extracted: Sequence[Extracted],
    vault: Vault,
    *,
    with_crops: bool = False,
) -> list[Sample | ImageError]:
    """The samples of photographs that are extracted already; `images` are the same, in order.

    `with_crops` where the aligned faces may be kept: they go on sealed.
    """
    vectors = [
        one.vector
        for one in extracted
        if not isinstance(one, ImageError) and one.vector is not None
    ]
    turned = iter(vault.rotate(np.stack(vectors)) if vectors else ())
    return [
        one
        if isinstance(one, ImageError)
        else _make_sample(hashlib.sha256(data).digest(), one, turned, vault, with_crops)
        for data, one in zip(images, extracted, strict=True)
    ]


def _make_sample(
    digest: bytes,
    extraction: Extraction,
    turned: Iterator[NDArray[np.float32]],
    vault: Vault,
    with_crop: bool,
) -> Sample:
    crop = extraction.crop
    return Sample(
        vector=None if extraction.vector is None else next(turned),
        digest=digest,
        problems=extraction.problems,
        quality={} if extraction.quality is None else asdict(extraction.quality),
        crop=seal_crop(vault, digest, crop) if with_crop and crop is not None else None,
    )
