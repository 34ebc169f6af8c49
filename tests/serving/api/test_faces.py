"""Faces side by side: held until a case comes, then shown to the fraud team, with how alike."""

import base64
import io
from typing import Any

from PIL import Image

from engine.retention.job import run_retention
from serving.wire.cases import CaseReport
from serving.wire.fields import read
from serving.wire.people import Faces
from tests.engine.retention.conftest import only
from tests.serving.api.conftest import case_of
from tests.serving.api.test_retained import NextYear

OTHER = {"type": "cn-ric", "number": "110105198503071302", "name": "Another Name"}
ENROLL, QUERY = "/v1/enrollments", "/v1/faces/query"


def ask(service: Any, *document_ids: str, key: str = "fraud") -> Any:
    return service.ask("POST", QUERY, body={"document_ids": list(document_ids)}, key=key)


def enroll(service: Any, key: str, body: dict[str, Any]) -> Any:
    return service.read(service.enroll(body, key))


def test_suspect_and_holder_are_shown_from_when_a_case_names_them(
    start_service, activation, monkeypatch
) -> None:
    monkeypatch.setenv("SOSIE_CROPS__KEEP", "cases")
    monkeypatch.setenv("SOSIE_CROPS__HOLD_DAYS", "7")
    service = start_service()
    first = enroll(service, "k1", activation())
    holder = first["document_id"]
    shown = service.read(ask(service, holder))
    [subject] = shown["subjects"]
    # Nobody looks at the face of somebody whom no case names.
    assert (subject["is_reference"], subject["photographs"], shown["likenesses"]) == (True, [], [])
    assert subject["kept_until"] is None

    second = enroll(service, "k2", activation(document=OTHER, msisdn="+8613800138002"))
    case_id = case_of(service, second)
    case = service.ask("GET", f"/v1/cases/{case_id}", key="fraud")
    [suspect] = set(service.read(case)["document_ids"]) - {holder}
    before = service.parts.store.audit_head()[0]
    answer = ask(service, holder, suspect)
    shown = read(service.read(answer), Faces)
    reference, attempt = shown.subjects
    assert (reference.subject_id, reference.is_reference) == (first["enrollment_id"], True)
    assert (attempt.subject_id, attempt.is_reference) == (second["enrollment_id"], False)
    assert attempt.decision == second["decision"] != "approved"
    for subject in shown.subjects:
        assert [one.photograph for one in subject.photographs] == ["live", "portrait"]
        for one in subject.photographs:
            with Image.open(io.BytesIO(one.image)) as image:
                assert image.size == (112, 112)
            assert one.quality
        assert subject.captured_at is not None
    [likeness] = shown.likenesses
    record = service.read(service.ask("GET", f"{ENROLL}/{second['enrollment_id']}", key="fraud"))
    assert likeness.score == record["scores"]["best_candidate"]
    assert 0 < likeness.strangers.value < 1

    assert answer.headers["cache-control"] == "no-store"
    # Only a proxy, which takes it away, is told what it counts by.
    assert "x-key-admitted" not in answer.headers
    [entry] = [one for one in service.audited(before) if one.action == "faces.read"]
    assert entry.detail == {"documents": [holder, suspect], "faces": 4}
    image = base64.b64encode(reference.photographs[0].image).decode()
    terms = {"faces": True, "reveal": True}
    path = f"/v1/cases/{case_id}/report"
    answer = service.ask("POST", path, key="fraud", body=terms)
    assert answer.headers["cache-control"] == "no-store"
    report = read(service.read(answer), CaseReport)
    assert (report.faces, report.documents, report.left_out) == (2, 2, 0)
    for shown_whole in (image, OTHER["name"], OTHER["number"], "+8613800138001"):
        assert shown_whole.encode() in report.html
        assert shown_whole[:60] not in service.log_text
    run_retention(NextYear(service), only(case_hold_days=30), "test")
    later = service.read(ask(service, holder, suspect))
    assert [one["photographs"] for one in later["subjects"]] == [[], []]
    assert later["likenesses"] == []


def test_a_report_for_a_carrier_tells_nothing_of_what_another_did(fresh, activation, faces) -> None:
    def try_out(key: str, **changes: Any) -> Any:
        body = activation(outlet="r1", msisdn=f"+861380013800{key}", **changes)
        return fresh.read(fresh.enroll(body, key, key="red"))

    def report(case: str, carrier: str) -> str:
        path, terms = f"/v1/cases/{case}/report", {"reveal": True, "carrier": carrier}
        return read(
            fresh.read(fresh.ask("POST", path, key="fraud", body=terms)), CaseReport
        ).html.decode()

    holder = enroll(fresh, "k1", activation())
    attempt = try_out("2", document=OTHER)
    case = case_of(fresh, attempt)
    step = {"case_id": case, "reason": "a look"}
    assert fresh.ask("POST", "/v1/outlets/r1/suspend", key="fraud", body=step).status_code == 200
    page = report(case, "blue")
    assert "Stan Stranger" in page
    red_key = fresh.keys["red"].split("_")[-2]
    for hidden in (attempt["enrollment_id"], OTHER["name"], OTHER["number"], red_key, "r1"):
        assert hidden not in page, hidden
    page = report(case, "red")
    assert OTHER["name"] in page
    assert "Stan Stranger" not in page
    lift = {"restriction": "suspended", "reason": "seen"}
    assert fresh.ask("POST", "/v1/outlets/r1/lift", key="fraud", body=lift).status_code == 200
    # A stolen number does not bring the name of its holder with it.
    stolen = try_out("3", live=faces["live"], portrait=faces["portrait"])
    page = report(case_of(fresh, stolen), "red")
    assert holder["document_id"] in page
    assert "Stan Stranger" not in page


def test_faces_are_for_the_fraud_team_and_of_those_who_are_there(fresh, activation) -> None:
    """Whoever holds lines of two carriers is nobody's to look at but theirs who see both."""
    document = enroll(fresh, "k1", activation())["document_id"]
    for key in ("blue", "red", "b1", "operator"):
        assert ask(fresh, document, key=key).status_code == 403
    unknown = "0190a000-0000-7000-8000-000000000000"
    [subject] = fresh.read(ask(fresh, unknown, document, document))["subjects"]
    assert subject["document_id"] == document
    assert ask(fresh, *[unknown] * 9).status_code == 400
    assert ask(fresh).status_code == 400
    fresh.ask("DELETE", f"/v1/documents/{document}", key="operator")
    assert fresh.read(ask(fresh, document))["subjects"] == []
