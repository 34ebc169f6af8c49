"""Minors, exceptions, the dead and replaced documents over HTTP."""

from typing import Any

import pytest

from schema.options import CarrierPeople, PeopleRules
from serving.api.body import JSON, MSGPACK
from tests.serving.api.test_enrollments import show_two
from tests.serving.conftest import MSISDN, NAME


def card(serial: int, born_on: str = "1980-05-01") -> dict[str, Any]:
    """A document whose number tells no date of birth."""
    number = f"2C11{serial:08d}"
    return {"type": "id-kitas", "number": number, "name": "A Holder", "born_on": born_on}


@pytest.fixture
def service(start_service) -> Any:
    """A service that asks for guardians and takes exceptions, of one carrier alone."""
    rules = CarrierPeople(age_of_majority=17, exceptions=True)
    return start_service(people=PeopleRules(carriers={"blue": rules}))


def _without_ids(answer: dict[str, Any]) -> dict[str, Any]:
    own = {"enrollment_id", "decided_at", "idempotency_key", "cases"}
    kinds = [one["kind"] for one in answer["cases"]]
    return {name: one for name, one in answer.items() if name not in own} | {"cases": kinds}


@pytest.mark.parametrize("kind", [JSON, MSGPACK])
def test_a_minor_comes_with_a_guardian(service, activation, faces, kind: str) -> None:
    child = card(1, "2015-01-01")
    alone = service.read(service.enroll(activation(document=child), "alone", kind=kind))
    assert [one["reason"] for one in alone["reasons"]] == ["GUARDIAN_MISSING"]
    # Enrolled before, so the face is enough.
    holder = {"type": "cn-ric", "number": "110105199003071239", "name": NAME}
    renamed = {"document": holder | {"name": "Any Name"}, "live": faces["later"]}
    doubted = activation(document=child, guardian=renamed)
    reviewed = service.read(service.enroll(doubted, "renamed", kind=kind))
    assert (reviewed["decision"], reviewed["guardian_document_id"]) == ("review", None)
    assert [one["reason"] for one in reviewed["reasons"]] == ["NAME_MISMATCH"]
    guardian = {"document": holder, "live": faces["later"]}
    body = activation(document=child, guardian=guardian)
    both = service.read(service.enroll(body, "both", kind=kind))
    assert both["reasons"] == []
    assert both["guardian_document_id"] not in (None, both["document_id"])
    again = service.enroll(body, "both", kind=kind)
    assert service.read(again)["is_repeated"]
    # Under another document the same face is a second identity.
    other = {"document": card(2), "live": faces["live"], "portrait": faces["portrait"]}
    second = activation(document=child, guardian=other, msisdn="+8613800138009")
    refused = service.read(service.enroll(second, "second", kind=kind))
    assert [one["reason"] for one in refused["reasons"]] == ["GUARDIAN_DUPLICATE"]


@pytest.mark.parametrize("kind", [JSON, "form"])
def test_a_guardian_beside_the_minor_is_chosen_by_a_point(
    service, activation, faces, kind: str
) -> None:
    both = show_two(service, faces["later"], faces["stranger"])
    left, right = [0.25, 0.5], [0.75, 0.5]
    holder = {"type": "cn-ric", "number": "110105199003071239", "name": NAME}
    known = {"document": holder, "live": both}
    unknown = {"document": card(2), "live": faces["live"], "portrait": both}
    serial = iter(range(1, 9))

    def tell(guardian: dict[str, Any], **point: Any) -> list[str]:
        body = activation(document=card(1, "2015-01-01"), guardian=guardian | point)
        answer = service.read(service.enroll(body, str(next(serial)), kind=kind))
        return [one["reason"] for one in answer["reasons"]]

    assert tell(known) == ["GUARDIAN_UNUSABLE"]
    assert tell(known, live_point=right) == ["GUARDIAN_MISMATCH"]
    assert tell(unknown) == ["GUARDIAN_UNUSABLE"]
    # Portrait and face match, so that it is looked for.
    assert tell(unknown, portrait_point=left) == ["GUARDIAN_DUPLICATE"]
    assert tell(known, live_point=left) == []


def test_an_exception_waits_for_two_people_and_is_counted(service, activation) -> None:
    body = activation(document=card(1), portrait=None, exception="portrait_unreadable")
    asked = service.read(service.enroll(body, "asked"))
    assert (asked["decision"], asked["line_id"]) == ("review", None)
    assert [one["kind"] for one in asked["cases"]] == ["exception"]
    shown = service.read(service.ask("GET", f"/v1/enrollments/{asked['enrollment_id']}"))
    told = shown["exception"]
    assert (told["cause"], told["state"]) == ("portrait_unreadable", "asked")
    counts = service.read(service.ask("GET", "/v1/exceptions/outlets", key="fraud"))
    assert [(one["outlet"], one["asked"]) for one in counts["outlets"]] == [("b1", 1)]
    counted = service.parts.meter.render()[0].decode()
    line = 'sosie_exceptions_total{cause="portrait_unreadable",decision="review"} 1.0'
    assert line in counted
    # No face was shown to be the document's: nothing is told of documents or numbers.
    held = {"type": "cn-ric", "number": "110105199003071239", "name": "Another Name"}
    probing = activation(document=held, live=None, portrait=None, exception="injury")
    told = service.read(service.enroll(probing, "probing"))
    assert [one["reason"] for one in told["reasons"]] == ["EXCEPTION_ASKED"]
    # As of a document and a number that nobody has.
    unheld = activation(document=card(7), live=None, portrait=None, exception="injury")
    in_use = activation(
        document=card(8), live=None, portrait=None, exception="injury", msisdn=MSISDN
    )
    for key, body in (("unheld", unheld), ("in use", in_use)):
        other = service.read(service.enroll(body, key))
        assert told["document_id"] is None
        assert [_without_ids(one) for one in (told, other)] == [_without_ids(told)] * 2
    bare = activation(document=card(1), portrait=None)
    service.assert_refused(service.enroll(bare, "bare"), 400, "REQUEST.MALFORMED")


def test_a_holder_is_reported_dead_by_one_person_and_confirmed_by_another(
    service, activation
) -> None:
    first = service.read(service.enroll(activation(document=card(1)), "first"))
    path = f"/v1/documents/{first['document_id']}/death"

    def step(name: str, key: str, **more: str) -> Any:
        return service.ask("POST", path, body={"step": name, **more}, key=key)

    assert service.read(step("report", "fraud", source="registry"))["state"] == "reported"
    service.assert_refused(step("confirm", "fraud"), 403, "CASE.FOUR_EYES")
    again = activation(document=card(1), msisdn="+8613800138009")
    refused = service.read(service.enroll(again, "again"))
    assert "HOLDER_DECEASED" in [one["reason"] for one in refused["reasons"]]
    assert service.read(step("confirm", "operator"))["state"] == "confirmed"
    assert service.read(service.ask("GET", path, key="fraud"))["state"] == "confirmed"


def test_a_renewed_document_takes_its_lines_along(service, activation) -> None:
    first = service.read(service.enroll(activation(document=card(1)), "first"))
    old = {"type": "id-kitas", "number": card(1)["number"]}
    renewed = activation(document=card(2), replaces=old)
    answer = service.read(service.enroll(renewed, "renewed"))
    assert (answer["decision"], answer["line_id"]) == ("approved", first["line_id"])
    retired = activation(document=card(1), msisdn="+8613800138009")
    reasons = service.read(service.enroll(retired, "retired"))["reasons"]
    assert [one["reason"] for one in reasons] == ["DOCUMENT_REPLACED"]
