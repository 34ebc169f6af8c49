"""Events in the form of CloudEvents 1.0, as the feed shows them and webhooks are sent them."""

from __future__ import annotations

from collections.abc import Iterable

from engine.registry.events import Event
from schema.events import EventType
from serving.errors import Malformed
from serving.wire import webhooks
from serving.wire.fields import Moment


def show_event(record: Event, deployment_id: str, carrier: str | None) -> webhooks.Event:
    """An event as CloudEvents 1.0 has it, for a carrier, or for those who see all: cases are theirs
    alone."""
    data = dict(record.data)
    if carrier is not None and record.type is EventType.LINE_REVERIFY_FAILED:
        data["cause"] = "case"
    return webhooks.Event(
        specversion="1.0",
        id=record.id,
        source=f"urn:uuid:{deployment_id}",
        type=record.type.value,
        subject=record.subject,
        time=Moment.of(record.at),
        datacontenttype="application/json",
        data=data,
    )


def read_types(names: Iterable[str]) -> tuple[EventType, ...]:
    """The types of events with these names; `Malformed` for one that is unknown."""
    try:
        return tuple(EventType(one) for one in names)
    except ValueError:
        raise Malformed(f"type of event: unknown; take {', '.join(EventType)}") from None
