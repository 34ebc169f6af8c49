"""Everybody who may have been enrolled is looked up and erased; who is left is counted."""

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from loadtest.exchange import LOST, NOT_STARTED, OVERDUE, ConnectionPool, Keys, Reply
from loadtest.service_calls import APPROVED, IN_FLIGHT, MISMATCH, REJECTED, Access, Answer
from loadtest.setup import Cleaner, EnrollmentTracker
from tests.loadtest.making import decided


@dataclass
class Registry:
    """A registry of documents by key; it puts each path off `busy` times first."""

    holders: dict[str, str]
    busy: int = 0
    asked: dict[str, int] = field(default_factory=dict)

    def ask(self, method: str, path: str, key: str | None = None, **_: Any) -> Reply:
        assert key == ("e" if method == "DELETE" else "enroll")
        self.asked[path] = self.asked.get(path, 0) + 1
        if self.asked[path] <= self.busy:
            return Reply((503, LOST, OVERDUE)[self.asked[path] % 3])
        name = path.rpartition("/" if method == "DELETE" else "=")[2]
        if method == "GET":
            found = self.holders.get(name)
            value = {"decision": APPROVED, "document_id": found}
            return Reply(200, value) if found else Reply(404)
        gone = [one for one, document in self.holders.items() if document == name]
        for one in gone:
            del self.holders[one]
        return Reply(200 if gone else 404, {})


def clean(
    registry: Registry,
    enrolled: EnrollmentTracker,
    *,
    keep_enrolled: bool = False,
    erase_key: str | None = "e",
    timeout_s: float = 60,
) -> int:
    keys = Keys("enroll", "fraud", erase_key)
    access = Access(cast(ConnectionPool, registry), keys, None, erase_key)
    Cleaner(access, enrolled, lambda *_: None, timeout_s, settle_s=0).clean(
        keep_enrolled=keep_enrolled
    )
    return enrolled.count


def make_tracker(*answers: tuple[str, Answer | None]) -> EnrollmentTracker:
    enrolled = EnrollmentTracker()
    for key, answer in answers:
        enrolled.begin(key)
        if answer is not None:
            enrolled.finish(key, answer)
    return enrolled


@pytest.mark.parametrize(
    "answer", [None, Answer(LOST), Answer(OVERDUE), Answer(503, "REQUEST.DEADLINE_PASSED")]
)
def test_an_enrollment_without_an_answer_is_found_by_its_key_and_erased(
    answer: Answer | None,
) -> None:
    registry = Registry({"lost": "d1", "known": "d2"})
    enrolled = make_tracker(("lost", answer), ("nobody", answer))
    enrolled.add(APPROVED, "d2")
    assert clean(registry, enrolled) == 0
    assert registry.holders == {}


@pytest.mark.parametrize(
    ("answers", "open_keys"),
    [
        ([decided(APPROVED)], 0),
        ([decided(REJECTED, "FACE_MISMATCH")], 0),
        ([Answer(429, is_refusal=True)], 0),
        ([Answer(NOT_STARTED)], 0),
        ([Answer(LOST), Answer(429, is_refusal=True)], 1),
        ([Answer(LOST), Answer(409, IN_FLIGHT)], 1),
        ([Answer(LOST), decided(APPROVED, is_repeated=True)], 0),
        ([decided(APPROVED), Answer(422, MISMATCH)], 0),
    ],
)
def test_only_keys_that_may_have_been_decided_are_looked_up(
    answers: list[Answer], open_keys: int
) -> None:
    assert len(make_tracker(*(("key", answer) for answer in answers)).open) == open_keys


def test_a_service_that_is_busy_right_after_a_load_is_asked_again(monkeypatch) -> None:
    monkeypatch.setattr("loadtest.exchange.WAIT_S", 0)
    registry = Registry({"lost": "d1"}, busy=4)
    assert clean(registry, make_tracker(("lost", Answer(LOST)))) == 0
    assert registry.holders == {}


def test_who_is_left_is_counted() -> None:
    answers = (("lost", None), ("known", decided(APPROVED, document_id="d2")))
    registry = Registry({"lost": "d1", "known": "d2"})
    assert clean(registry, make_tracker(*answers), keep_enrolled=True) == 2
    assert clean(registry, make_tracker(*answers), erase_key=None) == 2
    # The service does not answer.
    assert clean(registry, make_tracker(*answers), timeout_s=0) == 2
    assert registry.holders == {"lost": "d1", "known": "d2"}
