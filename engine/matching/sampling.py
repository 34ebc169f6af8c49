"""From photographs to samples, and the crops of them that are kept.

Vectors are rotated and crops sealed here, so no face leaves in the clear.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import ImageError
from engine.matching.requests import Sample
from engine.registry.records import NewCrop, new_id

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.faces.extractor import Extracted, Extraction, Extractor
    from engine.faces.images import Pixels
    from engine.matching.requests import EnrollmentRequest
    from engine.registry.vault import Vault


def take_samples(
    images: Sequence[bytes], extractor: Extractor, vault: Vault, *, with_crops: bool = False
) -> list[Sample | ImageError]:
    """A sample of each image file, or its ImageError, in order."""
    return make_samples(images, extractor.extract(images), vault, with_crops=with_crops)


def make_samples(
    images: Sequence[bytes],
    extracted: Sequence[Extracted],
    vault: Vault,
    *,
    with_crops: bool = False,
) -> list[Sample | ImageError]:
    """The samples of the photographs `images`, extracted already.

    `with_crops` adds the aligned faces, sealed.
    """
    vectors = [
        one.vector
        for one in extracted
        if not isinstance(one, ImageError) and one.vector is not None
    ]
    rotated = iter(vault.rotate(np.stack(vectors)) if vectors else ())
    return [
        one
        if isinstance(one, ImageError)
        else _make_sample(hashlib.sha256(data).digest(), one, rotated, vault, with_crops)
        for data, one in zip(images, extracted, strict=True)
    ]


def _make_sample(
    digest: bytes,
    extraction: Extraction,
    rotated: Iterator[NDArray[np.float32]],
    vault: Vault,
    with_crop: bool,
) -> Sample:
    crop = extraction.crop
    return Sample(
        vector=None if extraction.vector is None else next(rotated),
        digest=digest,
        problems=extraction.problems,
        quality={} if extraction.quality is None else asdict(extraction.quality),
        crop=seal_crop(vault, digest, crop) if with_crop and crop is not None else None,
    )


JPEG_QUALITY = 95
_CROP_CONTEXT = "sample.crop"


class Keep(StrEnum):
    """Attempts of which the crops are kept."""

    NONE = "none"
    CASES = "cases"
    """Those that opened a case."""
    ALL = "all"


@dataclass(frozen=True, slots=True)
class CropPolicy:
    """Which crops are kept, and for how long: never longer than `time` after the decision."""

    keep: Keep = Keep.NONE
    time: timedelta = timedelta(days=30)

    @property
    def keeps_any(self) -> bool:
        return self.keep is not Keep.NONE

    def choose(
        self,
        vault: Vault,
        request: EnrollmentRequest,
        enrollment_id: str,
        has_case: bool,
        decided_at: datetime,
    ) -> list[NewCrop]:
        """The crops of an attempt that are to be kept; none where its samples have none."""
        if self.keep is Keep.NONE or (self.keep is Keep.CASES and not has_case):
            return []
        samples = {"live": request.live, "portrait": request.portrait}
        return [
            NewCrop(
                id=new_id(),
                enrollment_id=enrollment_id,
                photograph=photograph,
                kept_until=decided_at + self.time,
                image=vault.open(_CROP_CONTEXT, sample.digest.hex(), sample.crop),
            )
            for photograph, sample in samples.items()
            if sample.crop is not None
        ]


NO_CROPS = CropPolicy()


def seal_crop(vault: Vault, digest: bytes, pixels: Pixels) -> bytes:
    """An aligned face uint8[side, side, 3] as a JPEG file, sealed for the registrar.

    `digest` is that of the photograph.
    """
    from PIL import Image  # noqa: PLC0415 - only where crops are kept

    file = BytesIO()
    # No chroma subsampling: the whole face is as small as an icon.
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return vault.seal(_CROP_CONTEXT, digest.hex(), file.getvalue())
