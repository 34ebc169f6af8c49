"""Fields that several bodies have, and the two kinds of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from engine.matching.requests import is_storable

ID_EXAMPLE = "0198c2a4-7c1e-7b52-9d0c-3f4b6f6f6f10"
HOLDER_EXAMPLE = "9f2c4e0b71d85a36c8e1f4072b6d9a53"
IMAGE_EXAMPLE = "/9j/4AAQSkZJRgABAQAAAQABAAD/2Q=="


class Body(BaseModel):
    """What a client sends: nothing unforeseen in it, and nothing of it in an error."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Shown(BaseModel):
    """What an answer holds. Later versions may add to it: clients ignore what they don't know."""

    model_config = ConfigDict(frozen=True)


def _require_text(text: str) -> str:
    if not is_storable(text):
        raise ValueError("holds characters that are no text")
    return text


def _read_moment(value: Any) -> Any:
    if isinstance(value, datetime):
        return value
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError("not a moment: write it as 2026-01-31T12:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError("has no time zone: write it as 2026-01-31T12:00:00Z")
    return moment


def _read_day(value: Any) -> Any:
    if type(value) is date:
        return value
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError("not a day: write it as 2031-01-31") from None


Text = Annotated[str, AfterValidator(_require_text)]
Code = Annotated[Text, Field(min_length=1, max_length=64)]
Msisdn = Annotated[
    Text, Field(min_length=1, max_length=64, description="a telephone number, +<country><number>")
]
Moment = Annotated[
    datetime,
    BeforeValidator(_read_moment),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Day = Annotated[
    date, BeforeValidator(_read_day), WithJsonSchema({"type": "string", "format": "date"})
]


# Lists that are read page by page: what a query asks, where the next page begins.

T = TypeVar("T")

MAX_PAGE = 200
PAGE = 50

Limit = Annotated[int, Field(ge=1, le=MAX_PAGE, description="how many at most")]
After = Annotated[Text, Field(min_length=1, max_length=64, description="`next` of the page before")]


class Asked(BaseModel):
    """A query string: a name that is not known is refused, or a filter would be lost by a slip."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class PageAsked(Asked):
    """One page of a list."""

    limit: Limit = PAGE
    after: After | None = None


def tell_next(page: Sequence[T], limit: int, place_of: Callable[[T], Any]) -> Any:
    """Where the next page begins; None where this one is the last.

    A page that is just full may be followed by one with nothing in it.
    """
    return place_of(page[-1]) if len(page) == limit else None


# How every error is answered.


class ErrorAnswer(Shown):
    """An error: `code` is stable, `message` one line for people, without anything personal."""

    status: int = Field(ge=400, le=599, examples=[422])
    code: str = Field(examples=["MATCH.NO_FACE"])
    message: str
