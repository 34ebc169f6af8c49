"""Enrollments as HTTP requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.counter import OUTLET
from bench.serving.people import Person
from bench.serving.wire import SERIAL_PLACE, Caller, Request
from engine.registry.records import utc_now

PATH = "/v1/enrollments"
KEY_HEADER = "Idempotency-Key"
CONSENT = "bench"


def write_visit(person: Person, msisdn: str) -> dict[str, Any]:
    """The body of an enrollment."""
    document = person.document
    return {
        "outlet": OUTLET,
        "document": {"type": document.type, "number": document.number, "name": document.name},
        "msisdn": msisdn,
        "live": person.live,
        "portrait": person.portrait,
        "consent_ref": CONSENT,
        "captured_at": utc_now().isoformat(),
    }


def write_visits(caller: Caller, people: Sequence[Person], name: str) -> tuple[Request, ...]:
    """A request a person, who comes as often as it is sent, each time for a number of their own.

    `name` keeps the keys of two loads apart.
    """
    headers = {KEY_HEADER: f"{name}-{SERIAL_PLACE}"}
    return tuple(
        caller.post(PATH, write_visit(person, f"+8613{SERIAL_PLACE}"), headers) for person in people
    )
