"""Samples: photographs after extraction, with their crops and thumbnails."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import field, replace
from datetime import datetime, timedelta
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import ImageError, ModelError, VectorUnusable
from engine.faces.embedder import are_unit, normalise
from engine.faces.face_records import find_image
from engine.faces.image_files import is_record
from engine.registry.vault import Vault
from indexes.base import UNIT_TOLERANCE, Floats, Octets, check_vectors
from indexes.errors import VectorInvalid
from schema import frozen
from schema.options import CropPolicy
from schema.phases import CropScope
from schema.reasons import PhotographKind, Pointed, Reason, ToldKind

if TYPE_CHECKING:
    from engine.faces.embedder import CropEmbedder, Pixels
    from engine.faces.extractor import Extracted, Extractor, Kinds
    from engine.faces.liveness_judge import Judged
    from engine.registry.cases import CropRecord
    from engine.registry.references import SecondTemplate


_log = logging.getLogger(__name__)


@frozen(eq=False)
class Sample:
    """One photograph after extraction.

    `vector` is a rotated unit vector, float32[d], or `None` exactly where no face was found;
    `problems` asks for a new photograph; `digest` is the SHA-256 of the image's bytes, and
    `record_digest` that of the document's record it came in; `kind` is what it was told to be.
    `crop` is the aligned face, sealed for its way to the registrar, where crops are kept;
    `thumbnail` is a small grey one, sealed too, by which one picture is known again in another
    file. `second` is the same face by a second model, where one is named.
    """

    vector: Floats | None = field(repr=False)
    digest: bytes = field(repr=False)
    problems: tuple[Reason, ...] = ()
    quality: Mapping[str, float] = field(default_factory=dict)
    crop: bytes | None = field(default=None, repr=False)
    thumbnail: bytes | None = field(default=None, repr=False)
    record_digest: bytes | None = field(default=None, repr=False)
    kind: PhotographKind | None = None
    frames: tuple[Sample, ...] = field(default=(), repr=False)
    """All that were sent where it stands for several (`checks/picture.py`); then `vector` is
    the mean of the best, which had this `length`, and all else is of the best one."""
    length: float = 1.0
    second: SecondTemplate | None = None
    judged: Judged | None = None
    """How live a judge found the face; of several frames, of the best one."""
    point: Sequence[float] | None = None
    """Of the face that is meant, where it was told."""

    @property
    def least_judged(self) -> Judged | None:
        """The frame of several that seems least live, or else a picture could be slipped in among
        them: without a score where one has none."""
        judged = [one.judged for one in self.frames or (self,)]
        return min(
            (one for one in judged if one is not None),
            key=lambda one: -math.inf if math.isnan(one.score) else one.score,
            default=None,
        )

    @classmethod
    def unseen(cls, data: bytes, told: ToldKind = None) -> Sample:
        """The sample of a file whose face nobody has looked for yet."""
        image = data
        if is_record(data):
            # What cannot be opened is refused when it is extracted.
            with suppress(ImageError):
                image, _ = find_image(data)
        digest = hashlib.sha256(image).digest()
        record = None if image is data else hashlib.sha256(data).digest()
        kind, point = told if isinstance(told, Pointed) else (told, None)
        return cls(None, digest, record_digest=record, kind=kind, point=point)

    @property
    def is_absent(self) -> bool:
        """True where no photograph was sent."""
        return not self.digest

    @property
    def is_usable(self) -> bool:
        return self.vector is not None and not self.problems


ABSENT = Sample(None, b"")
"""Stands for a photograph that was not sent."""


@frozen(eq=False)
class SecondEmbedder:
    """Embeds aligned faces by a second model; `vault` is that of its dimension."""

    embedder: CropEmbedder
    digest: str
    vault: Vault

    def embed(self, crops: Octets) -> list[SecondTemplate | None]:
        """The rotated template of each crop uint8[n, side, side, 3]; None for one that it gives no
        unit vector for: it decides nothing, so it fails nobody."""
        try:
            vectors = normalise(self.embedder.embed(crops))
        except ModelError as error:
            _log.error("the second model failed: %s", error)
            return [None] * len(crops)
        is_unit = are_unit(vectors)
        rotated = iter(self.vault.rotate(vectors[is_unit]) if is_unit.any() else ())
        from engine.registry.references import SecondTemplate  # noqa: PLC0415 - a registry alone

        return [SecondTemplate(self.digest, next(rotated)) if one else None for one in is_unit]


def take_samples(
    images: Sequence[bytes],
    extractor: Extractor,
    vault: Vault,
    kinds: Kinds = (),
    *,
    with_crops: bool = False,
    second: SecondEmbedder | None = None,
    judged: Sequence[bool] = (),
) -> list[Sample | ImageError]:
    """A sample of each image file, or its ImageError, in order; `kinds` and `judged` as `extract`
    takes them.

    Vectors are rotated and crops sealed: no face leaves this module in the clear.
    """
    extracted = extractor.extract(images, kinds, judged)
    return make_samples(images, extracted, vault, kinds, with_crops=with_crops, second=second)


def make_samples(
    images: Sequence[bytes],
    extracted: Sequence[Extracted],
    vault: Vault,
    kinds: Kinds = (),
    *,
    with_crops: bool = False,
    second: SecondEmbedder | None = None,
) -> list[Sample | ImageError]:
    """The samples of the photographs `images`, extracted already.

    `with_crops` adds the aligned faces, sealed, and `second` what a second model makes of them.
    """
    sound = [one for one in extracted if not isinstance(one, ImageError)]
    vectors = [one.vector for one in sound if one.vector is not None]
    rotated = iter(vault.rotate(np.stack(vectors)) if vectors else ())
    crops = [one.crop for one in sound if one.crop is not None and second is not None]
    seconds = iter(second.embed(np.stack(crops)) if second is not None and crops else ())
    samples: list[Sample | ImageError] = []
    told = kinds or [None] * len(images)
    for data, kind, one in zip(images, told, extracted, strict=True):
        if isinstance(one, ImageError):
            samples.append(one)
            continue
        unseen = Sample.unseen(data, kind)
        digest = unseen.digest
        sample = replace(
            unseen,
            vector=None if one.vector is None else next(rotated),
            problems=one.problems,
            quality=one.measured,
            crop=seal_crop(vault, digest, one.crop)
            if with_crops and one.crop is not None
            else None,
            thumbnail=None if one.crop is None else seal_thumbnail(vault, digest, one.crop),
            second=None if one.crop is None else next(seconds, None),
            judged=one.judged,
        )
        samples.append(sample)
    return samples


JPEG_QUALITY = 95
_CROP_CONTEXT = "sample.crop"


def choose_crops(
    policy: CropPolicy,
    vault: Vault,
    samples: Mapping[str, Sample],
    *,
    enrollment_id: str | None,
    document_id: str | None,
    has_case: bool,
    at: datetime,
) -> list[CropRecord]:
    """The crops to be kept of samples by photograph, `live` or `portrait`; of a sample without
    a crop none. `document_id` is of the reference or attempt that they are of."""
    # Whoever compares two photographs needs no registry, and loads none.
    from engine.registry.cases import CropRecord  # noqa: PLC0415
    from engine.registry.database import new_id  # noqa: PLC0415

    if policy.keep is CropScope.NONE:
        return []
    is_held = policy.keep is CropScope.CASES and not has_case
    if is_held and not (policy.hold_days and document_id):
        return []
    return [
        CropRecord(
            id=new_id(),
            enrollment_id=enrollment_id,
            photograph=photograph,
            kept_until=at + timedelta(days=policy.hold_days if is_held else policy.days),
            document_id=document_id,
            received_at=at,
            quality=dict(sample.quality),
            is_held=is_held or None,
            case_days=policy.days,
            image=vault.open_token(_CROP_CONTEXT, sample.digest.hex(), sample.crop),
        )
        for photograph, sample in samples.items()
        if sample.crop is not None
    ]


def seal_crop(vault: Vault, digest: bytes, pixels: Pixels) -> bytes:
    """An aligned face uint8[side, side, 3] as a JPEG file, sealed for the registrar.

    `digest` is that of the photograph.
    """
    from PIL import Image  # noqa: PLC0415 - only where crops are kept

    file = BytesIO()
    # No chroma subsampling: the whole face is as small as an icon.
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return vault.seal_token(_CROP_CONTEXT, digest.hex(), file.getvalue())


SAME_SCORE, SAME_LEVELS = 0.85, 6.0
"""Two files are one picture from this score on, where their thumbnails, laid over one another,
differ by less than so many of 256 grey levels on average. Of 832 pairs of LFW photographs of one
person none does; of pictures encoded anew or cropped 99 in 100 do, of those halved 98."""
_THUMBNAIL_CONTEXT = "sample.thumbnail"
_THUMBNAIL_PX, _RIM_PX = 48, 8
_STEPS, _PRECISION, _BLUR_PX = 40, 1e-4, 3


def seal_thumbnail(vault: Vault, digest: bytes, pixels: Pixels) -> bytes:
    """An aligned face as a small grey picture, sealed for the registrar."""
    from PIL import Image  # noqa: PLC0415 - not needed where nothing is extracted

    size = (_THUMBNAIL_PX, _THUMBNAIL_PX)
    small = Image.fromarray(pixels).convert("L").resize(size, Image.Resampling.BOX)
    return vault.seal_token(_THUMBNAIL_CONTEXT, digest.hex(), small.tobytes())


def is_same_photograph(vault: Vault, live: Sample, portrait: Sample) -> bool:
    """True where both are one file, or one picture that was encoded anew, cropped or resized; of
    several frames, where any is."""
    if live.frames:
        return any(is_same_photograph(vault, one, portrait) for one in live.frames)
    if live.digest == portrait.digest:
        return not live.is_absent
    if live.vector is None or portrait.vector is None:
        return False
    if not float(live.vector @ portrait.vector) >= SAME_SCORE:
        return False
    small = [
        np.frombuffer(
            vault.open_token(_THUMBNAIL_CONTEXT, one.digest.hex(), one.thumbnail), np.uint8
        )
        .reshape(_THUMBNAIL_PX, _THUMBNAIL_PX)
        .astype(np.float32)
        for one in (live, portrait)
        if one.thumbnail is not None
    ]
    return len(small) == 2 and _measure_difference(*small) < SAME_LEVELS


def _measure_difference(first: Floats, second: Floats) -> float:
    """The difference of two thumbnails, in grey levels, once the second is laid over the first.

    In another size of the same picture the landmarks lie a little elsewhere, and so does the face.
    """
    import cv2  # noqa: PLC0415 - few pairs are so alike

    size = (_THUMBNAIL_PX, _THUMBNAIL_PX)
    start, whole = np.eye(2, 3, dtype=np.float32), np.full(size, 255, np.uint8)
    until = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, _STEPS, _PRECISION)
    try:
        _, place = cv2.findTransformECC(
            first, second, start, cv2.MOTION_AFFINE, until, whole, _BLUR_PX
        )
    except cv2.error:
        # Nothing in them that could be laid over one another.
        return float("inf")
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(second, place, size, flags=flags)
    inner = slice(_RIM_PX, _THUMBNAIL_PX - _RIM_PX)
    return float(np.abs(first[inner, inner] - laid[inner, inner]).mean())


def require_unit(vector: Floats, what: str) -> None:
    """`VectorUnusable` unless float32[d] is finite and of unit length: a longer one has a higher
    score with everybody."""
    # The square says so of almost every one, in a fifth of the time.
    is_row = vector.dtype == np.float32 and vector.ndim == 1
    if is_row and abs(np.vdot(vector, vector) - 1) <= UNIT_TOLERANCE:
        return
    try:
        check_vectors(vector[None], len(vector))
    except VectorInvalid:
        raise VectorUnusable(
            f"the {what} vector is not of unit length: report this photograph"
        ) from None
