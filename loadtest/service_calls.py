"""The requests of a load test, the access to the service that they need, what an answer says, and
what the plan expects of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from typing import Any

import msgpack

from loadtest.errors import LoadTestRefused
from loadtest.exchange import (
    LOST,
    NOT_STARTED,
    OVERDUE,
    UNREADABLE,
    ConnectionPool,
    Keys,
    ModelClient,
    Reply,
    Thresholds,
)
from loadtest.participants import MARGIN, Passport, PhotographPair, SpecimenNumbers

ENROLLMENTS, MATCHES = "/v1/enrollments", "/v1/match"
QUERIES, SEARCHES = "/v1/lines/query", "/v1/identifications"


@dataclass(frozen=True, slots=True)
class Call:
    """One request; with `needs_fraud` it takes the fraud key, else the enroll key. An enrollment
    has an `idempotency_key`, and the `pair` of photographs that its body shows."""

    path: str
    body: dict[str, Any] = field(repr=False)
    needs_fraud: bool = False
    idempotency_key: str | None = None
    pair: PhotographPair | None = None

    def write(self, outlet: str | None, captured_at: str) -> dict[str, Any]:
        """The body, of an enrollment for photographs of that moment; `outlet` is None for an
        outlet's own key."""
        if self.pair is None:
            return self.body
        body = {**self.body, "captured_at": captured_at}
        return body if outlet is None else {**body, "outlet": outlet}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.idempotency_key is None else {"Idempotency-Key": self.idempotency_key}


def enroll(key: str, passport: Passport, pair: PhotographPair, msisdn: str) -> Call:
    """An enrollment with two photographs."""
    body = {
        "document": passport.for_enrollment(),
        "msisdn": msisdn,
        "live": pair.live.photograph,
        "portrait": pair.portrait.photograph,
        "consent_ref": "loadtest",
    }
    return Call(ENROLLMENTS, body, idempotency_key=key, pair=pair)


def match(probe: bytes, reference: bytes) -> Call:
    """A comparison of two templates."""
    face = {"probe": {"template": probe}, "reference": {"template": reference}}
    return Call(MATCHES, {"items": [face]})


def query(passport: Passport, photograph: bytes) -> Call:
    """A query for the lines of a document, with a photograph of its holder."""
    return Call(QUERIES, {"document": passport.for_query(), "probe": {"image": photograph}})


def search(photograph: bytes) -> Call:
    """A search of the gallery for a face."""
    return Call(SEARCHES, {"probe": {"image": photograph}}, needs_fraud=True)


@dataclass(frozen=True, slots=True)
class Access:
    """A connection with its API keys; `erase_key` is one that may erase, if there is one."""

    exchange: ConnectionPool
    keys: Keys
    outlet: str | None
    erase_key: str | None = field(repr=False)

    def pack(self, call: Call, captured_at: str) -> bytes:
        """The body of a call, of an enrollment with photographs of that moment."""
        packed: bytes = msgpack.packb(call.write(self.outlet, captured_at))
        return packed

    def send(self, call: Call, body: bytes) -> Reply:
        """Sends a packed call with the key that it needs."""
        key = self.keys.fraud if call.needs_fraud else self.keys.enroll
        return self.exchange.ask("POST", call.path, key, body=body, headers=call.headers)


@dataclass(slots=True)
class Serials:
    """Serial numbers for documents and lines, each used once in a run."""

    numbers: SpecimenNumbers
    _next: count[int] = field(default_factory=count)

    def draw(self) -> int:
        return next(self._next)


def read_version(exchange: ConnectionPool) -> Mapping[str, Any]:
    """Version and model; `LoadTestRefused` at once where no service of ours answers, or one that
    looks at no face."""
    reply = exchange.ask("GET", "/version")
    if reply.status != HTTPStatus.OK or not isinstance(reply.value, Mapping):
        raise LoadTestRefused(f"no service answers at {exchange.target.url}: is it running?")
    if str(reply.value.get("version")).endswith("+sandbox"):
        raise LoadTestRefused(f"{exchange.target.url} is a sandbox, which looks at no face")
    return reply.value


def open_access(exchange: ConnectionPool, keys: Keys, outlet: str | None) -> Access:
    """Checks the roles of the keys; `LoadTestRefused` if they cannot do what the load needs."""
    if _read_role(exchange, keys.fraud) != "fraud":
        raise LoadTestRefused("the fraud key must be of role fraud")
    role = _read_role(exchange, keys.enroll)
    if role not in ("outlet", "carrier"):
        raise LoadTestRefused("the enroll key must be of role outlet or carrier")
    if role == "carrier" and outlet is None:
        raise LoadTestRefused("a carrier's key enrolls for an outlet: give --outlet CODE")
    if keys.erase is not None and _read_role(exchange, keys.erase) not in ("carrier", "operator"):
        raise LoadTestRefused("the erase key must be of role carrier or operator")
    erase_key = keys.erase or (keys.enroll if role == "carrier" else None)
    return Access(exchange, keys, outlet, erase_key)


def _read_role(exchange: ConnectionPool, key: str) -> str:
    return str(ModelClient(exchange, key).ask("GET", "/v1/me")["role"])


