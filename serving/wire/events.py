"""Wire types of events, in the form of CloudEvents 1.0."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from serving.wire.fields import AnswerBody, Id, Moment, QueryString, known

MOST_EVENTS = 500
EventType = Annotated[
    str,
    known(
        "enrollment.decided",
        "line.opened",
        "line.disputed",
        "line.restored",
        "line.closed",
        "line.moved",
        "line.move_asked",
        "case.opened",
        "case.closed",
        "case.merged",
        "watchlist.hit",
        "sweep.finished",
        "erasure.done",
        "line.sim_swap",
        "line.device_change",
        "line.port_in",
        "line.port_out",
        "line.transfer",
        "line.esim_download",
        "line.reverify_asked",
        "line.reverified",
        "line.reverify_failed",
        "line.overdue",
        "line.pending",
        "line.suspended_outgoing",
        "line.suspended",
        "line.unsuspended",
        "campaign.ended",
    ),
]


Place = Annotated[str, Meta(max_length=128, pattern="^[A-Za-z0-9_=-]+$")]
"""In the feed, of this carrier alone; it reads differently each time."""


class EventQuery(QueryString, frozen=True):
    """Events beyond `after`, in their order."""

    after: Annotated[Place, Meta(description="`next` of the page before; 0: all")] = "0"
    limit: Annotated[int, Meta(ge=1, le=MOST_EVENTS)] = 100
    type: EventType | None = None


class Event(AnswerBody, frozen=True):
    """What happened to `subject`, whose id it is: of an enrollment, a line, a case, a sweep, a
    campaign or a document. Whoever may read that reads more by its id."""

    specversion: Annotated[str, known("1.0")]
    id: Id
    source: Annotated[str, Meta(description="this deployment")]
    type: EventType
    subject: Id
    time: Moment
    datacontenttype: Annotated[str, known("application/json")]
    data: dict[str, Any]


class Events(AnswerBody, frozen=True):
    """A page of the feed, and where it goes on; after one that is not full ask again later."""

    events: tuple[Event, ...]
    next: Annotated[str, Meta(description="of this carrier alone, and another each time")]
