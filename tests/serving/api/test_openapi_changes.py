"""Version 1 only grows: what an old client relies on stays."""

import copy
import importlib.util
import json
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from serving.api.openapi import build_document

ROOT = Path(__file__).parents[3]
BASELINE = ROOT / ".ci" / "openapi_v1.json"
_spec = importlib.util.spec_from_file_location("openapi_changes", ROOT / ".ci/openapi_changes.py")
assert _spec is not None
assert _spec.loader is not None
changes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(changes)

Json = dict[str, Any]


@pytest.fixture(scope="module")
def baseline() -> Json:
    return dict(json.loads(BASELINE.read_text("utf-8")))


def test_the_document_has_all_that_it_had_when_version_1_was_first_kept(baseline) -> None:
    assert changes.Comparison(baseline, build_document("1")).list_breaks() == []


def enroll(document: Json) -> Json:
    return dict(document["paths"]["/v1/enrollments"])["post"]


def schema(name: str) -> Callable[[Json], Json]:
    return lambda document: document["components"]["schemas"][name]


def fields(name: str) -> Callable[[Json], Json]:
    return lambda document: document["components"]["schemas"][name]["properties"]


def find(at: Callable[[Json], Any], steps: tuple[str, ...], document: Json) -> Any:
    return reduce(lambda value, step: value[step], steps, at(document))


def drop(*steps: str, at: Callable[[Json], Any] = lambda document: document) -> Any:
    return lambda document: find(at, steps[:-1], document).pop(steps[-1])


def put(value: Any, *steps: str, at: Callable[[Json], Any]) -> Any:
    return lambda document: find(at, steps[:-1], document).update({steps[-1]: value})


def take_out(value: Any, *steps: str, at: Callable[[Json], Any]) -> Any:
    return lambda document: find(at, steps, document).remove(value)


def add(value: Any, *steps: str, at: Callable[[Json], Any]) -> Any:
    return lambda document: find(at, steps, document).append(value)


def listed(document: Json, name: str = "Enrollment") -> Json:
    """Fields of a request, lists of types as dicts by their places."""
    found = document["components"]["schemas"][f"{name}Request"]["properties"]

    def look(one: Json) -> Json:
        if "anyOf" not in one:
            return one
        return {**one, "anyOf": {str(place): kind for place, kind in enumerate(one["anyOf"])}}

    return {field: look(one) for field, one in found.items()}


