"""The requests of a load test, the access to the service that they need, what an answer says, and
what the plan expects of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import field
from datetime import UTC, datetime
from typing import Any

from msgspec import structs

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
    ServiceAddress,
    open_client,
    refusing,
)
from loadtest.participants import MARGIN, PhotographPair
from schema import frozen
from serving.client import Activation, CallFailed, Client
from serving.wire.enrollments import Thresholds
from serving.wire.fields import Document, KnownDocument, RequestBody, encode_msgpack
from serving.wire.lines import HolderRequest
from serving.wire.matching import Face, MatchItem, MatchRequest
from serving.wire.oversight import Version
from serving.wire.people import IdentificationRequest

ENROLLMENTS, MATCHES = "/v1/enrollments", "/v1/match"
QUERIES, SEARCHES = "/v1/lines/query", "/v1/identifications"
UNSENT = datetime.fromtimestamp(0, UTC)
"""When photographs of a planned enrollment were taken: `Access` says when it is sent."""


@frozen
class Call:
    """One request; with `needs_fraud` it takes the fraud key, else the enroll key. Of an enrollment
    `pair` are the photographs that its body shows."""

    path: str
    body: RequestBody = field(repr=False)
    needs_fraud: bool = False
    pair: PhotographPair | None = None

    @property
    def idempotency_key(self) -> str | None:
        """The key of an enrollment; None of others."""
        return self.body.idempotency_key if isinstance(self.body, Activation) else None

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.idempotency_key is None else {"Idempotency-Key": self.idempotency_key}


def enroll(key: str, passport: Document, pair: PhotographPair, msisdn: str) -> Call:
    """An enrollment with two photographs."""
    body = Activation(
        document=passport,
        msisdn=msisdn,
        live=pair.live.photograph,
        portrait=pair.portrait.photograph,
        consent_ref="loadtest",
        captured_at=UNSENT,
        idempotency_key=key,
    )
    return Call(ENROLLMENTS, body, pair=pair)


def match(probe: bytes, reference: bytes) -> Call:
    """A comparison of two templates."""
    item = MatchItem(probe=Face(template=probe), reference=Face(template=reference))
    return Call(MATCHES, MatchRequest((item,)))


def query(passport: Document, photograph: bytes) -> Call:
    """A query for the lines of a document, with a photograph of its holder."""
    document = KnownDocument(passport.type, passport.number)
    return Call(QUERIES, HolderRequest(document, Face(image=photograph)))


def search(photograph: bytes) -> Call:
    """A search of the gallery for a face."""
    return Call(SEARCHES, IdentificationRequest(Face(image=photograph)), needs_fraud=True)


@frozen
class Access:
    """The connections of the load with its API keys, and clients for all else: `erase` is of a key
    that may erase, if there is one; `outlet` is None for an outlet's own key."""

    pool: ConnectionPool
    keys: Keys
    outlet: str | None
    model: ModelClient
    enroll: Client
    erase: Client | None

    def complete(self, activation: Activation, captured_at: datetime) -> Activation:
        """The same at the outlet, with photographs of that moment."""
        return structs.replace(activation, captured_at=captured_at, outlet=self.outlet)

    def pack(self, call: Call, captured_at: datetime) -> bytes:
        """The body of a call, of an enrollment with photographs of that moment."""
        body = call.body
        if isinstance(body, Activation):
            body = self.complete(body, captured_at).write()
        return encode_msgpack(body)

    def send(self, call: Call, body: bytes) -> Reply:
        """Sends a packed call with the key that it needs."""
        key = self.keys.fraud if call.needs_fraud else self.keys.enroll
        return self.pool.post(call.path, key, body, call.headers)


def read_version(target: ServiceAddress) -> Version:
    """Version and model; `LoadTestRefused` at once where no service of ours answers, or one that
    looks at no face."""
    try:
        with open_client(target, retries=0) as client:
            found = client.version()
    except CallFailed:
        raise LoadTestRefused(f"no service answers at {target.url}: is it running?") from None
    if found.version.endswith("+sandbox"):
        raise LoadTestRefused(f"{target.url} is a sandbox, which looks at no face")
    return found


@contextmanager
def open_access(pool: ConnectionPool, keys: Keys, outlet: str | None) -> Iterator[Access]:
    """Checks the roles of the keys; `LoadTestRefused` if they cannot do what the load needs."""
    with ExitStack() as stack:
        fraud, enroll, *erasing = (
            stack.enter_context(open_client(pool.target, key))
            for key in (keys.fraud, keys.enroll, keys.erase)
            if key is not None
        )
        with refusing():
            of_fraud, role, *of_erasing = (
                one.whose_key().role for one in (fraud, enroll, *erasing)
            )
        if of_fraud != "fraud":
            raise LoadTestRefused("the fraud key must be of role fraud")
        if role not in ("outlet", "carrier"):
            raise LoadTestRefused("the enroll key must be of role outlet or carrier")
        if role == "carrier" and outlet is None:
            raise LoadTestRefused("a carrier's key enrolls for an outlet: give --outlet CODE")
        if not {"carrier", "operator"}.issuperset(of_erasing):
            raise LoadTestRefused("the erase key must be of role carrier or operator")
        able = [*erasing, *([enroll] if role == "carrier" else ()), None]
        yield Access(pool, keys, outlet, ModelClient(fraud), enroll, able[0])


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


@frozen
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


@frozen
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
