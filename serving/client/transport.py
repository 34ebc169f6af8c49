"""One call, what to send where and what the answer is, and its retries, without any input or
output; and why a call has no answer."""

import math
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from datetime import datetime
from typing import Generic, TypeVar
from urllib.parse import quote, urlencode

import httpx
import msgspec

from schema import frozen
from serving.wire import enrollments, matching, oversight
from serving.wire.fields import (
    Error,
    Moment,
    RequestBody,
    Template,
    decode_json,
    decode_msgpack,
    encode_msgpack,
)

T = TypeVar("T")

ACCEPTED = 202
Asked = str | float | Sequence[str] | None
Body = RequestBody | None
Query = dict[str, Asked]


@frozen
class Call(Generic[T]):
    """A call, sent as MessagePack; in `answered` statuses the body that comes is an `answer`. One
    that `is_repeatable` stores nothing, has its key, or comes to the same."""

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


def get(answer: type[T], *steps: str, **query: Asked) -> Call[T]:
    """The steps of a path below `/v1`; of the query, what is None or False is left out."""
    given = {name: "true" if value is True else value for name, value in query.items()}
    asked = {name: value for name, value in given.items() if not (value is None or value is False)}
    return Call("GET", _path(steps) + (f"?{urlencode(asked, doseq=True)}" if asked else ""), answer)


def post(answer: type[T], *steps: str, body: Body = None, key: str | None = None) -> Call[T]:
    content = None if body is None else encode_msgpack(body)
    return Call("POST", _path(steps), answer, content, key)


def post_once(answer: type[T], *steps: str, body: Body = None) -> Call[T]:
    """A call that must not be sent again: each time it comes to something else."""
    return replace(post(answer, *steps, body=body), is_repeatable=False)


def patch(answer: type[T], *steps: str, body: RequestBody) -> Call[T]:
    return Call("PATCH", _path(steps), answer, encode_msgpack(body))


def ask_camara(answer: type[T], operation: str, body: RequestBody) -> Call[T]:
    """An operation of CAMARA's SIM swap."""
    return Call("POST", f"/camara/sim-swap/v2/{operation}", answer, encode_msgpack(body))


def delete(answer: type[T], *steps: str) -> Call[T]:
    return Call("DELETE", _path(steps), answer)


Erased = enrollments.ErasureCertificate | enrollments.Erasure


def ask_erasure(method: str, *steps: str) -> Call[Erased]:
    """An erasure of what stands under a document, or its acknowledgement."""
    path = _path(("documents", *steps))
    return Call(method, path, enrollments.ErasureCertificate, accepted=enrollments.Erasure)


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


@frozen
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


MSGPACK, JSON = "application/msgpack", "application/json"
DECODERS = {MSGPACK: decode_msgpack, JSON: decode_json}
UNREADABLE = (ValueError, RecursionError)
"""What a decoder raises for a body that is not what its type says, or not of the kind asked for."""
CONNECT_S = 5.0
FIRST_WAIT_S, MAX_WAIT_S = 0.1, 5.0
SERVER_SHARE = 0.95
"""Of an attempt's time, for the service: its refusal then comes before the socket's time-out."""

# 408: our own body came too slowly. Others are said by the service, or by a proxy before it.
RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 507})
# Said by the service itself, these come again however often one asks.
FINAL_CODES = frozenset(
    {
        "INTERNAL",
        "CASE.STATE",
        "OUTLET.STATE",
        "LIVENESS.REPLAYED",
        "SWEEP.BUSY",
        "SWEEP.STATE",
        "REQUEST.TOO_MANY_FAILURES",
        "REQUEST.TOO_MANY_SEARCHES",
    }
)
NEVER_SENT = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)


@frozen
class Options:
    """Options of one call.

    `correlator` names it in the logs of both sides and is made where there is none; `timeout_s` is
    the time for all attempts together; `traceparent` is the W3C header of the caller's span.
    """

    correlator: str | None = None
    timeout_s: float | None = None
    traceparent: str | None = None


@frozen
class Trail:
    """The course of a call: what to ask the operator for, and how to ask again.

    `idempotency_key` is None for calls that store nothing. After more than one attempt, an earlier
    one may have been carried out: a line that is closed already is not found.
    """

    correlator: str
    attempts: int
    idempotency_key: str | None = None


class CallFailed(Exception):
    """A call that has no answer; the text names the correlator to look for in the service's log."""

    def __init__(self, text: str, trail: Trail) -> None:
        super().__init__(f"{text} (correlator {trail.correlator}, attempts: {trail.attempts})")
        self.correlator, self.attempts = trail.correlator, trail.attempts
        self.idempotency_key = trail.idempotency_key


