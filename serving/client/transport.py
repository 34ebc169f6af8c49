"""One call and its retries, without any input or output: the part that both clients share."""

from __future__ import annotations

import json
import math
import random
import types
import uuid
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from datetime import datetime
from functools import cache
from typing import Any, Generic, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import httpx
import msgpack

from serving.client.calls import Call, Options

# From decoded values to typed answers.

T = TypeVar("T")
Read = Callable[[Any], Any]


def read_answer(kind: type[T], value: object) -> T:
    """`value` as a dataclass; fields that are not known are ignored, `ValueError` for a misfit."""
    made: T = _reader(cast("Any", kind))(value)
    return made


@cache
def _reader(kind: Any) -> Read:
    if is_dataclass(kind):
        return _dataclass_reader(kind)
    return _SPECIAL.get(kind) or _generic_reader(kind) or _plain_reader(kind)


def _generic_reader(kind: Any) -> Read | None:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in {Union, types.UnionType}:
        return _optional_reader(_reader(next(one for one in inner if one is not type(None))))
    if origin is tuple:
        return _tuple_reader(_reader(inner[0]))
    if origin is dict:
        return _dict_reader(_reader(inner[1]))
    return None


def _dataclass_reader(kind: Any) -> Read:
    hints = get_type_hints(kind)
    readers = [(one.name, _reader(hints[one.name])) for one in fields(kind)]
    required = {
        one.name
        for one in fields(kind)
        if one.default is MISSING and one.default_factory is MISSING
    }

    def read(value: Any) -> Any:
        if type(value) is not dict or not required <= value.keys():
            raise ValueError(f"not a {kind.__name__}")
        return kind(**{name: one(value[name]) for name, one in readers if name in value})

    return read


def _optional_reader(inner: Read) -> Read:
    return lambda value: None if value is None else inner(value)


def _tuple_reader(inner: Read) -> Read:
    def read(value: Any) -> Any:
        if type(value) is not list:
            raise ValueError("not a list")
        return tuple(inner(one) for one in value)

    return read


def _dict_reader(inner: Read) -> Read:
    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise ValueError("not an object")
        return {name: inner(one) for name, one in value.items()}

    return read


def _plain_reader(kind: Any) -> Read:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"not of type {kind.__name__}")
        return value

    return read


def _read_moment(value: Any) -> datetime:
    if type(value) is not str:
        raise ValueError("not a moment")
    return datetime.fromisoformat(value)


def _read_float(value: Any) -> float:
    if type(value) not in {float, int}:
        raise ValueError("not a number")
    return float(value)


_SPECIAL: dict[Any, Read] = {datetime: _read_moment, float: _read_float, Any: lambda value: value}


# Why a call has no answer. A text names the correlator to look for in the service's log.


@dataclass(frozen=True, slots=True)
class Trail:
    """How a call went: what to ask the operator for, and how to ask again.

    `idempotency_key` is None for calls that store nothing. After more than one attempt, an earlier
    one may have been carried out: a line that is closed already is not found.
    """

    correlator: str
    attempts: int
    idempotency_key: str | None = None


class CallFailed(Exception):
    """A call that has no answer."""

    def __init__(self, text: str, trail: Trail) -> None:
        super().__init__(f"{text} (correlator {trail.correlator}, attempts: {trail.attempts})")
        self.trail = trail

    @property
    def correlator(self) -> str:
        return self.trail.correlator

    @property
    def attempts(self) -> int:
        return self.trail.attempts

    @property
    def idempotency_key(self) -> str | None:
        return self.trail.idempotency_key


class ApiError(CallFailed):
    """The service refused it: `code` is stable, `message` one line for people."""

    def __init__(self, status: int, code: str, message: str, trail: Trail) -> None:
        super().__init__(f"{status} {code}: {message}", trail)
        self.status, self.code, self.message = status, code, message


class Unavailable(CallFailed):
    """Nobody could answer in time; the same call, with the same key, may succeed later.

    `status` and `code` are those of the last attempt that was answered, if one was.
    """

    def __init__(
        self, reason: str, trail: Trail, status: int | None = None, code: str | None = None
    ) -> None:
        super().__init__(f"no answer in time, last: {reason}", trail)
        self.status, self.code = status, code


