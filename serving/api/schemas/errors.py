"""How every error is answered."""

from __future__ import annotations

from pydantic import Field

from serving.api.schemas.fields import Shown


class ErrorAnswer(Shown):
    """An error: `code` is stable, `message` one line for people, without anything personal."""

    status: int = Field(ge=400, le=599, examples=[422])
    code: str = Field(examples=["MATCH.NO_FACE"])
    message: str
