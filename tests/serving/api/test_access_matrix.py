"""Every route by every role and tenant, through HTTP: what each key is answered."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.registry.database import utc_now
from schema.actors import Role
from serving.access.authorization import PERMISSIONS
from serving.api.endpoints import ENDPOINTS, Endpoint
from tests.serving.api.driver import KEYS

MSISDN = "+8613800138000"
DOCUMENT = {"type": "cn-ric", "number": "110105199003071239"}
UNKNOWN = "0198c2a4-7c1e-7b52-9d0c-3f4b6f6f6f10"
NAMES = ("b1", "b2", "blue", "r1", "red", "fraud", "operator", "metrics")

SIM_SWAP = "/camara/sim-swap/v2"
OPEN = {"live": "/health/live", "ready": "/health/ready", "version": "/version",
        "document": "/openapi.json"}  # fmt: skip

Call = tuple[str, str, dict[str, Any]]
"""Method, path and options of a request."""
Statuses = tuple[int, ...]
"""What each of `NAMES` is answered."""
Matrix = Callable[[str], list[tuple[Call, Statuses]]]


def get(path: str, **params: str) -> Call:
    return "GET", path, {"params": params} if params else {}


def post(path: str, body: dict[str, Any] | None = None) -> Call:
    return "POST", path, {"body": body} if body else {}


def only(**statuses: int) -> Statuses:
    """These, and to the other keys 403."""
    return tuple(statuses.get(name, 403) for name in NAMES)


def all_but_operators(status: int) -> Statuses:
    return only(**dict.fromkeys(NAMES[:-2], status))


@pytest.fixture
def matrix(faces, enrolled, activation) -> Matrix:
    """`matrix(key)`: the requests with that key, and what all keys are answered.

    The astronaut is enrolled at blue's outlet b1. To a fraud team 404 is a case, sweep or group
    that is none (see test_cases, test_sweeps). Asked in this order, each by the keys from left to
    right: what blue has closed is gone for the operator, who may do the same (see test_lines).
    """
    face, again = {"image": faces["live"]}, {"image": faces["later"]}
    holder = {"document": DOCUMENT, "probe": again}
    line, document = f"/v1/lines/{MSISDN}", f"/v1/documents/{enrolled['document_id']}"
    enrollment = f"/v1/enrollments/{enrolled['enrollment_id']}"
    case, sweep = f"/v1/cases/{UNKNOWN}", f"/v1/sweeps/{UNKNOWN}"
    webhook, no_webhook = f"/v1/webhooks/{UNKNOWN}", only(blue=404, red=404, operator=404)
    campaign, number = f"/v1/campaigns/{UNKNOWN}", {"phoneNumber": MSISDN}
    running = {"name": "all", "deadline": "2099-01-01T00:00:00Z"}
    all_but_metrics = only(**dict.fromkeys(NAMES[:-1], 200))
    captured_at = activation()["captured_at"]
    of_blue = dict.fromkeys(("b1", "b2", "blue", "fraud"), 200) | {"r1": 404, "red": 404}

    def enroll(key: str, **changes: Any) -> Call:
        body = activation(captured_at=captured_at, **changes)
        return "POST", "/v1/enrollments", {"body": body, "headers": {"idempotency-key": key}}

    decided = {"outcome": "fraud", "seen_at": utc_now().isoformat()}

    def list_all(key: str) -> list[tuple[Call, Statuses]]:
        own = only(b1=201, b2=201, blue=400, r1=201, red=400)
        found = {"b1": 200, "b2": 404, "blue": 200, "r1": 404, "red": 404}
        return [
            (enroll("at b1"), only(b1=201, blue=200)),
            (enroll(f"own {key}", outlet=None), own),
            (get(enrollment), only(**found, fraud=200, operator=200)),
            (get("/v1/enrollments", idempotency_key=enrolled["idempotency_key"]), only(**found)),
            (
                post("/v1/match", {"items": [{"probe": face, "reference": again}]}),
                all_but_operators(200),
            ),
            (
                post("/v1/match", {"items": [{"probe": face, "search": True}]}),
                only(blue=200, red=200, fraud=200),
            ),
            (post("/v1/templates", {"items": [face]}), all_but_operators(200)),
            (
                post("/v1/verifications", {"probe": face, "reference": again}),
                all_but_operators(200),
            ),
            (post("/v1/verifications", {"probe": face, "line": MSISDN}), only(**of_blue)),
            (post("/v1/verifications", {"probe": face, "document": DOCUMENT}), only(**of_blue)),
            (
                post("/v1/verifications", {"probe": face, "document_id": enrolled["document_id"]}),
                only(**of_blue),
            ),
            (post("/v1/identifications", {"probe": face}), only(fraud=200)),
            (post("/v1/lines/query", holder), all_but_operators(200)),
            (post(f"{line}/dispute", holder), all_but_operators(201)),
            (post("/v1/people/search", {"document": DOCUMENT}), only(fraud=200)),
            (get(document), only(fraud=200)),
            (get(f"{enrollment}/crops"), only(fraud=200)),
            (get(f"{document}/death"), only(fraud=404, operator=404)),
            (post(f"{document}/death", {"step": "confirm"}), only(fraud=404, operator=404)),
            (get("/v1/exceptions/outlets"), only(fraud=200)),
            (post("/v1/faces/query", {"document_ids": [enrolled["document_id"]]}), only(fraud=200)),
            (get("/v1/cases"), only(fraud=200)),
            (get(case), only(fraud=404)),
            (post(f"{case}/assign", {"assignee": "me"}), only(fraud=404)),
            (post(f"{case}/notes", {"text": "seen"}), only(fraud=404)),
            (post(f"{case}/propose", decided), only(fraud=404)),
            (post(f"{case}/withdraw"), only(fraud=404)),
            (post(f"{case}/close", decided), only(fraud=404)),
            (post(f"{case}/report", {"reveal": True}), only(fraud=404)),
            (post("/v1/sweeps", {"dry_run": True, "threshold": 0.6}), only(fraud=200)),
            (get("/v1/sweeps"), only(fraud=200)),
            (get(sweep), only(fraud=404)),
            *((post(f"{sweep}/{step}"), only(fraud=404)) for step in ("pause", "resume", "cancel")),
            (get(f"{sweep}/groups"), only(fraud=404)),
            (get(f"{sweep}/groups/any"), only(fraud=404)),
            (get("/v1/precision"), only(fraud=200)),
            (get("/v1/events"), only(blue=200, red=200, fraud=200, operator=200)),
            (get("/v1/webhooks"), only(blue=200, red=200, operator=200)),
            (
                post("/v1/webhooks", {"sink": "https://b.example/", "carrier": "blue"}),
                only(blue=201, operator=201),
            ),
            (get(webhook), no_webhook),
            (("PATCH", webhook, {"body": {"state": "paused"}}), no_webhook),
            (post(f"{webhook}/rotate"), no_webhook),
            (post(f"{webhook}/replay", {"after": "0"}), no_webhook),
            (get(f"{webhook}/dead-letters"), no_webhook),
            (post(f"{webhook}/dead-letters/retry", {"events": []}), no_webhook),
            (("DELETE", webhook, {}), no_webhook),
            # Its moment lies before the line was opened.
            (
                post(f"{line}/events", {"kind": "sim_swap", "at": "2020-01-01T00:00:00Z"}),
                only(blue=422, red=404, operator=422),
            ),
            (get(f"{line}/events"), only(blue=200, red=404, fraud=200, operator=200)),
            (post(f"{document}/exemption", {"cause": "business"}), only(fraud=200)),
            (get(f"{document}/exemption"), only(fraud=200)),
            (("DELETE", f"{document}/exemption", {}), only(fraud=200)),
            (post("/v1/campaigns", running), only(blue=201, red=201, operator=400)),
            (get("/v1/campaigns"), only(blue=200, red=200, operator=200)),
            (get(campaign), only(blue=404, red=404, operator=404)),
            (get(f"{campaign}/lines"), only(blue=404, red=404, operator=404)),
            (post(f"{campaign}/end"), only(blue=404, red=404, operator=404)),
            (post(f"{campaign}/lines", {"lines": [MSISDN]}), only(blue=404, red=404, operator=404)),
            # No carrier here reports changes of SIM.
            (post(f"{SIM_SWAP}/retrieve-date", number), only(blue=422, red=404, fraud=422)),
            (post(f"{SIM_SWAP}/check", number), only(blue=422, red=404, fraud=422)),
            (get("/v1/thresholds"), all_but_metrics),
            (get("/v1/audit"), only(operator=200)),
            (get("/v1/audit/verification"), only(operator=200)),
            (post("/v1/backups"), only(operator=201)),
            (get("/v1/backups"), only(operator=200)),
            # Sealed by nobody.
            (post("/v1/imports", {"sealed": "AQAAAAAA"}), only(operator=400)),
            (("DELETE", line, {}), only(blue=200, red=404, operator=404)),
            # The dispute above needs it.
            (("DELETE", document, {}), only(blue=202, red=404, operator=202)),
            (get(f"{document}/erasure"), only(blue=200, red=404, operator=200)),
            (get("/v1/outlets"), only(fraud=200)),
            (get("/v1/outlets/b1"), only(fraud=200)),
            (get("/v1/outlets/b1/enrollments"), only(fraud=200)),
            (post("/v1/outlets/b1/suspend", {"case_id": UNKNOWN, "reason": "x"}), only(fraud=404)),
            (post("/v1/outlets/b1/bar", {"case_id": UNKNOWN, "reason": "x"}), only(fraud=403)),
            (
                post("/v1/outlets/b1/lift", {"restriction": "barred", "reason": "x"}),
                only(fraud=409),
            ),
            (get("/metrics"), only(operator=200, metrics=200)),
            (get("/v1/me"), all_but_metrics),
            # A key is not signed out.
            (("DELETE", "/v1/session", {}), (400,) * len(NAMES)),
        ]

    return list_all


def test_each_key_is_answered_as_its_role_and_tenant_allow(own_service, matrix) -> None:
    requests = {key: [call for call, _ in matrix(key)] for key in NAMES}
    for place, ((method, path, _), statuses) in enumerate(matrix("b1")):
        answered = []
        for key in NAMES:
            options = requests[key][place][2]
            answered.append(own_service.ask(method, path, key=key, **options).status_code)
        assert tuple(answered) == statuses, (method, path, place)


@pytest.mark.parametrize(
    "key", [None, "", "sosie", "sosie_aaaaaaaaaaaa_" + "b" * 43, "é", "x" * 10_000]
)
def test_who_brings_no_known_key_is_refused_before_anything_else(
    service, matrix, key: str | None
) -> None:
    headers = {} if key is None else {"authorization": f"Bearer {key}".encode()}
    for (method, path, options), _ in matrix("b1"):
        response = service.ask(
            method, path, key=None, headers=headers, content=b"\xc1", params=options.get("params")
        )
        code = "UNAUTHENTICATED" if path.startswith(SIM_SWAP) else "ACCESS.UNAUTHENTICATED"
        message = service.assert_refused(response, 401, code)
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert not key or key == "sosie" or key not in message


@pytest.mark.parametrize("name", OPEN)
def test_what_needs_no_key_is_answered_without(service, name: str) -> None:
    assert service.ask("GET", OPEN[name], key=None).status_code == 200


def test_a_key_may_come_in_its_own_header(service) -> None:
    response = service.ask("GET", "/v1/me", key=None, headers={"x-api-key": service.keys["b1"]})
    key_id = service.keys["b1"].split("_")[-2]
    assert service.read(response) == {
        "key_id": key_id,
        "role": "outlet",
        "carrier": "blue",
        "outlet": "b1",
        "person": None,
        "name": f"key:{key_id}",
        "ends_at": None,
    }


def test_a_revoked_key_is_refused_at_the_next_call(own_service) -> None:
    assert own_service.ask("GET", "/v1/me", key="b2").status_code == 200
    key_id = own_service.keys["b2"].split("_")[-2]
    own_service.parts.store.revoke_api_key(key_id, actor="test")
    response = own_service.ask("GET", "/v1/me", key="b2")
    own_service.assert_refused(response, 401, "ACCESS.UNAUTHENTICATED")


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


def test_the_matrix_has_every_endpoint_of_the_table_and_says_what_its_action_allows(matrix) -> None:
    asked = {("GET", path) for path in OPEN.values()} - {("GET", "/openapi.json")}
    for (method, path, _), statuses in matrix("b1"):
        endpoint = endpoint_at(method, path)
        asked.add((method, endpoint.path))
        for name, status in zip(NAMES, statuses, strict=True):
            is_allowed = endpoint.action is None or KEYS[name][0] in PERMISSIONS[endpoint.action]
            assert is_allowed or status == 403, (method, path, name)
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
