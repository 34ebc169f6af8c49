"""Schemathesis over the document: no 500, and no status, type or shape that it does not describe.

For longer: `pytest tests/serving/api/test_schemathesis.py --hypothesis-profile=long`.
"""

import base64
from datetime import UTC, datetime
from typing import Any

import msgpack
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving.api.body import FORM, MSGPACK
from serving.api.endpoints import ENDPOINTS
from tests.serving.api.test_cases import see

pytestmark = pytest.mark.slow

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
# Deep enough for each route: the key that may do the most there.
FRAUD = (
    "/v1/identifications",
    "/v1/people",
    "/v1/cases",
    "/v1/outlets",
    "/v1/exceptions",
    "/v1/sweeps",
    "/v1/precision",
)
OPERATOR = ("/metrics", "/v1/audit", "/v1/imports", "/v1/subjects")
# Of these a body has one, which no schema says.
CHOICES = {
    "/v1/match": ("reference",),
    "/v1/verifications": ("reference", "line", "document", "document_id"),
    "/v1/people/search": ("document", "msisdn"),
}
BODILESS = ("withdraw", "pause", "resume", "cancel", "backups", "rotate", "/end")


@schemathesis.serializer(MSGPACK)
def pack(ctx: Any, value: Any) -> bytes:
    del ctx
    packed: bytes = msgpack.packb(value, default=str)
    return packed


OPERATIONS = [(one.method, one.path) for one in ENDPOINTS]


@pytest.fixture(scope="module")
def described(own_service) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", own_service.app)


def test_every_operation_is_asked(described) -> None:
    found = {(one.ok().method.upper(), one.ok().path) for one in described.get_all_operations()}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_answer_is_one_that_the_document_describes(
    described, own_service, method: str, path: str, mode: GenerationMode
) -> None:
    cases = described[path][method].as_strategy(generation_mode=mode)
    assert ask_all(own_service, method, path, cases, is_hasty=mode is GenerationMode.NEGATIVE)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        one
        for one in OPERATIONS
        # No carrier here reports changes of SIM. What is reported of a holder changes the answers
        # of all others: `test_people_apart` does it.
        if one[0] == "POST"
        and not one[1].endswith((*BODILESS, "imports", "/death", "/withdrawal"))
        and not one[1].startswith("/camara")
    ],
)
def test_so_is_every_answer_beyond_a_photograph_that_is_one(
    described, own_service, faces, open_case, enrolled, method: str, path: str
) -> None:
    image = base64.b64encode(faces["later"]).decode()
    is_about_case = any(name in path for name in ("{case_id}", "{outlet}"))
    case_id = open_case(own_service, path) if is_about_case else None
    webhook_id = prepare_webhook(own_service) if "{webhook_id}" in path else None
    if path.endswith(("/close", "/reopen")):
        # Operations asked before this one may have proposed something else about the same faces.
        own_service.ask("POST", f"/v1/cases/{case_id}/withdraw", key="fraud", body={})
        body = {"outcome": "unfounded", "seen_at": see(own_service, case_id)}
        proposal = {"key": "second", "body": body}
        proposed = own_service.ask("POST", f"/v1/cases/{case_id}/propose", **proposal)
        assert proposed.status_code == 200, proposed.text
    if path.endswith("/reopen"):
        body["seen_at"] = see(own_service, case_id)
        closed = own_service.ask("POST", f"/v1/cases/{case_id}/close", key="fraud", body=body)
        assert closed.status_code == 200, closed.text
    outlet, restriction = prepare_outlet(own_service, path, case_id)
    ids = {"document_id": enrolled["document_id"]}
    if "{campaign_id}" in path:
        campaign = {"name": "all", "deadline": "2099-01-01T00:00:00Z"}
        made = own_service.read(own_service.ask("POST", "/v1/campaigns", body=campaign))
        ids["campaign_id"] = made["campaign_id"]

    def deepen(case: Any) -> Any:
        # Random bytes are no photograph, and random digits no number: few cases would go on.
        sound = {
            "live": image,
            "portrait": image,
            "probe": {"image": image},
            "image": image,
            "document": {"type": "cn-ric", "number": "110105199003071239"},
            "captured_at": datetime.now(UTC).isoformat(),
            "seen_at": see(own_service, case_id),
            "msisdn": "+8613800138000",
            "sink": "https://systems.example/sosie",
        }
        if path == "/v1/enrollments":
            sound["document"] = {**sound["document"], "name": "Aileen Probe"}
            sound["outlet"] = "b1"
            # Both photographs, and nobody whom rules treat apart.
            case.body.update({"live": image, "portrait": image, "outlet": "b1"})
            for name in ("guardian", "exception", "replaces"):
                case.body.pop(name, None)
        if path.endswith("/replay"):
            sound["after"] = "0"
        bodies = case.body["items"] if isinstance(case.body.get("items"), list) else [case.body]
        for body in bodies:
            body.update({name: value for name, value in sound.items() if name in body})
            if path.endswith("/propose"):
                body.update({"close_lines": [], "keep_lines": True})
            if path.endswith("/close"):
                # What another person has proposed.
                body.update({"outcome": "unfounded", "close_lines": [], "keep_lines": False})
            if path in CHOICES:
                for name in CHOICES[path]:
                    body.pop(name, None)
                body["probe"] = {"image": image}
                if path != "/v1/people/search":
                    body["reference"] = {"image": image}
        if path.endswith("/events"):
            # One that does not end the line, and now.
            case.body.update({"kind": "sim_swap", "at": datetime.now(UTC).isoformat()})
        elif path == "/v1/campaigns":
            case.body.pop("carrier", None)
            case.body["deadline"] = "2099-01-01T00:00:00Z"
        for name in ids.keys() & case.path_parameters.keys():
            case.path_parameters[name] = ids[name]
        if "line" in case.path_parameters:
            case.path_parameters["line"] = "+8613800138000"
        if "outlet" in case.path_parameters:
            case.path_parameters["outlet"] = outlet
            found = {"case_id": case_id, "restriction": restriction, "reason": "seen"}
            case.body.update({name: found[name] for name in found if name in case.body})
        if "case_id" in case.path_parameters:
            case.path_parameters["case_id"] = case_id
        if "webhook_id" in case.path_parameters:
            case.path_parameters["webhook_id"] = webhook_id
        return case

    operation = described[path][method]
    cases = operation.as_strategy(generation_mode=GenerationMode.POSITIVE).filter(
        lambda case: case.media_type != FORM and isinstance(case.body, dict)
    )
    seen = ask_all(own_service, method, path, cases.map(deepen), is_hasty=False, at_most=5)
    assert seen & {200, 201}


