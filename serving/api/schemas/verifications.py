"""1:1: a face against another, against a line's holder, or against a document's."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from serving.api.fields import IMAGE_EXAMPLE, Body, Shown, Text
from serving.api.schemas.documents import KnownDocument
from serving.api.schemas.matching import Face

LineText = Annotated[Text, Field(min_length=1, max_length=64, description="its number or its id")]


class VerificationBody(Body):
    """A probe, and exactly one of `reference`, `line`, `document` and `document_id`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"probe": {"image": IMAGE_EXAMPLE}, "reference": {"image": IMAGE_EXAMPLE}},
                {"probe": {"image": IMAGE_EXAMPLE}, "line": "+8613800138000"},
            ]
        }
    )

    probe: Face = Field(repr=False)
    reference: Face | None = Field(default=None, repr=False)
    line: LineText | None = Field(default=None, repr=False)
    document: KnownDocument | None = None
    document_id: Annotated[Text, Field(min_length=1, max_length=64)] | None = None

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        given = (self.reference, self.line, self.document, self.document_id)
        if sum(one is not None for one in given) != 1:
            raise ValueError("give exactly one of reference, line, document and document_id")
        return self


class VerificationAnswer(Shown):
    """A match at `score >= threshold`; a null score where the holder has no reference."""

    is_match: bool
    score: float | None
    threshold: float
    document_id: str | None = Field(description="null between two faces")
    line_id: str | None
