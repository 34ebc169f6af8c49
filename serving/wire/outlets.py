"""Wire types of outlets: who may enroll nobody and why, and what was enrolled there before."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from schema.actors import Restriction
from schema.people import ExceptionTally
from schema.reasons import Decision
from serving.wire.cases import Actor, AskedState, ShownState
from serving.wire.enrollments import ShownDecision, ShownReason
from serving.wire.fields import (
    PAGE,
    After,
    AnswerBody,
    Code,
    Id,
    Limit,
    Moment,
    NextPage,
    PrivateAnswer,
    QueryString,
    RequestBody,
    known,
)

MAX_REASON_LENGTH = 200

ShownRestriction = Annotated[str, known(*Restriction)]
ReasonText = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_REASON_LENGTH,
        description="in words, without anybody's name: it is shown with the outlet",
    ),
]


class OutletsQuery(QueryString, frozen=True):
    """Which restricted outlets to list; any outlet is read by its code."""

    limit: Limit = PAGE
    after: Annotated[Code | None, Meta(description="`next` of the page before")] = None
    carrier: Code | None = None
    restriction: Restriction | None = None


class RestrictRequest(RequestBody, frozen=True):
    """Why, and the case whose history has it."""

    case_id: Annotated[str, Meta(min_length=36, max_length=36)]
    reason: ReasonText


class LiftRequest(RequestBody, frozen=True):
    """Why it may enroll again; `restriction` is the one that was seen: 409 for another."""

    restriction: Restriction
    reason: ReasonText


class OutletLiveness(AnswerBody, frozen=True):
    """Liveness results of an outlet's requests in the last `days`: those that capture systems
    signed and those of a judge of the picture, each counted."""

    days: int
    results: int
    failed: int
    absent: Annotated[int, Meta(description="requests that should have brought one and did not")]


class OutletPlace(AnswerBody, frozen=True):
    """An official point of sale."""

    outlet: str
    carrier: str
    is_open: bool


class OutletState(OutletPlace, frozen=True):
    """An outlet. While it is `restriction`ed it enrolls nobody, and attempts are counted."""

    restriction: Annotated[ShownRestriction | None, Meta(description="null: it may enroll")]
    restricted_at: Moment | None
    restricted_by: str | None
    restricted_person: str | None
    restriction_case: str | None
    restriction_reason: str | None
    refused_attempts: Annotated[int, Meta(description="since it was restricted")]
    liveness: OutletLiveness | None = None


class OutletList(AnswerBody, frozen=True):
    """A page of the outlets that may enroll nobody, those with most refused attempts first."""

    outlets: tuple[OutletState, ...]
    next: NextPage


class ExceptionsQuery(QueryString, frozen=True):
    """Since how many days, and of one carrier alone."""

    days: Annotated[int, Meta(ge=1, le=366)] = 30
    carrier: Code | None = None


class OutletExceptions(ExceptionTally, AnswerBody, frozen=True):
    """Exceptions that an outlet has asked for: enrollments without a usable face or portrait."""

    last_at: Moment


class ExceptionCounts(AnswerBody, frozen=True):
    """Outlets that have asked for exceptions, those with most first."""

    outlets: tuple[OutletExceptions, ...]


class PastQuery(QueryString, frozen=True):
    """Which attempts of an outlet to list; `state`, `kind`, `assignee` and `overdue` are of the
    case that an attempt opened, or that went on with it."""

    limit: Limit = PAGE
    after: Annotated[After | None, Meta(description="`next` of the page before")] = None
    sort: Literal["newest", "oldest"] = "newest"
    decision: Decision | None = None
    state: AskedState | Literal["alive"] | None = None
    kind: Code | None = None
    assignee: Actor | None = None
    id_end: Annotated[
        Annotated[str, Meta(min_length=4, max_length=36, pattern="^[0-9a-f-]+$")] | None,
        Meta(description="how the id of the attempt or of its document ends"),
    ] = None
    overdue: bool = False


class PastCase(AnswerBody, frozen=True):
    """The case of an attempt."""

    case_id: Id
    kind: str
    state: ShownState


class PastEnrollment(PrivateAnswer, frozen=True):
    """An attempt at an outlet, with whom its document names, masked."""

    enrollment_id: Id
    decision: ShownDecision
    reasons: tuple[ShownReason, ...]
    decided_at: Moment
    document_id: str | None
    name: Annotated[str, Meta(description="empty where it was erased, or nobody is enrolled")]
    number: Annotated[str, Meta(description="of the line in use that it opened; empty for none")]
    case: PastCase | None


class PastEnrollments(AnswerBody, frozen=True):
    """A page of an outlet's attempts. Imported subscribers have none."""

    enrollments: tuple[PastEnrollment, ...]
    next: NextPage