def prepare_webhook(service: Any) -> str:
    """A carrier's webhook: the first, or a new one."""
    listed = service.read(service.ask("GET", "/v1/webhooks"))["webhooks"]
    body = {"sink": "https://systems.example/sosie"}
    made = listed or [service.read(service.ask("POST", "/v1/webhooks", body=body))["webhook"]]
    webhook_id: str = made[0]["webhook_id"]
    return webhook_id


def prepare_outlet(service: Any, path: str, case_id: str | None) -> tuple[str, str | None]:
    """An outlet that this step may be taken against, and its restriction."""
    if "{outlet}" not in path or path.endswith("/suspend"):
        return "b2", None
    body = {"case_id": case_id, "reason": "seen by another"}
    service.ask("POST", "/v1/outlets/r1/suspend", key="second", body=body)
    state = service.read(service.ask("GET", "/v1/outlets/r1", key="fraud"))
    return "r1", state["restriction"]


def key_for(path: str, method: str) -> str:
    if path.startswith(FRAUD) or path.endswith(("/crops", "/faces/query", "/exemption", "/death")):
        return "fraud"
    if (method, path) == ("GET", "/v1/documents/{document_id}"):
        return "fraud"
    return "operator" if path.startswith(OPERATOR) else "blue"


def ask_all(
    service: Any, method: str, path: str, cases: Any, *, is_hasty: bool, at_most: int | None = None
) -> set[int]:
    """The statuses that were answered. Who is not impatient has time for every answer."""
    headers = {"Authorization": f"Bearer {service.keys[key_for(path, method)]}"}
    if not is_hasty:
        headers["x-timeout-ms"] = "20000"
    seen: set[int] = set()

    def ask(case: Any) -> None:
        response = case.call_and_validate(checks=CHECKS, headers=headers)
        assert response.status_code != 500
        seen.add(response.status_code)

    # To make a case takes longer than to ask it, and what has no body has few parameters.
    is_bodiless = method != "POST" or path.endswith(BODILESS)
    count = at_most or settings.default.max_examples // (16 if is_bodiless else 8)
    run = settings(
        deadline=None, suppress_health_check=list(HealthCheck), database=None, max_examples=count
    )
    run(given(case=cases)(ask))()
    return seen
