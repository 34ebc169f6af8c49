"""The audit chain: who did what, and whether nothing of it was altered."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from serving.api.schemas.fields import Shown, Text
from serving.api.schemas.paging import PAGE, Asked, Limit

MAX_NUMBER = 2**53 - 1
MOST_VERIFIED = 20_000
"""About a second and a half of one core, which answers others meanwhile."""

Number = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Exact = Annotated[Text, Field(min_length=1, max_length=200)]


class AuditAsked(Asked):
    """Entries above a number, in the order of the chain; without one the newest."""

    limit: Limit = PAGE
    after: Number | None = None
    action: Exact | None = None
    actor: Exact | None = None
    subject: Exact | None = None


class ChainAsked(Asked):
    """Where to go on: `next` of the answer before."""

    after: Number = 0


class AuditEntryShown(Shown):
    """One entry; `detail` holds ids, codes, counts and scores, never a name."""

    number: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]
    hash: str = Field(description="keyed, over this entry and the hash before it; hexadecimal")


class AuditAnswer(Shown):
    """A page of the chain, in its order; `head` is the number of its newest entry."""

    entries: list[AuditEntryShown]
    head: int
    next: int | None = Field(description="`after` of the next page; null on the last")


class ChainAnswer(Shown):
    """Whether the entries above `after`, up to `verified_to`, are as they were written.

    The chain is whole where every part from 0 on is intact, and the last has `next` null.
    """

    intact: bool
    after: int
    verified_to: int
    first_bad: int | None = Field(description="number of the first entry that is not as it was")
    head: int
    next: int | None = Field(description="`after` of the next part; null at the end")
