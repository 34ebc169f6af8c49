"""The oracle: what an answer says, and what the plan expects of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from loadtest.exchange import LOST, NOT_STARTED, OVERDUE, UNREADABLE, Reply
from loadtest.participants import MARGIN, Thresholds

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
    """What is kept of a reply: no name, no phone number, no face."""

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
class Expectation:
    """What the answer to one visit must be: in words, and whether a good answer fits."""

    text: str
    fits: Callable[[Answer], bool] = field(repr=False, compare=False)


def expect_decision(*allowed: tuple[str, str | None]) -> Expectation:
    """One of these decisions, each with a reason that must be among its reasons."""

    def fits(answer: Answer) -> bool:
        return any(
            answer.decision == decision and (reason is None or reason in answer.reasons)
            for decision, reason in allowed
        )

    return Expectation(" or ".join(" ".join(filter(None, one)) for one in allowed), fits)


def expect_lines(least: int) -> Expectation:
    """A 1:1 match that shows at least so many lines."""
    shown = f", {least} numbers or more" if least else ""
    return Expectation(
        f"yes{shown}", lambda answer: answer.is_positive is True and answer.lines >= least
    )


def expect_found(document_id: str) -> Expectation:
    """A search that finds this document."""
    return Expectation("the planted document found", lambda answer: document_id in answer.found)


NEW = expect_decision((APPROVED, None))
IMPOSTOR_REJECTED = expect_decision((REJECTED, STOLEN))
NOT_RECOGNISED = Expectation(
    "no, no numbers", lambda answer: answer.is_positive is False and not answer.lines
)
NOBODY_FOUND = Expectation("nobody found", lambda answer: not answer.found)


def expect_duplicate(fused_score: float, thresholds: Thresholds) -> Expectation:
    """Above the certain threshold only a rejection will do; below it, review will do as well, since
    a stronger look-alike may be found."""
    if fused_score < thresholds.certain + MARGIN:
        return expect_decision((REJECTED, CERTAIN), (REVIEW, POSSIBLE))
    return expect_decision((REJECTED, CERTAIN))
