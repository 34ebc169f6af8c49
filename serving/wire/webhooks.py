"""Wire types of events, in the form of CloudEvents 1.0, and of webhooks: where they are sent."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from schema.events import EventType, WebhookState
from serving.wire.fields import (
    ID_EXAMPLE,
    PAGE,
    AnswerBody,
    Code,
    Id,
    Limit,
    Moment,
    PrivateAnswer,
    QueryString,
    RequestBody,
    about,
    known,
)

MOST_EVENTS = 500
ShownType = Annotated[str, known(*EventType)]


Place = Annotated[str, Meta(max_length=128, pattern="^[A-Za-z0-9_=-]+$")]
"""In the feed, of this carrier alone; it reads differently each time."""


class EventQuery(QueryString):
    """Events beyond `after`, in their order."""

    after: Annotated[Place, about("`next` of the page before; 0: all")] = "0"
    limit: Annotated[int, Meta(ge=1, le=MOST_EVENTS)] = 100
    type: ShownType | None = None


class Event(AnswerBody):
    """What happened to `subject`, whose id it is: of an enrollment, a line, a case, a sweep, a
    campaign or a document. Whoever may read that reads more by its id."""

    specversion: Annotated[str, known("1.0")]
    id: Id
    source: Annotated[str, about("this deployment")]
    type: ShownType
    subject: Id
    time: Moment
    datacontenttype: Annotated[str, known("application/json")]
    data: dict[str, Any]


class Events(AnswerBody):
    """A page of the feed, and where it goes on; after one that is not full ask again later."""

    events: tuple[Event, ...]
    next: Annotated[str, about("of this carrier alone, and another each time")]


MAX_SINK_LENGTH, MAX_TYPES, MAX_EVENTS = 1_000, 50, 500

Sink = Annotated[str, about("a public https address", min_length=1, max_length=MAX_SINK_LENGTH)]
Types = Annotated[tuple[ShownType, ...], about("empty: events of every type", max_length=MAX_TYPES)]
ShownState = Annotated[str, known(*WebhookState)]
Secret = Annotated[str, about("signs what is sent, by Standard Webhooks; it is not told again")]


class NewWebhook(RequestBody):
    """Where events are to be sent."""

    sink: Sink
    types: Types = ()
    carrier: Annotated[
        Code | None, about("whose events, for operators; null: all. A carrier's key: its own")
    ] = None


class ChangedWebhook(RequestBody):
    """What is to be another from now on; null leaves it as it is."""

    sink: Sink | None = None
    types: Types | None = None
    state: Literal["active", "paused"] | None = None


class Replay(RequestBody):
    """From where on events are delivered again."""

    after: Annotated[Place, about("`next` of a page of the feed; 0: all there is")]


class AskedAgain(RequestBody):
    """Which dead letters are tried again."""

    events: Annotated[
        tuple[Annotated[str, Meta(max_length=36, examples=[ID_EXAMPLE])], ...],
        about("by their ids; empty: all", max_length=MAX_EVENTS),
    ] = ()


class Webhook(PrivateAnswer):
    """Where events are sent, and how many have not arrived there."""

    webhook_id: Id
    sink: str
    types: Types
    carrier: Annotated[str | None, about("null: events of all carriers")]
    state: Annotated[ShownState, about("gone: the receiver has answered 410")]
    created_at: Moment
    earlier_secret_until: Annotated[
        Moment | None, about("until then the secret before the last rotation signs too")
    ]
    waiting: Annotated[int, about("events that were not taken yet, 100,000 at most")]
    oldest_at: Annotated[Moment | None, about("of the first of them")]
    dead: Annotated[int, about("events that are tried no more")]


class Webhooks(PrivateAnswer):
    """All webhooks that the caller may see, the oldest first."""

    webhooks: tuple[Webhook, ...]


class WebhookSecret(PrivateAnswer):
    """A webhook with its new secret."""

    webhook: Webhook
    secret: Secret


class RemovedWebhook(AnswerBody):
    """A webhook that is no more."""

    webhook_id: Id


class DeadQuery(QueryString):
    """Dead letters beyond `after`, in the order of events."""

    after: Annotated[Place, about("`next` of the page before")] = "0"
    limit: Limit = PAGE


class DeadLetter(AnswerBody):
    """An event that is tried no more, and why the last attempt failed."""

    event: Event
    attempts: int
    fault: str | None


class DeadLetters(AnswerBody):
    """A page of the dead letters of a webhook, whose events have not left."""

    dead_letters: tuple[DeadLetter, ...]
    next: str | None


class AskedExample(RequestBody):
    """An example to be sent to a webhook."""

    type: ShownType


class SentExample(PrivateAnswer):
    """An example as it was sent, once; its ids are of nothing."""

    event: Event
    fault: Annotated[str | None, about("why it was not taken; null: it was")]


class Revived(AnswerBody):
    """How many dead letters are tried again."""

    count: int
