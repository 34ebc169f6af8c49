"""What each route refuses, with which code, and without a word of what it was sent."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from serving.api.body import JSON, MSGPACK
from tests.engine.faces.test_images import png_header

ENROLLMENTS = "/v1/enrollments"
MSISDN = "+8613800138000"
UNKNOWN = "0198c2a4-7c1e-7b52-9d0c-3f4b6f6f6f10"
DOCUMENT = {"type": "cn-ric", "number": "110105199003071239"}
WRONG_DIGIT = {"document": DOCUMENT | {"number": "110105199003071230"}}
LIBRARY_CARD = {"document": {"type": "library-card", "number": "7"}}
SECRETS = ("Stan", "Aileen", "1101051", "13800138", "library")


def key_of(path: str) -> str:
    teams = ("/v1/cases", "/v1/sweeps", "/v1/people", "/v1/identifications")
    return "fraud" if path.startswith(teams) else "blue"


def moment(**ago: float) -> str:
    return (datetime.now(UTC) - timedelta(**ago)).isoformat()


# -- Queries ----------------------------------------------------------------------------------

QUERIES: dict[str, list[dict[str, str]]] = {
    "/v1/cases": [{"state": "lost"}, {"limit": "0"}, {"after": UNKNOWN}, {"kind": "x" * 65}],
    "/v1/audit": [{"after": "-1"}, {"after": str(2**53)}],
    "/v1/audit/verification": [{"after": str(10**6)}],
    f"/v1/sweeps/{UNKNOWN}/groups": [{"after": "-1"}],
    ENROLLMENTS: [{}, {"idempotency_key": ""}, {"idempotency_key": "x" * 10_240}],
}


@pytest.mark.parametrize(
    ("path", "asked"), [(path, asked) for path, several in QUERIES.items() for asked in several]
)
def test_a_question_that_is_none_is_refused(service, path: str, asked: dict[str, str]) -> None:
    key = "operator" if path.startswith("/v1/audit") else key_of(path)
    response = service.ask("GET", path, key=key, params=asked)
    service.assert_refused(response, 400, "REQUEST.MALFORMED")


# -- Bodies -----------------------------------------------------------------------------------

MALFORMED, INVALID, TEXT = "REQUEST.MALFORMED", "REQUEST.INVALID", "REQUEST.TEXT"
CASE = f"/v1/cases/{UNKNOWN}"
# What is sent beside a photograph, where the route takes one.
BODIES: dict[str, list[tuple[Any, str]]] = {
    f"{CASE}/assign": [({"assignee": "me", "state": "closed"}, MALFORMED)],
    f"{CASE}/notes": [({"text": "a\0b"}, MALFORMED), ({"text": "a\u202eb"}, TEXT)],
    f"{CASE}/propose": [({"outcome": "fraud", "seen_at": "2026-01-31T12:00:00"}, MALFORMED)],
    f"{CASE}/close": [
        ({}, MALFORMED),
        # Who does not say what they have seen judges whom they have not.
        ({"outcome": "fraud"}, MALFORMED),
        ({"outcome": "fraud", "close_lines": [UNKNOWN] * 201}, MALFORMED),
    ],
    "/v1/sweeps": [
        ({"threshold": 0.6, "fmr": 1e-6}, MALFORMED),
        ({"threshold": 2}, MALFORMED),
        # Faces that are held would be shown of anybody.
        ({"threshold": -0.9, "allow_unsupported": True}, INVALID),
        ({"threshold": float("nan")}, MALFORMED),
    ],
    "/v1/people/search": [
        ({"msisdn": MSISDN, "document": DOCUMENT}, MALFORMED),
        ({"msisdn": "call me"}, INVALID),
        (WRONG_DIGIT, INVALID),
        (LIBRARY_CARD, INVALID),
    ],
    "/v1/identifications": [
        ({"threshold": value}, MALFORMED) for value in (0.1, float("nan"), True)
    ],
    "/v1/verifications": [
        ({}, MALFORMED),
        ({"line": MSISDN, "document": DOCUMENT}, MALFORMED),
        ({"line": MSISDN, "probe": None}, MALFORMED),
        ({"line": MSISDN, "threshold": 0.1}, MALFORMED),
        ({"line": ""}, MALFORMED),
        ({"line": "call me"}, INVALID),
        ({"document": DOCUMENT | {"name": "Aileen Probe"}}, MALFORMED),
        (WRONG_DIGIT, INVALID),
        (LIBRARY_CARD, INVALID),
    ],
    "/v1/match": [({"items": [{"probe": 1}]}, MALFORMED)],
    "/v1/templates": [({"items": [{"image": b"x"}] * 257}, "MATCH.TOO_MANY_ITEMS")],
} | {
    path: [
        (WRONG_DIGIT, INVALID),
        ({"document": DOCUMENT | {"type": "library-card"}}, INVALID),
        ({"document": DOCUMENT | {"number": ""}}, MALFORMED),
    ]
    for path in ("/v1/lines/query", f"/v1/lines/{MSISDN}/dispute")
}
WITH_PROBE = ("/v1/identifications", "/v1/verifications", "/v1/lines")


@pytest.mark.parametrize(
    ("path", "body", "code"), [(path, *one) for path, several in BODIES.items() for one in several]
)
def test_a_body_that_asks_for_nothing_possible_is_refused(
    service, faces, path: str, body: Any, code: str
) -> None:
    if path.startswith(WITH_PROBE):
        body = {"probe": {"image": faces["later"]}} | body
    response = service.ask("POST", path, key=key_of(path), body=body, kind=MSGPACK)
    message = service.assert_refused(
        response, 422 if code.startswith(("MATCH", TEXT)) else 400, code
    )
    assert not any(secret in message for secret in SECRETS)


def test_a_problem_is_told_to_who_asks_for_it_with_what_an_error_tells(service) -> None:
    accept = {"accept": "application/json, application/problem+json"}
    body = {"items": [{"probe": {"image": "data:image/png;base64,aGk="}}]}
    response = service.ask("POST", "/v1/match", body=body, headers=accept)
    told = service.ask("POST", "/v1/match", body=body).json()
    assert response.headers["content-type"] == "application/problem+json"
    assert told["fields"] == ["/items/0/probe/image"]
    told |= {"detail": told.pop("message"), "title": "Bad Request"}
    assert response.json() == told


@pytest.mark.parametrize(
    ("key", "path", "status", "code"),
    [
        ("operator", "/v1/match", 403, "ACCESS.FORBIDDEN"),
        ("operator", ENROLLMENTS, 403, "ACCESS.FORBIDDEN"),
        ("blue", "/v1/match", 400, MALFORMED),
        ("blue", ENROLLMENTS, 400, MALFORMED),
    ],
)
def test_who_may_not_call_is_told_so_before_the_body_is_looked_at(
    service, key: str, path: str, status: int, code: str
) -> None:
    headers = {"content-type": MSGPACK, "idempotency-key": "k"}
    response = service.ask("POST", path, key=key, content=b"\xc1", headers=headers)
    service.assert_refused(response, status, code)


# -- Activations ------------------------------------------------------------------------------


def document(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda body: body | {"document": body["document"] | changes}


def changed(**fields: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda body: body | fields


ACTIVATIONS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a list": (lambda body: [body], MALFORMED),
    "no consent": (changed(consent_ref=None), MALFORMED),
    "an unknown field": (changed(carrier="red"), MALFORMED),
    "an unknown document type": (document(type="library-card"), INVALID),
    "a name with NUL": (document(name="Stan\0Stranger"), MALFORMED),
    "a name of punctuation": (document(name="---"), INVALID),
    "a day that is none": (document(expires_on="2031-02-30"), MALFORMED),
    "a number that is none": (changed(msisdn="call me"), INVALID),
    "a number without country": (changed(msisdn="13800138001"), INVALID),
    "an endless consent": (changed(consent_ref="C" * 201), MALFORMED),
    "consent of two directions": (changed(consent_ref="C\u202e1"), TEXT),
    "a name without width": (document(name="Stan\u200b Stranger"), TEXT),
    "an outlet of 10 kB": (changed(outlet="b" * 10_240), MALFORMED),
    "an image that is no base64": (changed(live="@@@"), MALFORMED),
    "a time without zone": (changed(captured_at="2026-01-31T12:00:00"), MALFORMED),
    "yesterday": (lambda body: body | {"captured_at": moment(hours=25)}, "REQUEST.CAPTURE_TIME"),
    "soon": (lambda body: body | {"captured_at": moment(minutes=-11)}, "REQUEST.CAPTURE_TIME"),
    "the first day": (changed(captured_at="0001-01-01T00:00:00+14:00"), MALFORMED),
    "the last day": (changed(captured_at="9999-12-31T23:59:59Z"), MALFORMED),
}


@pytest.mark.parametrize("kind", [JSON, MSGPACK])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_that_cannot_be_judged_is_refused(
    service, activation, name: str, kind: str
) -> None:
    change, code = ACTIVATIONS[name]
    response = service.enroll(change(activation()), "k", kind=kind)
    message = service.assert_refused(response, 422 if code == TEXT else 400, code)
    assert not any(secret in message for secret in SECRETS)


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (None, "REQUEST.IDEMPOTENCY_KEY_MISSING"),
        ("", "REQUEST.IDEMPOTENCY_KEY_INVALID"),
        ("x" * 256, "REQUEST.IDEMPOTENCY_KEY_INVALID"),
        ("a\tb", "REQUEST.IDEMPOTENCY_KEY_INVALID"),
        ("é".encode("latin-1"), "REQUEST.IDEMPOTENCY_KEY_INVALID"),
    ],
)
def test_an_idempotency_key_has_1_to_255_printable_characters(
    service, activation, key: Any, code: str
) -> None:
    headers = {} if key is None else {"idempotency-key": key}
    response = service.ask("POST", ENROLLMENTS, body=activation(), headers=headers)
    assert "xxx" not in service.assert_refused(response, 400, code)


@pytest.mark.parametrize("outlet", ["nowhere", "b3", "r1"])
def test_an_outlet_that_is_unknown_closed_or_foreign_is_refused(
    service, activation, outlet: str
) -> None:
    body, headers = activation(outlet=outlet), {"idempotency-key": "k"}
    response = service.ask("POST", ENROLLMENTS, body=body, headers=headers)
    service.assert_refused(response, 403, "REQUEST.OUTLET_REFUSED")


# -- Photographs ------------------------------------------------------------------------------


PHOTOGRAPHS: dict[str, tuple[Callable[[bytes], bytes], int, str]] = {
    "truncated": (lambda whole: whole[: len(whole) // 2], 400, "IMAGE.DAMAGED"),
    "text": (lambda _: b"Aileen Probe 110105199003071239", 415, "IMAGE.UNSUPPORTED"),
    "3600 megapixels": (lambda _: png_header(60_000, 60_000), 413, "IMAGE.TOO_LARGE"),
    "9 MB": (lambda whole: whole + bytes(9 * 2**20), 413, "IMAGE.TOO_LARGE"),
}


@pytest.mark.parametrize("kind", [JSON, MSGPACK, "form"])
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_an_enrollment_with_such_a_photograph_changes_nothing(
    service, faces, activation, name: str, kind: str
) -> None:
    make, status, code = PHOTOGRAPHS[name]
    before = service.parts.store.counts()
    body, headers = activation(portrait=make(faces["portrait"])), {"idempotency-key": "k"}
    response = service.ask("POST", ENROLLMENTS, body=body, kind=kind, headers=headers)
    message = service.assert_refused(response, status, code)
    assert message.startswith("portrait: ")
    assert "Aileen" not in message
    assert service.parts.store.counts() == before


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/verifications", {"line": MSISDN}),
        ("/v1/identifications", {}),
        ("/v1/lines/query", {"document": DOCUMENT}),
        (f"/v1/lines/{MSISDN}/dispute", {"document": DOCUMENT}),
    ],
)
def test_such_a_probe_and_one_without_a_face_are_refused(
    service, faces, path: str, more: dict[str, Any]
) -> None:
    probes = [(make(faces["live"]), status, code) for make, status, code in PHOTOGRAPHS.values()]
    for image, status, code in (*probes, (faces["faceless"], 422, "MATCH.NO_FACE")):
        body = {"probe": {"image": image}} | more
        response = service.ask("POST", path, key=key_of(path), body=body, kind=MSGPACK)
        assert service.assert_refused(response, status, code).startswith("probe")


# -- Ids --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["nothing", "%00", UNKNOWN, "\u00e9"])
@pytest.mark.parametrize(
    ("method", "path", "key", "body"),
    [
        ("GET", "/v1/enrollments/{}", "blue", None),
        ("GET", "/v1/enrollments/{}/crops", "fraud", None),
        ("GET", "/v1/documents/{}", "fraud", None),
        ("DELETE", "/v1/documents/{}", "operator", None),
        ("GET", "/v1/cases/{}", "fraud", None),
        ("POST", "/v1/cases/{}/withdraw", "fraud", None),
        ("POST", "/v1/cases/{}/notes", "fraud", {"text": "x"}),
        ("POST", "/v1/cases/{}/reveal", "fraud", {"reason": "x"}),
        ("GET", "/v1/sweeps/{}", "fraud", None),
        ("GET", "/v1/sweeps/{}/groups", "fraud", None),
        ("GET", "/v1/sweeps/{}/groups/x", "fraud", None),
        ("POST", "/v1/sweeps/{}/pause", "fraud", None),
        ("POST", "/v1/sweeps/{}/resume", "fraud", None),
        ("POST", "/v1/sweeps/{}/cancel", "fraud", None),
    ],
)
def test_an_id_that_nothing_has_is_not_found(
    service, method: str, path: str, key: str, body: Any, target: str
) -> None:
    response = service.ask(method, path.format(target), key=key, body=body)
    service.assert_refused(response, 404, "REQUEST.NOT_FOUND")


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("+8613800138999", 404, "REQUEST.NOT_FOUND"),
        (UNKNOWN, 404, "REQUEST.NOT_FOUND"),
        ("call-me", 400, INVALID),
        ("%00", 400, INVALID),
        ("8" * 5000, 400, INVALID),
    ],
)
def test_a_line_that_the_holder_does_not_have_is_not_disputed(
    service, faces, target: str, status: int, code: str
) -> None:
    body = {"document": DOCUMENT, "probe": {"image": faces["later"]}}
    response = service.ask("POST", f"/v1/lines/{target}/dispute", body=body)
    assert "138001" not in service.assert_refused(response, status, code)
