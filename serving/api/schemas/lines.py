"""Lines: a holder's own list, a dispute, an end."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import ConfigDict, Field

from serving.api.fields import ID_EXAMPLE, IMAGE_EXAMPLE, Body, Shown
from serving.api.schemas.documents import KnownDocument
from serving.api.schemas.matching import Face


class HolderBody(Body):
    """A document and a face that shows to be its holder's."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "document": {"type": "cn-ric", "number": "110105199003071239"},
                    "probe": {"image": IMAGE_EXAMPLE},
                }
            ]
        }
    )

    document: KnownDocument
    probe: Face = Field(repr=False)


class LineShown(Shown):
    """A line with its number masked; null once it is closed."""

    line_id: str = Field(examples=[ID_EXAMPLE])
    number: str | None = Field(examples=["••••••••••8000"])
    carrier: str
    outlet: str
    status: Literal["active", "disputed", "closed"]
    opened_at: datetime
    closed_at: datetime | None


class LinesAnswer(Shown):
    """The lines under a document over all carriers, to its holder's face.

    Any other face gets the same answer whether or not somebody holds the document.
    """

    is_holder: bool
    score: float | None = Field(description="null where the face is not the holder's")
    threshold: float
    lines: list[LineShown]


class DisputeAnswer(Shown):
    """The case that people will decide; disputed again, it is the same."""

    case_id: str = Field(examples=[ID_EXAMPLE])
    line_id: str
    opened_at: datetime


class ClosedLineAnswer(Shown):
    line_id: str
    status: Literal["closed"]
