"""`/v1/people` and `/v1/documents/{id}`: found by face, document or number; masked; audited."""

from typing import Any

import pytest

from serving.wire.fields import read
from serving.wire.people import People, Person
from tests.serving.api.conftest import case_of
from tests.serving.api.driver import TYPES

SEARCH = "/v1/people/search"
MSISDN = "+8613800138000"
DOCUMENT = {"type": "cn-ric", "number": "110105199003071239"}
SECRETS = ("13800138000", "110105199003071239", "Aileen", "Probe")


def ways(faces: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    return {
        "face": {"probe": {"image": faces["later"]}},
        "document": {"document": DOCUMENT},
        "number": {"msisdn": MSISDN},
    }


@pytest.mark.parametrize(("kind", "accept"), TYPES)
@pytest.mark.parametrize("by", ["face", "document", "number"])
def test_a_person_is_found_masked_and_audited_in_every_type(
    service, faces, enrolled, by: str, kind: str, accept: str
) -> None:
    before = service.parts.store.audit_head()[0]
    response = service.ask(
        "POST", SEARCH, key="fraud", body=ways(faces)[by], kind=kind, accept=accept
    )
    assert (response.status_code, response.headers["content-type"]) == (200, accept)
    answer = service.read(response)
    read(answer, People)
    [person] = answer["people"]
    assert answer["found"] == 1
    assert person["document_id"] == enrolled["document_id"]
    assert (person["document_type"], person["document_status"]) == ("cn-ric", "active")
    assert (person["number"], person["name"]) == ("••••••••••••••1239", "A••••• P••••")
    assert [line["number"] for line in person["lines"]] == ["••••••••••8000"]
    [attempt] = person["enrollments"]
    assert attempt["enrollment_id"] == enrolled["enrollment_id"]
    where = {"decision": "approved", "carrier": "blue", "outlet": "b1"}
    assert attempt | where == attempt
    is_face = by == "face"
    assert (person["score"] is not None) == is_face
    assert (answer["searched"] == 1) == is_face
    assert not any(secret.encode() in response.content for secret in SECRETS)
    kept = service.audited(before)
    assert [one.action for one in kept] == ["faces.identified"] * is_face + ["people.searched"]
    assert (kept[-1].subject, kept[-1].detail) == (by, {"documents": [enrolled["document_id"]]})
    assert kept[-1].actor == f"fraud (key:{service.keys['fraud'].split('_')[-2]})"


@pytest.mark.parametrize(
    "body",
    [
        {"document": {"type": "cn-ric", "number": "110105198503071257"}},
        {"msisdn": "+8613800138777"},
    ],
)
def test_nobody_is_an_empty_list_and_audited(service, body: dict[str, Any]) -> None:
    before = service.parts.store.audit_head()[0]
    answer = service.read(service.ask("POST", SEARCH, key="fraud", body=body))
    assert (answer["people"], answer["found"]) == ([], 0)
    [entry] = service.audited(before)
    assert (entry.action, entry.detail) == ("people.searched", {"documents": []})


def test_a_document_is_read_with_what_was_closed(fresh, faces, activation, enrolled) -> None:
    duplicate = activation(live=faces["live"], portrait=faces["portrait"])
    opened = fresh.read(fresh.enroll(duplicate, "k"))
    case = case_of(fresh, opened)
    path = f"/v1/documents/{enrolled['document_id']}"
    assert fresh.ask("DELETE", f"/v1/lines/{MSISDN}").status_code == 200
    for name, key in (("propose", "fraud"), ("close", "second")):
        step = f"/v1/cases/{case}/{name}"
        seen = fresh.read(fresh.ask("GET", f"/v1/cases/{case}", key="fraud"))["updated_at"]
        body = {"outcome": "twins", "seen_at": seen}
        assert fresh.ask("POST", step, key=key, body=body).status_code == 200
    before = fresh.parts.store.audit_head()[0]
    shown = fresh.read(fresh.ask("GET", path, key="fraud"))
    read(shown, Person)
    assert [(line["status"], line["number"]) for line in shown["lines"]] == [("closed", None)]
    assert [(one["case_id"], one["state"]) for one in shown["cases"]] == [(case, "closed")]
    [entry] = fresh.audited(before)
    assert (entry.action, entry.subject) == ("document.read", enrolled["document_id"])