REQUEST, ANSWER = "EnrollmentRequest", "Enrollment"
NEW = {"name": "shade", "in": "query", "schema": {"type": "string"}}
NULL = {"type": "null"}
FORM = ("requestBody", "content", "multipart/form-data")
BREAKS = {
    "POST /v1/match: the operation is gone": drop("paths", "/v1/match"),
    "POST /v1/enrollments: is named decide": put("decide", "operationId", at=enroll),
    "GET /version: needs a key now": put(
        [{"bearer": []}], "security", at=lambda d: d["paths"]["/version"]["get"]
    ),
    "a way to send the key is gone": take_out({"apiKey": []}, "security", at=enroll),
    "the parameter is gone": lambda d: d["paths"]["/v1/events"]["get"]["parameters"].pop(0),
    "query shade: a new parameter is required": add(
        {**NEW, "required": True}, "parameters", at=enroll
    ),
    "Idempotency-Key: maxLength is 36, was 255": lambda d: enroll(d)["parameters"][0][
        "schema"
    ].update(maxLength=36),
    "multipart/form-data: is taken no more": drop(*FORM, at=enroll),
    ".live: the field is gone": drop(*FORM, "schema", "properties", "live", at=enroll),
    "answer 201: is gone": drop("responses", "201", at=enroll),
    "may answer 202 now": put({"description": "later"}, "responses", "202", at=enroll),
    "header Idempotency-Replayed: is gone": drop(
        *("responses", "200", "headers", "Idempotency-Replayed"), at=enroll
    ),
    "answer 201 as application/msgpack: is gone": drop(
        *("responses", "201", "content", "application/msgpack"), at=enroll
    ),
    f"{REQUEST} in requests.consent_ref: the field is gone": drop(
        "consent_ref", at=fields(REQUEST)
    ),
    f"{ANSWER} in answers.decided_at: the field is gone": drop("decided_at", at=fields(ANSWER)),
    "decided_at: may be missing now": take_out("decided_at", "required", at=schema(ANSWER)),
    "is_repeated: may be null": put(
        {"anyOf": [{"type": "boolean"}, NULL]}, "is_repeated", at=fields(ANSWER)
    ),
    "is_repeated: may be string": put({"type": "string"}, "is_repeated", at=fields(ANSWER)),
    "AuditEntry in answers.number: may be integer/number": put(
        {"type": "number"}, "number", at=fields("AuditEntry")
    ),
    "decision: no more review": take_out("review", "decision", "enum", at=fields(ANSWER)),
    f"{REQUEST} in requests.outlet: is required now": add("outlet", "required", at=schema(REQUEST)),
    f"{REQUEST} in requests.shade: is required now": lambda d: (
        fields(REQUEST)(d).update(shade={"type": "string"}),
        schema(REQUEST)(d)["required"].append("shade"),
    ),
    "portrait_kind: no more chip": take_out(
        "chip", "portrait_kind", "anyOf", "0", "enum", at=listed
    ),
    "consent_ref: takes only some values now": put(
        {"type": "string", "enum": ["a"]}, "consent_ref", at=fields(REQUEST)
    ),
    "consent_ref: maxLength is 9, was 200": put(9, "consent_ref", "maxLength", at=fields(REQUEST)),
    "items: maxItems is 64, was 256": put(64, "items", "maxItems", at=fields("MatchRequest")),
    "live: can no longer be array": put(
        {"type": "string", "format": "byte"}, "live", at=fields(REQUEST)
    ),
    "threshold: maximum is 0.5": put(
        0.5, "threshold", "anyOf", "0", "maximum", at=lambda d: listed(d, "Identification")
    ),
}


@pytest.mark.parametrize("line", BREAKS)
def test_every_kind_of_breaking_change_is_seen(baseline, line: str) -> None:
    changed = copy.deepcopy(baseline)
    BREAKS[line](changed)
    found = changes.Comparison(baseline, changed).list_breaks()
    assert any(line in one for one in found), found


GROWTH = {
    "an operation": lambda d: d["paths"].update(
        {"/v1/more": copy.deepcopy(d["paths"]["/version"])}
    ),
    "an optional parameter": add(NEW, "parameters", at=enroll),
    "an optional field of a request": put({"type": "string"}, "shade", at=fields(REQUEST)),
    "a field of an answer": put({"type": "string"}, "shade", at=fields(ANSWER)),
    "a field that every answer has": add("shade", "required", at=schema(ANSWER)),
    "a value of an answer": add("postponed", "decision", "enum", at=fields(ANSWER)),
    "a value of a request": add("drawn", "portrait_kind", "anyOf", "0", "enum", at=listed),
    "a longer text in a request": put(400, "consent_ref", "maxLength", at=fields(REQUEST)),
    "a status of an error": lambda d: enroll(d)["responses"].update({"410": {}}),
    "a further content type of an answer": lambda d: enroll(d)["responses"]["201"][
        "content"
    ].update({"application/cbor": {"schema": {}}}),
    "an answer's text in a narrower form": put(10, "model_digest", "maxLength", at=fields(ANSWER)),
}


@pytest.mark.parametrize("kind", GROWTH)
def test_growth_breaks_nothing(baseline, kind: str) -> None:
    changed = copy.deepcopy(baseline)
    GROWTH[kind](changed)
    assert changed != baseline
    assert changes.Comparison(baseline, changed).list_breaks() == []
