"""Everybody who may have been enrolled is looked up and erased; who is left is counted."""

from dataclasses import dataclass
from typing import Any

import gevent
import httpx
import pytest

from loadtest.errors import LoadTestRefused
from loadtest.exchange import (
    LOST,
    NOT_STARTED,
    OVERDUE,
    ServiceAddress,
    open_client,
    run_concurrently,
)
from loadtest.service_calls import APPROVED, IN_FLIGHT, MISMATCH, REJECTED, Access, Answer
from loadtest.setup import Cleaner, EnrollmentTracker
from serving.client import ApiError, Enrollment, ErasureCertificate, Options
from serving.client.transport import Trail
from tests.loadtest.making import decided

GONE = ApiError(404, "REGISTRY.NOT_FOUND", "nothing", Trail("c", 1))


@dataclass
class Registry:
    """A client of a registry of documents by key."""

    holders: dict[str, str]

    def find_enrollment(self, key: str, options: Options) -> Enrollment:
        assert options.timeout_s
        if key not in self.holders:
            raise GONE
        named = dict.fromkeys(Enrollment.__struct_fields__)
        made: Any = named | {"decision": APPROVED, "document_id": self.holders[key]}
        return Enrollment(**made)

    def erase(self, document_id: str, options: Options) -> ErasureCertificate:
        assert options.timeout_s
        held = [key for key, document in self.holders.items() if document == document_id]
        if not held:
            raise GONE
        for key in held:
            del self.holders[key]
        made: Any = dict.fromkeys(ErasureCertificate.__struct_fields__)
        return ErasureCertificate(**made)


def clean(
    registry: Any,
    enrolled: EnrollmentTracker,
    *,
    keep_enrolled: bool = False,
    may_erase: bool = True,
    timeout_s: float = 60,
) -> int:
    nothing: Any = None
    erase = registry if may_erase else None
    access = Access(nothing, nothing, None, nothing, registry, erase)
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
    enrolled.settle("known", APPROVED, "d2")
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
    statuses = iter([503, 429, 503, 503, 503, 503, 503, 404])

    def answer(request: httpx.Request) -> httpx.Response:
        status = next(statuses)
        return httpx.Response(status, json={"status": status, "code": "X", "message": "later"})

    monkeypatch.setattr("httpx.HTTPTransport", lambda: httpx.MockTransport(answer))
    monkeypatch.setattr("time.sleep", lambda _: None)
    enrolled = make_tracker(("known", decided(APPROVED, document_id="d2")))
    with open_client(ServiceAddress("127.0.0.1", 1), "e") as client:
        assert clean(client, enrolled) == 0


def test_who_is_left_is_counted() -> None:
    answers = (("lost", None), ("known", decided(APPROVED, document_id="d2")))
    registry = Registry({"lost": "d1", "known": "d2"})
    assert clean(registry, make_tracker(*answers), keep_enrolled=True) == 2
    assert clean(registry, make_tracker(*answers), may_erase=False) == 2
    # The service does not answer.
    assert clean(registry, make_tracker(*answers), timeout_s=0) == 2
    assert registry.holders == {"lost": "d1", "known": "d2"}


def test_answers_are_in_the_order_of_the_items() -> None:
    def wait(item: int) -> int:
        gevent.sleep(0.01 if item % 2 else 0)
        return item * item

    assert run_concurrently(wait, range(9)) == [item * item for item in range(9)]


def test_a_fault_is_raised_and_not_printed(capfd) -> None:
    def refuse(item: int) -> None:
        if item == 1:
            raise LoadTestRefused("no")

    with pytest.raises(LoadTestRefused, match="no"):
        run_concurrently(refuse, range(6))
    assert capfd.readouterr().err == ""
