"""Which aligned faces are kept beside a decision, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from io import BytesIO
from typing import TYPE_CHECKING

from engine.registry.records import NewCrop, new_id

if TYPE_CHECKING:
    from engine.faces.images import Pixels
    from engine.matching.requests import EnrollmentRequest
    from engine.registry.vault import Vault

JPEG_QUALITY = 95
_ON_ITS_WAY = "sample.crop"


class Keep(StrEnum):
    """Of which attempts the crops are kept."""

    NONE = "none"
    CASES = "cases"
    """Of those that opened a case."""
    ALL = "all"


@dataclass(frozen=True, slots=True)
class CropPolicy:
    """`time` is how long a crop is kept, counted from its decision; not longer for any reason."""

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
        """The crops to be kept of an attempt, as far as its samples have any."""
        if self.keep is Keep.NONE or (self.keep is Keep.CASES and not has_case):
            return []
        samples = {"live": request.live, "portrait": request.portrait}
        return [
            NewCrop(
                id=new_id(),
                enrollment_id=enrollment_id,
                photograph=photograph,
                kept_until=decided_at + self.time,
                image=vault.open(_ON_ITS_WAY, sample.digest.hex(), sample.crop),
            )
            for photograph, sample in samples.items()
            if sample.crop is not None
        ]


NO_CROPS = CropPolicy()


def seal_crop(vault: Vault, digest: bytes, pixels: Pixels) -> bytes:
    """An aligned face uint8[side, side, 3] as a JPEG file, sealed for its way to the registrar.

    `digest` is that of its photograph.
    """
    from PIL import Image  # noqa: PLC0415 - only where crops are kept

    file = BytesIO()
    # Colours at full resolution: the whole face is no larger than an icon.
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return vault.seal(_ON_ITS_WAY, digest.hex(), file.getvalue())
