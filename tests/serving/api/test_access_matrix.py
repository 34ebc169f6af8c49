"""Every route by every role and tenant, through HTTP: what each key is answered."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.registry.records import ApiKey, utc_now
from serving.access.authentication import make_key
from serving.access.authorization import MIN_BURST, PERMISSIONS, Role
from serving.api.endpoints import ENDPOINTS, Endpoint
from tests.serving.api.driver import KEYS

MSISDN = "+8613800138000"
DOCUMENT = {"type": "cn-ric", "number": "110105199003071239"}
UNKNOWN = "0198c2a4-7c1e-7b52-9d0c-3f4b6f6f6f10"
NAMES = ("b1", "b2", "blue", "r1", "red", "fraud", "operator")

# The astronaut is enrolled at blue's outlet b1.
MATRIX: dict[str, tuple[int, int, int, int, int, int, int]] = {
    #                              b1   b2   blue  r1  red  fraud operator
    "enroll at b1":               (201, 403, 200, 403, 403, 403, 403),
    "enroll at its own outlet":   (201, 201, 400, 201, 400, 403, 403),
    "read enrollment":            (200, 404, 200, 404, 404, 200, 200),
    "find enrollment":            (200, 404, 200, 404, 404, 403, 403),
    "match 1:1":                  (200, 200, 200, 200, 200, 200, 403),
    "match 1:N":                  (403, 403, 200, 403, 200, 200, 403),
    "issue templates":            (200, 200, 200, 200, 200, 200, 403),
    "verify images":              (200, 200, 200, 200, 200, 200, 403),
    "verify line":                (200, 200, 200, 404, 404, 200, 403),
    "verify document":            (200, 200, 200, 404, 404, 200, 403),
    "verify document by id":      (200, 200, 200, 404, 404, 200, 403),
    "identify":                   (403, 403, 403, 403, 403, 200, 403),
    "query lines":                (200, 200, 200, 200, 200, 200, 403),
    "dispute line":               (201, 201, 201, 201, 201, 201, 403),
    "search people":               (403, 403, 403, 403, 403, 200, 403),
    "read document":               (403, 403, 403, 403, 403, 200, 403),
    "read crops":                  (403, 403, 403, 403, 403, 200, 403),
    "list cases":                  (403, 403, 403, 403, 403, 200, 403),
    "read case":                   (403, 403, 403, 403, 403, 404, 403),
    "assign case":                 (403, 403, 403, 403, 403, 404, 403),
    "note case":                   (403, 403, 403, 403, 403, 404, 403),
    "propose outcome":             (403, 403, 403, 403, 403, 404, 403),
    "withdraw proposal":           (403, 403, 403, 403, 403, 404, 403),
    "close case":                  (403, 403, 403, 403, 403, 404, 403),
    "expect sweep":                (403, 403, 403, 403, 403, 200, 403),
    "list sweeps":                 (403, 403, 403, 403, 403, 200, 403),
    "read sweep":                  (403, 403, 403, 403, 403, 404, 403),
    "pause sweep":                 (403, 403, 403, 403, 403, 404, 403),
    "resume sweep":                (403, 403, 403, 403, 403, 404, 403),
    "cancel sweep":                (403, 403, 403, 403, 403, 404, 403),
    "list groups":                 (403, 403, 403, 403, 403, 404, 403),
    "read group":                  (403, 403, 403, 403, 403, 404, 403),
    "precision":                   (403, 403, 403, 403, 403, 200, 403),
    "thresholds":                  (200, 200, 200, 200, 200, 200, 200),
    "read audit":                  (403, 403, 403, 403, 403, 403, 200),
    "verify audit":                (403, 403, 403, 403, 403, 403, 200),
    "start backup":               (403, 403, 403, 403, 403, 403, 201),
    "list backups":               (403, 403, 403, 403, 403, 403, 200),
    "close line":                 (403, 403, 200, 403, 404, 403, 404),
    "erase document":             (403, 403, 200, 403, 404, 403, 404),
    "metrics":                    (403, 403, 403, 403, 403, 403, 200),
    "whose key":                  (200, 200, 200, 200, 200, 200, 200),
}  # fmt: skip
"""404 to a fraud team: a case, sweep or group that is none (see test_cases, test_sweeps).
Asked in this order, each by the keys from left to right: what blue has closed or erased is
gone for the operator, who may do the same (see test_lines)."""
OPEN = {"live": "/health/live", "ready": "/health/ready", "version": "/version",
        "document": "/openapi.json"}  # fmt: skip

Call = tuple[str, str, dict[str, Any]]


@pytest.fixture
def calls(
    faces: dict[str, bytes], enrolled: dict[str, Any], activation: Callable[..., dict[str, Any]]
) -> Callable[[str, str], Call]:
    """`calls(row, key)`: method, path and options of the request."""
    face, again = {"image": faces["live"]}, {"image": faces["later"]}
    holder = {"document": DOCUMENT, "probe": again}
    line, document = f"/v1/lines/{MSISDN}", f"/v1/documents/{enrolled['document_id']}"
    case, sweep = f"/v1/cases/{UNKNOWN}", f"/v1/sweeps/{UNKNOWN}"
    captured_at = activation()["captured_at"]

    def enroll(key: str, **changes: Any) -> Call:
        body = activation(captured_at=captured_at, **changes)
        return "POST", "/v1/enrollments", {"body": body, "headers": {"idempotency-key": key}}

    def post(path: str, body: dict[str, Any]) -> Call:
        return "POST", path, {"body": body}

    def make(row: str, key: str) -> Call:
        table: dict[str, Callable[[], Call]] = {
            "enroll at b1": lambda: enroll("at b1"),
            "enroll at its own outlet": lambda: enroll(f"own {key}", outlet=None),
            "read enrollment": lambda: (
                "GET", f"/v1/enrollments/{enrolled['enrollment_id']}", {}),
            "find enrollment": lambda: (
                "GET", "/v1/enrollments",
                {"params": {"idempotency_key": enrolled["idempotency_key"]}}),
            "match 1:1": lambda: post(
                "/v1/match", {"items": [{"probe": face, "reference": again}]}),
            "match 1:N": lambda: post("/v1/match", {"items": [{"probe": face, "search": True}]}),
            "issue templates": lambda: post("/v1/templates", {"items": [face]}),
            "verify images": lambda: post(
                "/v1/verifications", {"probe": face, "reference": again}),
            "verify line": lambda: post("/v1/verifications", {"probe": face, "line": MSISDN}),
            "verify document": lambda: post(
                "/v1/verifications", {"probe": face, "document": DOCUMENT}),
            "verify document by id": lambda: post(
                "/v1/verifications", {"probe": face, "document_id": enrolled["document_id"]}),
            "identify": lambda: post("/v1/identifications", {"probe": face}),
            "query lines": lambda: post("/v1/lines/query", holder),
            "dispute line": lambda: post(f"{line}/dispute", holder),
            "search people": lambda: post("/v1/people/search", {"document": DOCUMENT}),
            "read document": lambda: ("GET", document, {}),
            "read crops": lambda: (
                "GET", f"/v1/enrollments/{enrolled['enrollment_id']}/crops", {}),
            "list cases": lambda: ("GET", "/v1/cases", {}),
            "read case": lambda: ("GET", case, {}),
            "assign case": lambda: post(f"{case}/assign", {"assignee": "me"}),
            "note case": lambda: post(f"{case}/notes", {"text": "seen"}),
            "propose outcome": lambda: post(f"{case}/propose", {"outcome": "fraud"}),
            "withdraw proposal": lambda: ("POST", f"{case}/withdraw", {}),
            "close case": lambda: post(f"{case}/close", {"outcome": "fraud"}),
            "expect sweep": lambda: post("/v1/sweeps", {"dry_run": True, "threshold": 0.6}),
            "list sweeps": lambda: ("GET", "/v1/sweeps", {}),
            "read sweep": lambda: ("GET", sweep, {}),
            "pause sweep": lambda: ("POST", f"{sweep}/pause", {}),
            "resume sweep": lambda: ("POST", f"{sweep}/resume", {}),
            "cancel sweep": lambda: ("POST", f"{sweep}/cancel", {}),
            "list groups": lambda: ("GET", f"{sweep}/groups", {}),
            "read group": lambda: ("GET", f"{sweep}/groups/any", {}),
            "precision": lambda: ("GET", "/v1/precision", {}),
            "thresholds": lambda: ("GET", "/v1/thresholds", {}),
            "read audit": lambda: ("GET", "/v1/audit", {}),
            "verify audit": lambda: ("GET", "/v1/audit/verification", {}),
            "start backup": lambda: ("POST", "/v1/backups", {}),
            "list backups": lambda: ("GET", "/v1/backups", {}),
            "close line": lambda: ("DELETE", line, {}),
            "erase document": lambda: ("DELETE", document, {}),
            "metrics": lambda: ("GET", "/metrics", {}),
            "whose key": lambda: ("GET", "/v1/me", {}),
        }  # fmt: skip
        return table[row]()

    return make


@pytest.mark.parametrize("row", MATRIX)
def test_each_key_is_answered_as_its_role_and_tenant_allow(
    own_service: Any, calls: Callable[[str, str], Call], row: str
) -> None:
    answered = []
    for key in NAMES:
        method, path, options = calls(row, key)
        answered.append(own_service.ask(method, path, key=key, **options).status_code)
    assert tuple(answered) == MATRIX[row]


@pytest.mark.parametrize(
    "key", [None, "", "sosie", "sosie_aaaaaaaaaaaa_" + "b" * 43, "é", "x" * 10_000]
)
@pytest.mark.parametrize("row", MATRIX)
def test_who_brings_no_known_key_is_refused_before_anything_else(
    service: Any, calls: Callable[[str, str], Call], row: str, key: str | None
) -> None:
    method, path, options = calls(row, "b1")
    response = service.ask(
        method,
        path,
        key=None,
        headers={} if key is None else {"authorization": f"Bearer {key}".encode()},
        content=b"\xc1",
        params=options.get("params"),
    )
    message = service.assert_refused(response, 401, "ACCESS.UNAUTHENTICATED")
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert not key or key == "sosie" or key not in message


@pytest.mark.parametrize("name", OPEN)
def test_what_needs_no_key_is_answered_without(service: Any, name: str) -> None:
    assert service.ask("GET", OPEN[name], key=None).status_code == 200


def test_a_key_may_come_in_its_own_header(service: Any) -> None:
    response = service.ask("GET", "/v1/me", key=None, headers={"x-api-key": service.keys["b1"]})
    key_id = service.keys["b1"].split("_")[1]
    assert service.read(response) == {
        "key_id": key_id,
        "role": "outlet",
        "carrier": "blue",
        "outlet": "b1",
    }


def test_a_revoked_key_is_refused_at_the_next_call(own_service: Any) -> None:
    assert own_service.ask("GET", "/v1/me", key="b2").status_code == 200
    key_id = own_service.keys["b2"].split("_")[1]
    own_service.parts.store.revoke_api_key(key_id, actor="test")
    response = own_service.ask("GET", "/v1/me", key="b2")
    own_service.assert_refused(response, 401, "ACCESS.UNAUTHENTICATED")


def test_a_key_that_has_spent_its_rate_is_told_when_to_come_again(own_service: Any) -> None:
    made = make_key(own_service.parts.vault)
    own_service.parts.store.add_api_key(
        ApiKey(made.id, made.digest, "", "carrier", "blue", None, 2.0, utc_now()), actor="test"
    )
    answers = [own_service.ask("GET", "/v1/me", key=made.text) for _ in range(MIN_BURST + 20)]
    statuses = [one.status_code for one in answers]
    assert set(statuses) == {200, 429}
    assert set(statuses[:MIN_BURST]) == {200}
    own_service.assert_refused(answers[statuses.index(429)], 429, "ACCESS.RATE_LIMITED")


def endpoint_at(method: str, path: str) -> Endpoint:
    [found] = [
        one
        for one in ENDPOINTS
        if one.method == method
        and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", one.path), path)
        # `/v1/lines/query` and `/v1/audit/verification` have paths of their own.
        and ("{" not in one.path or path not in {other.path for other in ENDPOINTS})
    ]
    return found


def test_the_matrix_has_every_endpoint_of_the_table_and_says_what_its_action_allows(
    calls: Callable[[str, str], Call],
) -> None:
    asked = {("GET", path) for path in OPEN.values()} - {("GET", "/openapi.json")}
    for row, statuses in MATRIX.items():
        method, path, _ = calls(row, "b1")
        endpoint = endpoint_at(method, path)
        asked.add((method, endpoint.path))
        for name, status in zip(NAMES, statuses, strict=True):
            is_allowed = endpoint.action is None or KEYS[name][0] in PERMISSIONS[endpoint.action]
            assert is_allowed or status == 403, (row, name)
    assert asked == {(one.method, one.path) for one in ENDPOINTS}


def test_the_page_about_the_interface_has_the_same_matrix() -> None:
    lines = ["| operation | | " + " | ".join(Role) + " |", "|---|---|" + "---|" * len(Role)]
    for one in ENDPOINTS:
        may = [one.action is None or role in PERMISSIONS[one.action] for role in Role]
        marks = " | ".join("yes" if allowed else "" for allowed in may)
        key = marks if one.needs_key else " | ".join(["no key"] * len(Role))
        lines.append(f"| `{one.method} {one.path}` | {one.operation_id} | {key} |")
    page = Path(__file__).parents[3] / "docs" / "api.md"
    assert "\n".join(lines) in page.read_text("utf-8"), "\n".join(lines)
