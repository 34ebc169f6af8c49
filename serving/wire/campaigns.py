"""Campaigns: holders of many lines asked for by a deadline."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from serving.wire.fields import (
    MAX_PAGE,
    AnswerBody,
    Code,
    Id,
    Moment,
    QueryString,
    RequestBody,
    known,
)

MOST_LINES = 1_000
Then = Literal["suspended_outgoing", "suspended", "closed"]
Duration = Annotated[str, Meta(max_length=8, description="90m, 2h, 30d", examples=["30d"])]
LineState = Literal["asked", "verified", "overdue", "left"]


class ChosenLines(RequestBody, frozen=True, kw_only=True):
    """Lines in use of the carrier that all of this holds for; empty: all of them."""

    outlet: Code | None = None
    opened_before: Moment | None = None
    opened_after: Moment | None = None


class CampaignRequest(RequestBody, frozen=True, kw_only=True):
    """A campaign. At the deadline a line whose holder has not come is overdue, and `then`; `after`
    that it is `then2` or `last`, and `after2` that `last`. Without `chosen` its lines are given by
    `POST /v1/campaigns/{campaign_id}/lines`."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    deadline: Moment
    carrier: Annotated[Code | None, Meta(description="for operators: whose lines")] = None
    chosen: ChosenLines | None = None
    then: Then | None = None
    after: Duration | None = None
    then2: Then | None = None
    after2: Duration | None = None
    last: Then | None = None


class CampaignLinesRequest(RequestBody, frozen=True):
    """Lines by number or id; those that a campaign has already stay as they are."""

    lines: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...],
        Meta(min_length=1, max_length=MOST_LINES),
    ]


class AddedLines(AnswerBody, frozen=True):
    """How many are new to the campaign, and the places of those that are no line in use of its
    carrier."""

    added: int
    unknown: tuple[int, ...]


class CampaignProgress(AnswerBody, frozen=True):
    """How many lines are how far; those that were closed before their holder came have left."""

    asked: int
    verified: int
    overdue: int
    left: int


class Campaign(AnswerBody, frozen=True):
    """A campaign and how far it is; while it is `filling` lines are still being added, and once it
    was `ended` none are."""

    campaign_id: Id
    name: str
    carrier: str
    state: Annotated[str, known("filling", "running", "ended")]
    deadline: Moment
    created_at: Moment
    progress: CampaignProgress


class Campaigns(AnswerBody, frozen=True):
    """The newest twenty."""

    campaigns: tuple[Campaign, ...]


class CampaignLinesQuery(QueryString, frozen=True):
    """Lines of a campaign in one state, by id."""

    state: LineState = "overdue"
    after: Annotated[Id | None, Meta(description="`next` of the page before")] = None
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = MAX_PAGE


class CampaignLine(AnswerBody, frozen=True):
    """A line of a campaign, and when it came into this state."""

    line_id: Id
    at: Moment


class CampaignLines(AnswerBody, frozen=True):
    """A page; `next` is null on the last one."""

    lines: tuple[CampaignLine, ...]
    next: Id | None
