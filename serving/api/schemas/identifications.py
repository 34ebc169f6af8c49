"""1:N for fraud teams: whose references look like a face, and what stands in their names."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import ConfigDict, Field

from serving.api.fields import IMAGE_EXAMPLE, Body, Shown
from serving.api.schemas.lines import LineShown
from serving.api.schemas.matching import ExpectedFalseCandidates, Face

MAX_CANDIDATES = 50


class IdentificationBody(Body):
    """A probe; a threshold below the deployment's for review is refused."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"probe": {"image": IMAGE_EXAMPLE}, "threshold": 0.6}]}
    )

    probe: Face = Field(repr=False)
    threshold: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)] | None = Field(
        default=None, description="the deployment's threshold for review where not given"
    )


class OpenCase(Shown):
    id: str
    kind: str
    score: float | None
    opened_at: datetime


class IdentifiedHolder(Shown):
    """The holder of one document; `score` is that of its best reference."""

    document_id: str
    document_status: str
    score: float
    lines: list[LineShown] = Field(description="in use, of all carriers")
    cases: list[OpenCase] = Field(description="open ones that name the document, newest first")


class IdentificationAnswer(Shown):
    """Every holder at or above the threshold; an empty list is a true "nobody"."""

    candidates: list[IdentifiedHolder] = Field(
        description=f"best first, one for each document, {MAX_CANDIDATES} at most"
    )
    found: int = Field(description="documents, listed or not")
    searched: int = Field(description="references in the gallery that was searched")
    gallery_sequence: int
    threshold: float
    expected_false_candidates: ExpectedFalseCandidates | None
