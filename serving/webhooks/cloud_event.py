"""Events in the form of CloudEvents 1.0, as the feed shows them and webhooks are sent them."""

from __future__ import annotations

from engine.registry.events import Event
from serving.wire import events
from serving.wire.fields import Moment


def show_event(record: Event, deployment_id: str) -> events.Event:
    """An event as CloudEvents 1.0 has it."""
    return events.Event(
        specversion="1.0",
        id=record.id,
        source=f"urn:uuid:{deployment_id}",
        type=record.type.value,
        subject=record.subject,
        time=Moment.of(record.at),
        datacontenttype="application/json",
        data=dict(record.data),
    )
