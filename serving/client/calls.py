"""One call of the service: what to send where, and what the answer is."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Generic, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from schema.cases import Outcome
from serving.wire import cases, enrollments, matching, oversight
from serving.wire.fields import Moment, RequestBody, Template, encode_msgpack

T = TypeVar("T")

ACCEPTED = 202
Query = dict[str, str | int | None]


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A call, sent as MessagePack; in `answered` statuses the body that comes is an `answer`.

    A call that `is_repeatable` may be sent again: an enrollment has its key, the rest store nothing
    or come to the same.
    """

    method: str
    path: str = field(repr=False)
    answer: type[T]
    content: bytes | None = field(default=None, repr=False)
    idempotency_key: str | None = None
    answered: frozenset[int] = frozenset({200, 201})
    accepted: type[T] | None = None
    """What comes with 202, where the service may only acknowledge the call."""
    is_repeatable: bool = True

    def find_answer(self, status: int) -> type[T] | None:
        """The type of this status's body; None where it is no answer."""
        if status == ACCEPTED:
            return self.accepted
        return self.answer if status in self.answered else None


def get(answer: type[T], *steps: str, **query: str | float | None) -> Call[T]:
    """The steps of a path below `/v1`; of the query, what is None is left out."""
    asked = {name: value for name, value in query.items() if value is not None}
    return Call("GET", _path(steps) + (f"?{urlencode(asked)}" if asked else ""), answer)


def post(
    answer: type[T], *steps: str, body: RequestBody | None = None, key: str | None = None
) -> Call[T]:
    content = None if body is None else encode_msgpack(body)
    return Call("POST", _path(steps), answer, content, key)


def post_once(answer: type[T], *steps: str, body: RequestBody | None = None) -> Call[T]:
    """A call that must not be sent again: each time it comes to something else."""
    return replace(post(answer, *steps, body=body), is_repeatable=False)


def patch(answer: type[T], *steps: str, body: RequestBody) -> Call[T]:
    return Call("PATCH", _path(steps), answer, encode_msgpack(body))


def ask_camara(answer: type[T], operation: str, body: RequestBody) -> Call[T]:
    """An operation of CAMARA's SIM swap."""
    return Call("POST", f"/camara/sim-swap/v2/{operation}", answer, encode_msgpack(body))


def delete(answer: type[T], *steps: str, accepted: type[T] | None = None) -> Call[T]:
    return Call("DELETE", _path(steps), answer, accepted=accepted)


def _path(steps: Sequence[str]) -> str:
    """Each step is one, whatever its text holds."""
    if not {"", ".", ".."}.isdisjoint(steps):
        raise ValueError("give the id, or the number, of what is meant")
    return "/".join(("/v1", *(quote(step, safe="") for step in steps)))


VERSION = Call("GET", "/version", oversight.Version)
# Not being ready is an answer, too.
READY = Call("GET", "/health/ready", oversight.Readiness, answered=frozenset({200, 503}))

Face = bytes | Template | Sequence[bytes] | matching.Face
"""A photograph's file (JPEG, JPEG 2000, PNG, WebP, a document's record), up to eight frames of one
face, a template, or any as the wire type, which also tells what kind of photograph it is."""


def write_face(face: Face) -> matching.Face:
    if isinstance(face, matching.Face):
        return face
    if isinstance(face, Template):
        return matching.Face(template=face)
    return matching.Face(image=face if isinstance(face, bytes) else tuple(face))


def write_outcome(
    outcome: Outcome, close_lines: Sequence[str], seen_at: datetime, keep_lines: bool
) -> cases.OutcomeRequest:
    return cases.OutcomeRequest(outcome, Moment.of(seen_at), tuple(close_lines), keep_lines)


class Activation(enrollments.EnrollmentRequest, frozen=True, kw_only=True):
    """One activation attempt. `captured_at` has a time zone.

    `idempotency_key` is there before anything is sent: keep it, and an activation that was cut
    short is asked for again, or found, by it. An outlet's own key may leave out `outlet`.
    """

    captured_at: datetime  # type: ignore[assignment]  # any: `write` makes it a `Moment`
    idempotency_key: str = msgspec.field(default_factory=lambda: str(uuid.uuid4()))

    def write(self) -> enrollments.EnrollmentRequest:
        fields = msgspec.structs.asdict(self) | {"captured_at": Moment.of(self.captured_at)}
        del fields["idempotency_key"]
        return enrollments.EnrollmentRequest(**fields)


@dataclass(frozen=True, slots=True)
class MatchItem:
    """A probe against a reference (1:1), against the gallery (`search`), or both."""

    probe: Face = field(repr=False)
    reference: Face | None = field(default=None, repr=False)
    search: bool = False
    id: str | None = None

    def write(self) -> matching.MatchItem:
        reference = None if self.reference is None else write_face(self.reference)
        return matching.MatchItem(
            id=self.id, probe=write_face(self.probe), reference=reference, search=self.search
        )
