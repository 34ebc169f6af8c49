"""Documents, names and numbers tried out one after another, without their holders.

Whoever shows no usable face, two people's faces, or a face that is known under another document,
is answered alike whether a document or a number is held or not.
"""

from collections.abc import Callable
from typing import Any

import pytest

from schema.options import Limits
from tests.engine.matching.conftest import resident_number
from tests.security.costly_files import grey, write
from tests.serving.api.driver import Service

PATH = "/v1/enrollments"
HELD = {"type": "cn-ric", "number": "110105199003071239", "name": "Aileen Probe"}
NAMED_OTHERWISE = HELD | {"name": "Somebody Else"}
STRANGERS = {"type": "cn-ric", "number": "110105198503071257", "name": "Stan Stranger"}
UNHELD = {"type": "cn-ric", "number": "110105198503071011", "name": "No Body"}
DOCUMENTS = (HELD, NAMED_OTHERWISE, STRANGERS, UNHELD)
IN_USE, FREE = "+8613800138000", "+8613800139999"
OWN = frozenset({"enrollment_id", "decided_at", "idempotency_key", "gallery_sequence"})
"""What differs between any two answers."""


@pytest.fixture
def bounded(start_service) -> Service:
    return start_service(limits=Limits())


@pytest.fixture
def enroll(bounded, activation) -> Callable[..., Any]:
    """`enroll(key, **changes)`: the answer."""
    count = iter(range(10_000))

    def ask(key: str, **changes: Any) -> Any:
        return bounded.enroll(activation(outlet=key, **changes), f"k{next(count)}", key=key)

    return ask


@pytest.fixture
def try_all(bounded, enroll) -> Callable[..., list[dict[str, Any]]]:
    """`try_all(key, **shown)`: the answers for each document with each number."""
    tried = [(document, number) for document in DOCUMENTS for number in (IN_USE, FREE)]
    return lambda key, **shown: [
        bounded.read(enroll(key, document=one, msisdn=number, **shown)) for one, number in tried
    ]


def tell_alike(answers: list[dict[str, Any]]) -> None:
    shown = [{name: one[name] for name in one.keys() - OWN} for one in answers]
    for one in shown:
        one["duplicate_search"] = {**one["duplicate_search"], "gallery_sequence": None}
        assert one == shown[0]


@pytest.mark.parametrize("key", ["b2", "r1"])
def test_an_unusable_photograph_is_the_only_thing_told(try_all, faces, key: str) -> None:
    answers = try_all(key, live=write(grey(64, 64), "PNG"), portrait=faces["faceless"])
    tell_alike(answers)
    assert {one["reason"] for one in answers[0]["reasons"]} == {"NO_FACE"}
    assert answers[0]["document_id"] is None


@pytest.mark.parametrize("key", ["b2", "r1"])
def test_two_peoples_faces_are_told_of_neither_document_nor_number(
    bounded, try_all, faces, key: str
) -> None:
    answers = try_all(key, live=faces["stranger"], portrait=faces["portrait"])
    for one in answers:
        one["scores"]["live_portrait"] = None
    tell_alike(answers)
    assert [one["reason"] for one in answers[0]["reasons"]] == ["FACE_MISMATCH"]
    assert answers[0]["cases"] == []
    path = f"{PATH}/{answers[0]['enrollment_id']}"
    read = bounded.read(bounded.ask("GET", path, key=key))
    assert read["reasons"] == answers[0]["reasons"]
    whole = bounded.read(bounded.ask("GET", path, key="fraud"))
    assert {one["reason"] for one in whole["reasons"]} > {"FACE_MISMATCH"}


def test_a_face_with_a_document_of_its_own_cannot_try_out_others(bounded, enroll, faces) -> None:
    """Each answer that nobody holds a document counts with the face that is shown."""
    assert bounded.read(enroll("b1", document=STRANGERS))["decision"] == "approved"
    mine = {"live": faces["later"], "portrait": faces["portrait"]}
    for document in (STRANGERS, STRANGERS | {"name": "Some Body"}):
        answers = [
            bounded.read(enroll("r1", document=document, msisdn=number, **mine))
            for number in (IN_USE, FREE)
        ]
        tell_alike(answers)
        assert [one["reason"] for one in answers[0]["reasons"]] == ["WITHHELD"]
    told = 0
    while True:
        unheld = UNHELD | {"number": resident_number(told)}
        answer = enroll("r1", document=unheld, msisdn=FREE, **mine)
        if answer.status_code == 429:
            break
        [finding] = bounded.read(answer)["reasons"]
        assert finding["reason"] == "DUPLICATE_IDENTITY"
        told += 1
    assert 0 < told <= Limits().holder_failures


def test_a_carrier_is_told_of_its_own_holder_and_of_no_others(bounded, enroll) -> None:
    for key, told in (("b2", "DOCUMENT_HELD_BY_ANOTHER_FACE"), ("r1", "WITHHELD")):
        shown = bounded.read(enroll(key, document=HELD))
        assert [one["reason"] for one in shown["reasons"]] == [told]
        assert (shown["decision"], shown["document_id"]) == ("rejected", None)
        kinds = [case["kind"] for case in shown["cases"]]
        assert kinds == (["stolen_document"] if key == "b2" else [])