APPROVED, REVIEW, REJECTED = "approved", "review", "rejected"
CERTAIN, POSSIBLE = "DUPLICATE_IDENTITY", "POSSIBLE_DUPLICATE"
STOLEN = "DOCUMENT_HELD_BY_ANOTHER_FACE"
MISMATCH, IN_FLIGHT = "REQUEST.IDEMPOTENCY_MISMATCH", "REQUEST.IN_FLIGHT"
_NAMES = {
    LOST: "connection lost",
    OVERDUE: "no answer in time",
    NOT_STARTED: "not started in time",
    UNREADABLE: "not an answer of this service",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The kept part of a reply: no name, no phone number, no face."""

    status: int
    code: str = ""
    is_refusal: bool = False
    """A 429 with Retry-After."""
    decision: str | None = None
    reasons: tuple[str, ...] = ()
    enrollment_id: str | None = None
    document_id: str | None = None
    is_repeated: bool = False
    review: float | None = None
    """The threshold of the duplicate search: who is like enough scores at least this."""
    is_positive: bool | None = None
    """Of a 1:1 comparison or a query: whether it is this person."""
    lines: int = 0
    found: Mapping[str, float] = field(default_factory=dict)
    """Scores of a search, by document."""

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_mismatch(self) -> bool:
        """The key belongs to another payload."""
        return self.status == 422 and self.code == MISMATCH

    @property
    def is_in_flight(self) -> bool:
        """The first request with this key has not been decided yet."""
        return self.status == 409 and self.code == IN_FLIGHT

    @property
    def is_duplicate(self) -> bool:
        return CERTAIN in self.reasons or POSSIBLE in self.reasons

    def describe(self) -> str:
        """A text for reports, of codes and counts only."""
        if not self.is_good:
            return f"{_NAMES.get(self.status, self.status)} {self.code}".strip()
        if self.decision is not None:
            again = ("again",) if self.is_repeated else ()
            return " ".join((self.decision, *self.reasons, *again))
        if self.is_positive is not None:
            return f"{'yes' if self.is_positive else 'no'}, {self.lines} numbers"
        return f"{len(self.found)} found"


def read_answer(reply: Reply) -> Answer:
    """Reads a reply; a body of another form than its path promises is `UNREADABLE`."""
    refusal = reply.status == 429 and reply.has_retry_after
    if not 200 <= reply.status < 300:
        return Answer(reply.status, reply.code, refusal)
    try:
        return _read(reply.status, reply.value)
    except (KeyError, TypeError, ValueError, IndexError):
        return Answer(UNREADABLE)


def _read(status: int, value: Any) -> Answer:
    if "decision" in value:
        reasons = tuple(dict.fromkeys(str(item["reason"]) for item in value["reasons"]))
        return Answer(
            status,
            decision=str(value["decision"]),
            reasons=reasons,
            enrollment_id=str(value["enrollment_id"]),
            document_id=value["document_id"],
            is_repeated=bool(value["is_repeated"]),
            review=float(value["thresholds"]["review"]),
        )
    if "items" in value:
        [item] = value["items"]
        if "error" in item:
            return Answer(UNREADABLE, str(item["error"]["code"]))
        return Answer(status, is_positive=bool(item["verification"]["is_match"]))
    if "is_holder" in value:
        return Answer(status, is_positive=bool(value["is_holder"]), lines=len(value["lines"]))
    found = {str(one["document_id"]): float(one["score"]) for one in value["candidates"]}
    return Answer(status, found=found)


@dataclass(frozen=True, slots=True)
class ExpectedAnswer:
    """The answer that one visit must get: in words, and whether a good answer fits."""

    text: str
    fits: Callable[[Answer], bool] = field(repr=False, compare=False)


def expect_decision(*allowed: tuple[str, str | None]) -> ExpectedAnswer:
    """One of these decisions, each with a reason that must be among its reasons."""

    def fits(answer: Answer) -> bool:
        return any(
            answer.decision == decision and (reason is None or reason in answer.reasons)
            for decision, reason in allowed
        )

    return ExpectedAnswer(" or ".join(" ".join(filter(None, one)) for one in allowed), fits)


def expect_lines(least: int) -> ExpectedAnswer:
    """A 1:1 match that shows at least so many lines."""
    shown = f", {least} numbers or more" if least else ""
    return ExpectedAnswer(
        f"yes{shown}", lambda answer: answer.is_positive is True and answer.lines >= least
    )


def expect_found(document_id: str) -> ExpectedAnswer:
    """A search that finds this document."""
    return ExpectedAnswer("the planted document found", lambda answer: document_id in answer.found)


NEW = expect_decision((APPROVED, None))
IMPOSTOR_REJECTED = expect_decision((REJECTED, STOLEN))
NOT_RECOGNISED = ExpectedAnswer(
    "no, no numbers", lambda answer: answer.is_positive is False and not answer.lines
)
NOBODY_FOUND = ExpectedAnswer("nobody found", lambda answer: not answer.found)


def expect_duplicate(fused_score: float, thresholds: Thresholds) -> ExpectedAnswer:
    """Above the certain threshold only a rejection will do; below it, review will do as well, since
    a stronger look-alike may be found."""
    if fused_score < thresholds.certain + MARGIN:
        return expect_decision((REJECTED, CERTAIN), (REVIEW, POSSIBLE))
    return expect_decision((REJECTED, CERTAIN))