MSGPACK = "application/msgpack"
JSON = "application/json"
CONNECT_S = 5.0
FIRST_WAIT_S, MAX_WAIT_S = 0.1, 5.0
SERVER_SHARE = 0.95
"""Of an attempt's time, for the service: its refusal then comes before the socket's time-out."""

# 408: our own body came too slowly. Others are said by the service, or by a proxy before it.
RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 507})
# Said by the service itself, these come again however often one asks.
FINAL_CODES = frozenset({"INTERNAL", "CASE.STATE", "SWEEP.BUSY", "SWEEP.STATE"})
NEVER_SENT = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request to send now, and how long it may take."""

    method: str
    path: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    content: bytes | None = field(repr=False)
    timeout: httpx.Timeout


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    answer: T


@dataclass(frozen=True, slots=True)
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
        *,
        api_key: str | None,
        timeout_s: float,
        retries: int,
        now: Callable[[], float],
    ) -> None:
        self._call, self._now, self._retries = call, now, retries
        self._deadline = now() + (timeout_s if options.timeout_s is None else options.timeout_s)
        self._attempts = 0
        self._correlator = options.correlator or uuid.uuid4().hex
        self._content = None if call.body is None else bytes(msgpack.packb(call.body))
        self._headers = {"accept": MSGPACK, "x-correlator": self._correlator}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        if self._content is not None:
            self._headers["content-type"] = MSGPACK
        if call.idempotency_key is not None:
            self._headers["idempotency-key"] = call.idempotency_key
        if options.traceparent is not None:
            self._headers["traceparent"] = options.traceparent

    @property
    def trail(self) -> Trail:
        return Trail(self._correlator, self._attempts, self._call.idempotency_key)

    def begin_attempt(self) -> Attempt:
        """The next request to send."""
        left_s = max(self._deadline - self._now(), 1e-3)
        # A hung attempt leaves time for another.
        is_last = self._attempts >= self._retries
        attempt_s = left_s if is_last else left_s / 2
        self._attempts += 1
        limit_ms = max(int(attempt_s * SERVER_SHARE * 1e3), 1)
        return Attempt(
            self._call.method,
            self._call.path,
            {**self._headers, "x-timeout-ms": str(limit_ms)},
            self._content,
            httpx.Timeout(attempt_s, connect=min(attempt_s, CONNECT_S)),
        )

    def judge_failure(self, error: httpx.TransportError) -> Wait:
        """After an attempt that no answer came to; the connection may have broken at any point."""
        if isinstance(error, NEVER_SENT):
            raise error
        return self._retry(type(error).__name__)

    def judge_response(self, response: httpx.Response) -> Done[T] | Wait:
        """After an attempt that was answered, by the service or by whatever lies before it."""
        status, value = response.status_code, _decode(response)
        if status in self._call.answered and value is not None and not _is_error(value):
            try:
                return Done(read_answer(self._call.kind, value))
            except ValueError as misfit:
                text = f"{misfit}: the service's version is not one that this client reads"
                raise ApiError(status, "CLIENT.ANSWER_UNREADABLE", text, self.trail) from None
        if not _is_error(value):
            # A proxy's own page, or half an answer: nothing that the service said.
            if status in RETRIED or status in self._call.answered or status >= 500:
                return self._retry(f"{status} without an answer of the service's", status)
            text = "not an answer of the service: check the base_url"
            raise ApiError(status, "CLIENT.FOREIGN_ANSWER", text, self.trail)
        code, message = str(value["code"]), str(value["message"])
        if status in RETRIED and code not in FINAL_CODES:
            return self._retry(
                f"{status} {code}: {message}", status, code, _read_retry_after(response)
            )
        raise ApiError(status, code, message, self.trail)

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


def _decode(response: httpx.Response) -> Any:
    """The body as a plain value; None where it is neither MessagePack nor JSON."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == MSGPACK:
            return msgpack.unpackb(response.content)
        if kind == JSON:
            return json.loads(response.content)
    except (ValueError, msgpack.exceptions.UnpackException):
        pass
    return None


def _is_error(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("code"), str)
        and isinstance(value.get("message"), str)
    )


def _read_retry_after(response: httpx.Response) -> float:
    try:
        seconds = float(response.headers.get("retry-after", "0"))
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
