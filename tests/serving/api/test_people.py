"""`/v1/people` and `/v1/documents/{id}`: found by face, document or number; masked; audited."""

import base64
import json
from datetime import timedelta
from typing import Any

import pytest

from engine.cases import steps
from engine.matching.checks.limits import Bound
from engine.matching.holders import UNHELD
from serving.api.routes import people
from serving.wire.fields import read
from serving.wire.people import People, Person, Subject
from tests.keys import add_key
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


# -- All that is kept of a person ---------------------------------------------------------------

EXPORT = "/v1/subjects/export"
ASKED = {"document": DOCUMENT, "reason": "Asked for in person."}
NOBODYS = {"type": "cn-ric", "number": "110105198503071257"}


def test_an_operator_exports_what_is_kept_of_a_person_with_a_reason(service, enrolled) -> None:
    before = service.parts.store.audit_head()[0]
    body = {**ASKED, "language": "ko"}
    found = service.read(service.ask("POST", EXPORT, key="operator", body=body))
    read(found, Subject)
    assert found["document_ids"] == [enrolled["document_id"]]
    assert found["damaged"] == {}
    [document] = found["records"]["documents"]
    assert document["identity"] == [DOCUMENT["number"], "Aileen Probe"]
    [reference] = found["records"]["references"]
    assert reference["template"] == "kept"
    page = base64.b64decode(found["html"]).decode()
    assert '<html lang="ko">' in page
    assert DOCUMENT["number"] in page
    [entry] = service.audited(before)
    assert (entry.action, entry.subject) == ("subject.read", enrolled["document_id"])
    assert entry.detail == {"reason": ASKED["reason"]}
    assert found["audit"][-1]["action"] == "subject.read"


def test_an_export_tells_nobody_that_is_not_there_and_no_number_to_the_chain(
    service, enrolled
) -> None:
    before = service.parts.store.audit_head()[0]
    for key in ("b1", "blue", "fraud", "metrics"):
        refused = service.ask("POST", EXPORT, key=key, body=ASKED)
        service.assert_refused(refused, 403, "ACCESS.FORBIDDEN")
    for wrong in ("", " ", " ".join(DOCUMENT["number"]), "a\u202eb", "x" * 201):
        body = ASKED | {"reason": wrong}
        assert service.ask("POST", EXPORT, key="operator", body=body).status_code in {400, 422}
    assert service.audited(before) == []
    body = ASKED | {"document": NOBODYS}
    none = service.ask("POST", EXPORT, key="operator", body=body)
    service.assert_refused(none, 404, "REQUEST.NOT_FOUND")
    [entry] = service.audited(before)
    assert (entry.subject, NOBODYS["number"] in json.dumps(entry.detail)) == (UNHELD, False)


def test_exports_count_with_cases_to_the_people_whom_one_person_is_shown_in_full(
    fresh, open_case, monkeypatch
) -> None:
    case, store, vault = open_case(fresh), fresh.parts.store, fresh.parts.vault
    operator, fraud = (add_key(store, vault, one, person="Kim") for one in ("operator", "fraud"))
    monkeypatch.setattr(steps, "REVEALED", Bound(3, timedelta(days=1)))
    path = f"/v1/cases/{case}/reveal"
    revealed = fresh.ask("POST", path, key=fraud, body={"reason": "Asked for."})
    assert len(fresh.read(revealed)["documents"]) == 2
    for document, status in ((DOCUMENT, 200), (NOBODYS, 429), (DOCUMENT, 429)):
        again = fresh.ask("POST", EXPORT, key=operator, body=ASKED | {"document": document})
        assert again.status_code == status
    assert again.json()["code"] == "REQUEST.TOO_MANY_FAILURES"
    assert fresh.ask("POST", EXPORT, key="operator", body=ASKED).status_code == 200


def test_one_export_at_a_time_and_whoever_waits_is_not_counted(service, enrolled) -> None:
    before = service.parts.store.audit_head()[0]
    with people._EXPORTING:
        busy = service.ask("POST", EXPORT, key="operator", body=ASKED)
    service.assert_refused(busy, 429, "SERVICE.BUSY")
    assert service.audited(before) == []
    assert service.ask("POST", EXPORT, key="operator", body=ASKED).status_code == 200
