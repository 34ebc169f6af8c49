"""Lists that are read page by page: what a query asks, where the next page begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from serving.api.schemas.fields import Text

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