class ApiError(CallFailed):
    """The service refused it: `code` is stable, `message` one line for people; `advice`, of a
    photograph, is what to do by language."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        trail: Trail,
        advice: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {message}", trail)
        self.status, self.code, self.message, self.advice = status, code, message, advice


class Unavailable(CallFailed):
    """Nobody could answer in time; the same call, with the same key, may succeed later.

    `status` and `code` are those of the last attempt that was answered, if one was.
    """

    def __init__(
        self, reason: str, trail: Trail, status: int | None = None, code: str | None = None
    ) -> None:
        super().__init__(f"no answer in time, last: {reason}", trail)
        self.status, self.code = status, code


@frozen
class Wait:
    """Send again, after this."""

    seconds: float


class Exchange(Generic[T]):
    """Says what to send, judges what came, until there is an answer or a `CallFailed`.

    `now` is a monotonic clock in seconds.
    """

    def __init__(
        self,
        call: Call[T],
        options: Options,
        api_key: str | None,
        timeout_s: float,
        retries: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._call, self._now = call, now
        self._retries = retries if call.is_repeatable else 0
        self._deadline = now() + (timeout_s if options.timeout_s is None else options.timeout_s)
        self._attempts = 0
        self._correlator = options.correlator or uuid.uuid4().hex
        self._headers = {"accept": MSGPACK, "x-correlator": self._correlator}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        if call.content is not None:
            self._headers["content-type"] = MSGPACK
        if call.idempotency_key is not None:
            self._headers["idempotency-key"] = call.idempotency_key
        if options.traceparent is not None:
            self._headers["traceparent"] = options.traceparent

    @property
    def trail(self) -> Trail:
        return Trail(self._correlator, self._attempts, self._call.idempotency_key)

    def begin_attempt(self) -> tuple[Mapping[str, str], httpx.Timeout]:
        """The headers of the next request, and how long it may take."""
        left_s = max(self._deadline - self._now(), 1e-3)
        # A hung attempt leaves time for another.
        is_last = self._attempts >= self._retries
        attempt_s = left_s if is_last else left_s / 2
        self._attempts += 1
        limit_ms = max(int(attempt_s * SERVER_SHARE * 1e3), 1)
        headers = {**self._headers, "x-timeout-ms": str(limit_ms)}
        return headers, httpx.Timeout(attempt_s, connect=min(attempt_s, CONNECT_S))

    def judge_failure(self, error: httpx.TransportError) -> Wait:
        """After an attempt that no answer came to; the connection may have broken at any point."""
        if isinstance(error, NEVER_SENT):
            raise error
        return self._retry(type(error).__name__)

    def judge_response(self, response: httpx.Response) -> T | Wait:
        """After an attempt that was answered, by the service or by whatever lies before it."""
        status, misfit = response.status_code, None
        answer = self._call.find_answer(status)
        is_answered = answer is not None
        if answer is not None:
            try:
                return _decode(response, answer)
            except msgspec.ValidationError as error:
                misfit = str(error)
            except UNREADABLE:
                pass
        try:
            refusal = _decode(response, Error)
        except UNREADABLE:
            return self._judge_foreign(status, misfit, is_answered=is_answered)
        if status in RETRIED and refusal.code not in FINAL_CODES:
            reason = f"{status} {refusal.code}: {refusal.message}"
            return self._retry(reason, status, refusal.code, _read_retry_after(response))
        raise ApiError(status, refusal.code, refusal.message, self.trail, refusal.advice)

    def _judge_foreign(self, status: int, misfit: str | None, *, is_answered: bool) -> Wait:
        """After a body that is neither the answer nor an error of the service."""
        if misfit is not None:
            text = f"{misfit}: the service's version is not one that this client reads"
            raise ApiError(status, "CLIENT.ANSWER_UNREADABLE", text, self.trail)
        # A proxy's own page, or half an answer: nothing that the service said.
        if is_answered or status in RETRIED or status >= 500:
            return self._retry(f"{status} without an answer of the service's", status)
        text = "not an answer of the service: check the base_url"
        raise ApiError(status, "CLIENT.FOREIGN_ANSWER", text, self.trail)

    def _retry(
        self,
        reason: str,
        status: int | None = None,
        code: str | None = None,
        at_least_s: float = 0.0,
    ) -> Wait:
        backoff_s = min(FIRST_WAIT_S * 2 ** (self._attempts - 1), MAX_WAIT_S)
        # Clients that were refused together must not come back together.
        jitter = random.random()  # noqa: S311 (nothing secret)
        wait_s = at_least_s * (1 + jitter / 4) if at_least_s else backoff_s * (0.5 + jitter / 2)
        is_late = self._now() + wait_s >= self._deadline
        if self._attempts > self._retries or is_late:
            raise Unavailable(reason, self.trail, status, code)
        return Wait(wait_s)


def _decode(response: httpx.Response, kind: type[T]) -> T:
    """The body as a `kind`, without fields that this version does not know."""
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in DECODERS:
        raise msgspec.DecodeError("neither MessagePack nor JSON")
    return DECODERS[media_type](response.content, kind)


def _read_retry_after(response: httpx.Response) -> float:
    try:
        seconds = float(response.headers.get("retry-after", "0"))
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
