"""No name, number, image or key reaches a log line, an error or a metric."""

import base64
import logging
from collections.abc import Callable
from typing import Any

import pytest

from serving.api.body import JSON, MSGPACK
from serving.registrar.operations import Operations

NAME, NUMBER, MSISDN = "Stan Stranger", "110105198503071257", "+8613800138001"
FRAGMENTS = ("Stan", "Stranger", NUMBER, "13800138001", "Aileen", "110105199003071239",
             "13800138000")  # fmt: skip
ENROLLMENTS = "/v1/enrollments"

Ask = tuple[str, str, dict[str, Any]]


def failing_registrar_calls(wrong: dict[str, str]) -> list[Ask]:
    def as_fraud(method: str, path: str, **options: Any) -> Ask:
        return method, path, {"key": "fraud", **options}

    search, export = "/v1/people/search", ("POST", "/v1/subjects/export")
    return [
        as_fraud("POST", search, body={"msisdn": f"{MSISDN}x{NAME}"}),
        as_fraud("POST", search, body={"document": wrong}),
        as_fraud("POST", search, body={"msisdn": MSISDN, NAME: NUMBER}),
        as_fraud("GET", f"/v1/documents/{NUMBER}"),
        as_fraud("GET", "/v1/cases", params={NAME: NUMBER}),
        as_fraud("GET", "/v1/cases", params={"state": NAME}),
        as_fraud("GET", "/v1/cases", params={"after": NUMBER}),
        as_fraud("POST", f"/v1/cases/{NUMBER}/notes", body={"text": NAME}),
        as_fraud("POST", f"/v1/cases/{NUMBER}/notes", body={"text": f"{NAME}\0"}),
        as_fraud("POST", f"/v1/cases/{NUMBER}/reveal", body={"reason": NAME}),
        as_fraud("POST", f"/v1/cases/{NUMBER}/propose", body={"outcome": NAME}),
        as_fraud("POST", f"/v1/cases/{NUMBER}/report", body={"reveal": True, "carrier": NAME}),
        as_fraud("GET", "/v1/precision", params={"wanted": NUMBER}),
        as_fraud("POST", "/v1/sweeps", body={"scope": NAME}),
        as_fraud("GET", f"/v1/sweeps/{NUMBER}/groups/{NAME}"),
        ("GET", "/v1/audit", {"key": "operator", "params": {"subject": f"{NAME}\0"}}),
        (*export, {"key": "operator", "body": {"document": wrong, "reason": NAME}}),
        (*export, {"key": "operator", "body": {"document": NUMBER, "reason": NUMBER}}),
    ]


def failing_desk_calls() -> list[Ask]:
    """Of faces, outlets, holds and sessions."""
    outlet, case = "/v1/outlets/b1", "0198c2a4-7c1e-7b52-9d0c-3f4b6f6f6f10"
    reason = {"case_id": case, "reason": f"{NAME} {NUMBER}"}
    asked: list[Ask] = [
        ("POST", "/v1/faces/query", {"body": {"document_ids": [NUMBER]}}),
        ("POST", "/v1/faces/query", {"body": {"document_ids": [case], NAME: NUMBER}}),
        ("GET", "/v1/outlets", {"params": {"restriction": NAME}}),
        ("GET", f"/v1/outlets/{NAME}", {}),
        ("GET", f"/v1/outlets/{NUMBER}/enrollments", {}),
        ("GET", f"{outlet}/enrollments", {"params": {"id_end": NAME}}),
        ("GET", f"{outlet}/enrollments", {"params": {"after": NUMBER}}),
        ("POST", f"{outlet}/suspend", {"body": reason}),
        ("POST", f"{outlet}/bar", {"body": reason}),
        ("POST", f"{outlet}/lift", {"body": {"restriction": "barred", "reason": NAME}}),
        ("POST", f"{outlet}/lift", {"body": {"restriction": NAME, "reason": NUMBER}}),
        ("POST", f"/v1/cases/{NUMBER}/report", {"body": {NAME: NUMBER}}),
        ("POST", f"/v1/cases/{NUMBER}/assign", {"body": {"assignee": f"{NAME}\0"}}),
        ("DELETE", "/v1/session", {}),
    ]
    return [
        *((method, path, {"key": "fraud", **more}) for method, path, more in asked),
        ("GET", f"/v1/documents/{NUMBER}/erasure", {"key": "operator"}),
        ("GET", f"/console/{NAME}", {"key": None}),
        ("GET", "/console/signed-in", {"key": None, "params": {"code": NUMBER, "state": NAME}}),
    ]


