"""What is answered before anything is judged: stored answers, and refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.errors import IdempotencyMismatch, OutletRefused, RequestError
from engine.matching.documents import Document
from engine.matching.requests import Answer, Sample
from engine.reasons import Decision


@pytest.mark.parametrize(
    "changes", [{"outlet": "nowhere"}, {"outlet": "red-1"}, {"carrier": "red"}]
)
def test_a_foreign_outlet_is_refused_and_nothing_is_stored(
    lab: Any, changes: dict[str, str]
) -> None:
    before = lab.store.counts()
    with lab.registrar() as registrar:
        outcome = registrar.enroll([lab.request(**changes)])[0]
    assert isinstance(outcome, OutletRefused)
    assert lab.store.counts() == before


def test_a_closed_outlet_is_refused(lab: Any) -> None:
    lab.store.close_outlet("blue-1", actor="test")
    with lab.registrar() as registrar:
        assert isinstance(registrar.enroll([lab.request()])[0], OutletRefused)


def test_the_same_key_and_payload_give_the_stored_answer(lab: Any) -> None:
    request = lab.request()
    with lab.registrar() as registrar:
        first = registrar.enroll([request])[0]
        before = lab.store.counts()
        second = registrar.enroll([request])[0]
    with lab.registrar() as reopened:
        third = reopened.enroll([request])[0]
    assert not first.is_repeated
    assert second == third == replace(first, is_repeated=True)
    assert lab.store.counts() == before


def test_the_same_key_with_another_payload_is_refused(lab: Any) -> None:
    request = lab.request()
    changed = [
        replace(request, msisdn="+8613800138000"),
        replace(request, live=lab.people.sample(lab.people.person())),
        replace(request, document=replace(request.document, name="Another Name")),
    ]
    with lab.registrar() as registrar:
        registrar.enroll([request])
        before = lab.store.counts()
        outcomes = registrar.enroll([*changed[:1]]), registrar.enroll([*changed[1:2]])
        outcomes = [*outcomes[0], *outcomes[1], *registrar.enroll([changed[2]])]
    assert all(isinstance(outcome, IdempotencyMismatch) for outcome in outcomes)
    assert lab.store.counts() == before


def test_two_carriers_may_use_one_key(lab: Any) -> None:
    with lab.registrar() as registrar:
        outcomes = registrar.enroll(
            [
                lab.request(idempotency_key="one"),
                lab.request(idempotency_key="one", carrier="red", outlet="red-1"),
            ]
        )
    assert [outcome.decision for outcome in outcomes] == [Decision.APPROVED] * 2


@pytest.mark.parametrize(
    "changes",
    [
        {"idempotency_key": ""},
        {"idempotency_key": "k" * 10_000},
        {"idempotency_key": "a\nb"},
        {"msisdn": "12"},
        {"msisdn": "not a number"},
        {"document": Document("library-card", "1", "A Name")},
        {"consent_ref": "c" * 201},
    ],
)
def test_what_cannot_be_judged_is_an_error_beside_its_neighbours(
    lab: Any, changes: dict[str, Any]
) -> None:
    with lab.registrar() as registrar:
        outcomes = registrar.enroll([lab.request(), lab.request(**changes), lab.request()])
    assert isinstance(outcomes[1], RequestError)
    assert "\n" not in str(outcomes[1])
    assert [type(outcome) for outcome in outcomes[::2]] == [Answer, Answer]


@pytest.mark.parametrize(
    "changes",
    [
        {"consent_ref": "a\0b"},
        {"outlet": "blue-1\0"},
        {"idempotency_key": "\ud800"},
        {"document": Document("cn-ric", "11010519491231002X", "half \ud800")},
    ],
)
def test_text_that_no_database_stores_is_refused_beside_its_neighbours(
    lab: Any, changes: dict[str, Any]
) -> None:
    with lab.registrar() as registrar:
        outcomes = registrar.enroll([lab.request(), lab.request(**changes), lab.request()])
    assert isinstance(outcomes[1], RequestError)
    assert [type(outcome) for outcome in outcomes[::2]] == [Answer, Answer]


def test_a_vector_that_is_not_finite_is_refused(lab: Any) -> None:
    broken = Sample(np.full(64, np.nan, dtype=np.float32), bytes(32))
    with lab.registrar() as registrar:
        outcomes = registrar.enroll([lab.request(live=broken), lab.request()])
    assert isinstance(outcomes[0], RequestError)
    assert isinstance(outcomes[1], Answer)
