"""Every route by every role and tenant, through HTTP: what each key is answered."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schema.actors import Role
from serving.api.endpoints import ENDPOINTS, Endpoint
from serving.api.openapi import EXAMPLES
from tests.serving.api.driver import KEYS

MSISDN = "+8613800138000"
DOCUMENT = {"type": "cn-ric", "number": "110105199003071239"}
UNKNOWN = "0198c2a4-7c1e-7b52-9d0c-3f4b6f6f6f10"
NAMES = ("b1", "b2", "blue", "r1", "red", "fraud", "operator", "metrics")

SIM_SWAP = "/camara/sim-swap/v2"
WITH_KEY = [one for one in ENDPOINTS if one.needs_key]

Call = tuple[str, str, dict[str, Any]]
"""Method, path and options of a request."""
Statuses = tuple[int, ...]
"""What each of `NAMES` is answered."""


def fill(endpoint: Endpoint) -> str:
    """The path, of what is not there."""
    return re.sub(r"\{\w+\}", UNKNOWN, endpoint.path)


def get(path: str, **params: str) -> Call:
    return "GET", path, {"params": params} if params else {}


def post(path: str, body: dict[str, Any]) -> Call:
    return "POST", path, {"body": body}


def only(**statuses: int) -> Statuses:
    """These, and to the other keys 403."""
    return tuple(statuses.get(name, 403) for name in NAMES)


@pytest.mark.parametrize("name", ["b1", "blue", "fraud", "operator", "metrics"])
def test_each_role_may_do_what_its_permissions_say_and_nothing_else(own_service, name: str) -> None:
    for one in WITH_KEY:
        options: dict[str, Any] = {}
        if one.body is not None:
            body = EXAMPLES[one.body][0]
            # A match's second item is a search, which is a right of its own.
            options["body"] = body | ({"items": body["items"][:1]} if "items" in body else {})
        if one.needs_idempotency_key:
            options["headers"] = {"idempotency-key": f"of {name}"}
        answered = own_service.ask(one.method, fill(one), key=name, **options).status_code
        is_allowed = one.action is None or KEYS[name][0] in one.action.roles
        assert answered != 401, one
        assert (answered != 403) == is_allowed, (one, answered)


@pytest.fixture
def rows(faces, enrolled, activation) -> Callable[[str], list[tuple[Call, Statuses]]]:
    """`rows(key)`: the requests with that key whose answers differ by tenant, and what all keys are
    answered.

    The astronaut is enrolled at blue's outlet b1. Asked in this order, each by the keys from left
    to right: what blue has closed is gone for the operator, who may do the same (see test_lines).
    """
    face, again = {"image": faces["live"]}, {"image": faces["later"]}
    holder = {"document": DOCUMENT, "probe": again}
    line, document = f"/v1/lines/{MSISDN}", f"/v1/documents/{enrolled['document_id']}"
    enrollment = f"/v1/enrollments/{enrolled['enrollment_id']}"
    number = {"phoneNumber": MSISDN}
    running = {"name": "all", "deadline": "2099-01-01T00:00:00Z"}
    captured_at = activation()["captured_at"]
    of_blue = dict.fromkeys(("b1", "b2", "blue", "fraud"), 200) | {"r1": 404, "red": 404}

    def enroll(key: str, **changes: Any) -> Call:
        body = activation(captured_at=captured_at, **changes)
        return "POST", "/v1/enrollments", {"body": body, "headers": {"idempotency-key": key}}

    def list_all(key: str) -> list[tuple[Call, Statuses]]:
        own = only(b1=201, b2=201, blue=400, r1=201, red=400)
        found = {"b1": 200, "b2": 404, "blue": 200, "r1": 404, "red": 404}
        return [
            (enroll("at b1"), only(b1=201, blue=200)),
            (enroll(f"own {key}", outlet=None), own),
            (get(enrollment), only(**found, fraud=200, operator=200)),
            (get("/v1/enrollments", idempotency_key=enrolled["idempotency_key"]), only(**found)),
            (
                post("/v1/match", {"items": [{"probe": face, "search": True}]}),
                only(blue=200, red=200, fraud=200),
            ),
            (post("/v1/verifications", {"probe": face, "line": MSISDN}), only(**of_blue)),
            (post("/v1/verifications", {"probe": face, "document": DOCUMENT}), only(**of_blue)),
            (
                post("/v1/verifications", {"probe": face, "document_id": enrolled["document_id"]}),
                only(**of_blue),
            ),
            (post(f"{line}/dispute", holder), only(**dict.fromkeys(NAMES[:-2], 201))),
            (
                post("/v1/webhooks", {"sink": "https://b.example/", "carrier": "blue"}),
                only(blue=201, operator=201),
            ),
            # Its moment lies before the line was opened.
            (
                post(f"{line}/events", {"kind": "sim_swap", "at": "2020-01-01T00:00:00Z"}),
                only(blue=422, red=404, operator=422),
            ),
            (get(f"{line}/events"), only(blue=200, red=404, fraud=200, operator=200)),
            (post("/v1/campaigns", running), only(blue=201, red=201, operator=400)),
            # No carrier here reports changes of SIM.
            (post(f"{SIM_SWAP}/retrieve-date", number), only(blue=422, red=404, fraud=422)),
            (post(f"{SIM_SWAP}/check", number), only(blue=422, red=404, fraud=422)),
            (("DELETE", line, {}), only(blue=200, red=404, operator=404)),
            # The dispute above needs it.
            (("DELETE", document, {}), only(blue=202, red=404, operator=202)),
            (get(f"{document}/erasure"), only(blue=200, red=404, operator=200)),
            (post("/v1/outlets/b1/bar", {"case_id": UNKNOWN, "reason": "x"}), only(fraud=403)),
        ]

    return list_all


def test_each_key_is_answered_as_its_tenant_allows(own_service, rows) -> None:
    requests = {key: [call for call, _ in rows(key)] for key in NAMES}
    for place, ((method, path, _), statuses) in enumerate(rows("b1")):
        answered = []
        for key in NAMES:
            options = requests[key][place][2]
            answered.append(own_service.ask(method, path, key=key, **options).status_code)
        assert tuple(answered) == statuses, (method, path, place)


@pytest.mark.parametrize(
    "key", [None, "", "sosie", "sosie_aaaaaaaaaaaa_" + "b" * 43, "é", "x" * 10_000]
)
def test_who_brings_no_known_key_is_refused_before_anything_else(
    own_service, key: str | None
) -> None:
    headers = {} if key is None else {"authorization": f"Bearer {key}".encode()}
    for one in WITH_KEY:
        path = fill(one)
        response = own_service.ask(one.method, path, key=None, headers=headers, content=b"\xc1")
        code = "UNAUTHENTICATED" if path.startswith(SIM_SWAP) else "ACCESS.UNAUTHENTICATED"
        message = own_service.assert_refused(response, 401, code)
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert not key or key == "sosie" or key not in message


def test_the_page_about_the_interface_has_the_same_matrix() -> None:
    lines = ["| operation | | " + " | ".join(Role) + " |", "|---|---|" + "---|" * len(Role)]
    for one in ENDPOINTS:
        may = [one.action is None or role in one.action.roles for role in Role]
        marks = " | ".join("yes" if allowed else "" for allowed in may)
        key = marks if one.needs_key else " | ".join(["no key"] * len(Role))
        lines.append(f"| `{one.method} {one.path}` | {one.operation_id} | {key} |")
    page = Path(__file__).parents[3] / "docs" / "api.md"
    assert "\n".join(lines) in page.read_text("utf-8"), "\n".join(lines)
