"""The aligned faces of an enrollment, where the operator has them kept."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from serving.api.schemas.fields import ID_EXAMPLE, Shown


class CropShown(Shown):
    """An aligned face of 112 by 112 pixels, as it was compared."""

    photograph: Literal["live", "portrait"]
    image: str = Field(
        description="JPEG or PNG: base64 in JSON, binary in MessagePack",
        json_schema_extra={"contentEncoding": "base64"},
        repr=False,
    )
    kept_until: datetime


class CropsAnswer(Shown):
    """Empty where crops are not kept, or not any more."""

    enrollment_id: str = Field(examples=[ID_EXAMPLE])
    crops: list[CropShown]
