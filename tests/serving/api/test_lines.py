"""`/v1/lines` and `/v1/documents`: shown to the holder's face, disputed, closed, erased."""

from datetime import UTC, datetime
from typing import Any

import pytest

from serving.api.body import JSON, MSGPACK
from serving.wire.enrollments import ErasureCertificate
from serving.wire.fields import read
from serving.wire.lines import ClosedLine, Dispute, HolderLines
from tests.serving.api.driver import TYPES

DOCUMENT = {"type": "cn-ric", "number": "110105199003071239"}
MSISDN, QUERY = "+8613800138000", "/v1/lines/query"
UNKNOWN = {"number": "110105198503071257"}


def holder(data: bytes, **document: str) -> dict[str, Any]:
    return {"document": DOCUMENT | document, "probe": {"image": data}}


@pytest.mark.parametrize(("kind", "accept"), TYPES)
def test_a_holder_sees_the_lines_masked_in_every_type(
    service, faces, enrolled, kind: str, accept: str
) -> None:
    # At another carrier's outlet: the face is the proof.
    body = holder(faces["later"])
    response = service.ask("POST", QUERY, key="r1", body=body, kind=kind, accept=accept)
    assert (response.status_code, response.headers["content-type"]) == (200, accept)
    answer = service.read(response)
    assert read(answer, HolderLines).is_holder is True
    [line] = answer["lines"]
    assert (line["line_id"], line["number"]) == (enrolled["line_id"], "••••••••••8000")
    assert "8613800138000" not in response.text


@pytest.mark.parametrize(("key", "accept"), [("r1", JSON), ("red", MSGPACK), ("fraud", JSON)])
def test_another_face_sees_nothing_not_even_whether_somebody_is_enrolled(
    service, faces, key: str, accept: str
) -> None:
    before = service.parts.store.audit_head()[0]
    wrong_face, unknown = (
        service.ask("POST", QUERY, key=key, body=body, accept=accept)
        for body in (holder(faces["stranger"]), holder(faces["stranger"], **UNKNOWN))
    )
    assert (wrong_face.status_code, unknown.status_code) == (200, 200)
    assert wrong_face.content == unknown.content
    answer = service.read(unknown)
    assert (answer["is_holder"], answer["score"], answer["lines"]) == (False, None, [])
    entries = service.audited(before)
    assert [one.action for one in entries] == ["lines.read"] * 2
    assert len({one.actor for one in entries}) == 1


def test_a_dispute_does_not_tell_whether_somebody_is_enrolled(service, faces) -> None:
    path = f"/v1/lines/{MSISDN}/dispute"
    wrong_face, unknown = (
        service.ask("POST", path, key="r1", body=holder(faces["stranger"], **document))
        for document in ({}, UNKNOWN)
    )
    service.assert_refused(unknown, 403, "REQUEST.HOLDER_MISMATCH")
    assert wrong_face.content == unknown.content


@pytest.mark.parametrize(("by", "key"), [("number", "r1"), ("id", "fraud")])
def test_a_line_is_disputed_by_its_holder(fresh, faces, enrolled, by: str, key: str) -> None:
    target = MSISDN if by == "number" else enrolled["line_id"]
    path = f"/v1/lines/{target}/dispute"
    first = fresh.ask("POST", path, key=key, body=holder(faces["later"]))
    assert first.status_code == 201
    shown = read(fresh.read(first), Dispute)
    assert shown.line_id == enrolled["line_id"]
    again = fresh.read(fresh.ask("POST", path, key=key, body=holder(faces["later"])))
    assert again["case_id"] == shown.case_id
    lines = fresh.read(fresh.ask("POST", QUERY, body=holder(faces["later"])))["lines"]
    assert lines[0]["status"] == "disputed"


@pytest.mark.parametrize(
    ("by", "key", "accept"), [("number", "blue", JSON), ("id", "operator", MSGPACK)]
)
def test_a_line_is_closed_once(fresh, enrolled, by: str, key: str, accept: str) -> None:
    path = f"/v1/lines/{MSISDN if by == 'number' else enrolled['line_id']}"
    response = fresh.ask("DELETE", path, key=key, accept=accept)
    answer = fresh.read(response)
    assert response.headers["content-type"] == accept
    assert read(answer, ClosedLine).line_id == enrolled["line_id"]
    again = fresh.ask("DELETE", path, key=key)
    fresh.assert_refused(again, 404, "REQUEST.NOT_FOUND")


@pytest.mark.parametrize(("key", "accept"), [("blue", JSON), ("operator", MSGPACK)])
def test_a_holder_is_erased_with_a_certificate(
    fresh, enrolled, faces, key: str, accept: str
) -> None:
    path = f"/v1/documents/{enrolled['document_id']}"
    hidden = fresh.ask("DELETE", path, key="red")
    fresh.assert_refused(hidden, 404, "REQUEST.NOT_FOUND")
    certificate = fresh.read(fresh.ask("DELETE", path, key=key, accept=accept))
    shown = read(certificate, ErasureCertificate)
    assert (shown.document_id, shown.references, shown.lines) == (enrolled["document_id"], 1, 1)
    number, digest = fresh.parts.store.audit_head()
    assert (shown.audit_number, shown.audit_hash) == (number, digest.hex())
    again = fresh.ask("DELETE", path, key=key)
    fresh.assert_refused(again, 404, "REQUEST.NOT_FOUND")
    body = {"probe": {"image": faces["later"]}}
    found = fresh.read(fresh.ask("POST", "/v1/identifications", key="fraud", body=body))
    assert (found["found"], found["searched"]) == (0, 0)
    record = fresh.read(fresh.ask("GET", f"/v1/enrollments/{enrolled['enrollment_id']}"))
    assert record["decision"] == "approved"


def test_a_withdrawn_consent_takes_the_face(fresh, enrolled, activation, faces) -> None:
    path = f"/v1/documents/{enrolled['document_id']}"
    shown = fresh.read(fresh.ask("POST", f"{path}/withdrawal", key="blue"))
    assert (shown["references"], shown["lines"], shown["scope"]) == (1, 0, "face")
    assert fresh.read(fresh.ask("GET", f"{path}/erasure", key="blue"))["certificate"] == shown
    assert list(fresh.read(fresh.ask("GET", path, key="fraud"))["withdrawn"]) == ["blue"]
    probe = {"line": MSISDN, "probe": {"image": faces["later"]}}
    for route, body in (("verifications", probe), ("lines/query", holder(faces["later"]))):
        refused = fresh.ask("POST", f"/v1/{route}", body=body)
        fresh.assert_refused(refused, 422, "HOLDER.CONSENT_WITHDRAWN")
    given = {"given_at": datetime.now(UTC).isoformat(), "purpose": "identity", "text_version": "4"}
    given |= {"language": "zh-Hans", "channel": "outlet", "taken_by": "clerk 7"}
    own = {"live": faces["live"], "portrait": faces["portrait"], "consent": given}
    asked = activation(document=DOCUMENT | {"name": "Aileen Probe"}, **own)
    again = fresh.read(fresh.enroll(asked, "with", kind=MSGPACK))
    assert [one["reason"] for one in again["reasons"]] == ["EXCEPTION_ASKED"]
    path = f"/v1/enrollments/{again['enrollment_id']}"
    told = {key: fresh.read(fresh.ask("GET", path, key=key)) for key in ("blue", "fraud")}
    assert told["blue"]["consent"]["taken_by"] == "clerk 7"
    causes = [one["exception"]["cause"] for one in told.values()]
    assert causes == ["first_face", "renewed_consent"]