def failing_calls(activation: Callable[..., dict[str, Any]], faces: dict[str, bytes]) -> list[Ask]:
    body = activation()
    probe = {"image": faces["stranger"]}
    wrong = {"type": "cn-ric", "number": "110105198503071250"}
    key = {"headers": {"idempotency-key": f"{NAME} {MSISDN}"}}
    document = body["document"]
    return [
        ("POST", ENROLLMENTS, {"body": body | {NAME: NUMBER}, **key}),
        ("POST", ENROLLMENTS, {"body": body | {"document": document | {NAME: NAME}}, **key}),
        ("POST", ENROLLMENTS, {"body": body | {"document": f"{NAME} {NUMBER}"}, **key}),
        ("POST", ENROLLMENTS, {"body": body | {"live": NAME}, **key}),
        ("POST", ENROLLMENTS, {"body": body | {"live": NAME.encode()}, **key}),
        ("POST", ENROLLMENTS, {"body": body | {"msisdn": f"{MSISDN}x{NAME}"}, **key}),
        ("POST", ENROLLMENTS, {"body": body | {"outlet": NAME}, **key}),
        ("POST", ENROLLMENTS, {"body": body | {"captured_at": NAME}, **key}),
        ("POST", ENROLLMENTS, {"body": body, "key": "fraud", **key}),
        ("POST", ENROLLMENTS, {"body": body, "headers": {"idempotency-key": NAME * 30}}),
        ("POST", ENROLLMENTS, {"content": f"{{{NAME}".encode(), **key}),
        ("GET", ENROLLMENTS, {"params": {"idempotency_key": f"{NAME} {MSISDN}"}}),
        ("GET", f"{ENROLLMENTS}/{NUMBER}", {}),
        ("POST", "/v1/verifications", {"body": {"probe": probe, "line": MSISDN}}),
        ("POST", "/v1/verifications", {"body": {"probe": probe, "line": NAME}}),
        ("POST", "/v1/verifications", {"body": {"probe": probe, "document": wrong}}),
        ("POST", "/v1/verifications", {"body": {"probe": NAME, "document_id": NUMBER}}),
        ("POST", "/v1/lines/query", {"body": {"probe": probe, "document": wrong}}),
        ("POST", f"/v1/lines/{MSISDN}/dispute", {"body": {"probe": probe, "document": wrong}}),
        ("DELETE", f"/v1/lines/{MSISDN}", {}),
        ("DELETE", f"/v1/documents/{NUMBER}", {"key": "operator"}),
        *failing_registrar_calls(wrong),
        *failing_desk_calls(),
        ("GET", f"/v1/{NAME}/{MSISDN}", {}),
        ("POST", "/v1/match", {"body": {"items": [{"id": NAME, NAME: NUMBER}]}}),
        ("GET", "/v1/me", {"key": f"sosie_{NUMBER}_{NAME}"}),
        ("GET", "/v1/me", {"headers": {"x-correlator": f"{NAME} {MSISDN}"}}),
    ]


@pytest.mark.parametrize("kind", [JSON, MSGPACK])
def test_nothing_personal_is_logged_counted_or_told_in_an_error(
    fresh, activation, faces, caplog, capfd, kind: str
) -> None:
    caplog.set_level(logging.DEBUG)
    told = []
    for method, path, options in failing_calls(activation, faces):
        response = fresh.ask(method, path, kind=kind, **options)
        assert 400 <= response.status_code < 500, (method, path, response.text)
        told.append(response.text + repr(response.headers))
    good = fresh.enroll(activation(), f"{NAME} {MSISDN}")
    assert good.status_code == 201
    asked = {"document": {"type": "cn-ric", "number": NUMBER}, "reason": "asked", "language": "zh"}
    shown = fresh.ask("POST", "/v1/subjects/export", key="operator", body=asked)
    assert shown.status_code == 200
    assert NUMBER in shown.text
    metrics = fresh.ask("GET", "/metrics", key="operator").text
    written = fresh.log_text
    assert written.count('"request"') >= len(told)
    # The test's own client logs the addresses that it asks.
    records = [one.getMessage() for one in caplog.records if one.name != "httpx"]
    kept = {"logged": written, "counted": metrics, "printed": "".join(capfd.readouterr()),
            "library logs": "\n".join(records), "told": "".join(told)}  # fmt: skip
    image = base64.b64encode(faces["stranger"]).decode()[:40]
    for where, text in kept.items():
        for fragment in (*FRAGMENTS, image):
            assert fragment not in text, where
        for key in fresh.keys.values():
            assert key not in text, where
            assert key.split("_")[-1] not in text, where


def test_the_text_of_an_unforeseen_error_is_neither_told_nor_logged(
    fresh, activation, monkeypatch
) -> None:
    async def fail(*_: Any) -> Any:
        raise ValueError(f"{NAME} {NUMBER} {MSISDN}")

    monkeypatch.setattr(Operations, "enroll", fail)
    response = fresh.enroll(activation(), "k")
    fresh.assert_refused(response, 500, "INTERNAL")
    monkeypatch.setattr(fresh.parts.faces, "sample", fail)
    response = fresh.enroll(activation(), "k")
    fresh.assert_refused(response, 500, "INTERNAL")
    for fragment in FRAGMENTS:
        assert fragment not in response.text + fresh.log_text
    assert "ValueError" in fresh.log_text
    assert "serving/api/request.py:" in fresh.log_text
