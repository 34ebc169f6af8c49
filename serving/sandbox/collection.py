"""A collection of requests for the sandbox in Postman's format 2.1, made from the table of
endpoints: every operation with its example, and every outcome of a document number."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from schema.actors import Role
from serving.api.endpoints import ENDPOINTS, TAGS, Endpoint
from serving.api.openapi import EXAMPLES
from serving.sandbox.outcomes import APPROVED, OUTCOMES, SILENT, Outcome, draw_picture, make_number
from serving.wire.fields import IMAGE_EXAMPLE

Json = dict[str, Any]

SCHEMA = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
KEPT = tuple(
    dict.fromkeys(
        step[1:-1]
        for one in ENDPOINTS
        for step in one.path.split("/")
        if step.startswith("{") and step.endswith("_id}")
    )
)
"""What an answer tells is kept for the requests that follow."""
PICTURES = ("picture", "other_picture")
_VALUES = {
    "line": "+8613800138000",
    "outlet": "sandbox-1",
    "key": "1",
    "idempotency_key": "{{idempotency_key}}",
}
_NEEDED: Json = {
    "guardian": {
        "document": {
            "type": "my-nric",
            "number": make_number("my-nric", APPROVED.serial),
            "name": "Gus Sand",
        },
        "live": "{{picture}}",
        "portrait": "{{other_picture}}",
    },
    "exception": "injury",
    "replaces": {"type": "pk-cnic", "number": make_number("pk-cnic", 66)},
    "proof": "signed.by.anybody",
}
"""What an outcome needs beside its document number."""
_SUCCEEDS = frozenset(
    {
        *(
            "createEnrollment",
            "findEnrollment",
            "readEnrollment",
            "match",
            "issueTemplates",
            "verify",
        ),
        *("queryLines", "disputeLine", "closeLine", "identify", "searchPeople", "readFaces"),
        *("readDocument", "eraseDocument", "listCases", "readCase", "listOutlets", "readOutlet"),
        *("listPastEnrollments", "listSweeps", "readPrecision", "readEvents", "readThresholds"),
        *("readAudit", "verifyAudit", "startBackup", "listBackups", "readKey"),
        *("readVersion", "readLiveness", "readReadiness"),
    }
)
"""Operations that must succeed where the collection runs; of others another has to do something
first, and the answer is any that the document has."""


def build_collection(version: str) -> Json:
    """The collection; its variables are the address and the keys, which `sosie sandbox` prints."""
    folders = []
    for tag in ("enrollments", *(tag for tag in TAGS if tag != "enrollments")):
        found = [one for one in ENDPOINTS if one.tag == tag and one.method != "DELETE"]
        folders.append(_folder(tag, TAGS[tag], [_describe(one) for one in found]))
    last = [one for one in ENDPOINTS if one.method == "DELETE" and one.tag != "oversight"]
    return {
        "info": {"name": f"Sosie {version}", "schema": SCHEMA},
        "auth": _bearer(Role.OUTLET),
        "variable": [
            {"key": "url", "value": "http://127.0.0.1:8700"},
            *({"key": role.value, "value": ""} for role in Role),
            *({"key": name, "value": "0"} for name in KEPT),
            {"key": "idempotency_key", "value": ""},
            *(
                {"key": name, "value": base64.b64encode(draw_picture(name)).decode()}
                for name in PICTURES
            ),
        ],
        "item": [
            _folder(
                "outcomes",
                "What document numbers mean in a sandbox.",
                [
                    _describe_outcome(one)
                    for one in (APPROVED, *OUTCOMES.values())
                    if one.serial != SILENT
                ],
            ),
            *folders,
            _folder("ends", "What ends something, at the end.", [_describe(one) for one in last]),
        ],
    }


def _folder(name: str, description: str, items: Sequence[Json]) -> Json:
    return {"name": name, "description": description, "item": items}


def _describe(endpoint: Endpoint) -> Json:
    """One request, and what its answer has to be."""
    statuses = [*endpoint.answers, *endpoint.all_errors]
    checks = [f"pm.expect({json.dumps(statuses)}).to.include(pm.response.code);"]
    if endpoint.operation_id in _SUCCEEDS:
        checks = ["pm.expect(pm.response.code).to.be.below(300);"]
    return _item(endpoint.summary, _request(endpoint), checks)


def _request(endpoint: Endpoint, body: Json | None = None) -> Json:
    """A request with this body, or with the endpoint's example."""
    # With what an earlier answer told, or with what a sandbox has.
    steps = (
        _VALUES.get(step[1:-1], f"{{{{{step[1:-1]}}}}}") if step.startswith("{") else step
        for step in endpoint.path.split("/")
    )
    request: Json = {
        "method": endpoint.method,
        "url": "{{url}}" + "/".join(steps) + _write_query(endpoint),
        "header": [],
        "auth": _bearer(_choose_role(endpoint)) if endpoint.needs_key else {"type": "noauth"},
    }
    if endpoint.needs_idempotency_key:
        request["header"] = [{"key": "Idempotency-Key", "value": "{{$guid}}"}]
    if endpoint.body is not None:
        raw = json.dumps(body or _adapt(EXAMPLES[endpoint.body][0]), indent=2)
        request["body"] = {"mode": "raw", "raw": raw, "options": {"raw": {"language": "json"}}}
    return request


def _describe_outcome(outcome: Outcome) -> Json:
    (example, *_) = (one for one in ENDPOINTS if one.operation_id == "createEnrollment")
    assert example.body is not None
    document = {"type": "cn-ric", "number": make_number("cn-ric", outcome.serial)}
    body = _adapt(EXAMPLES[example.body][0])
    body |= {"document": {**document, "name": "Sandra Sand"}}
    if outcome.needs:
        body[outcome.needs] = _NEEDED[outcome.needs]
    if outcome.needs == "proof":
        del body["live"], body["portrait"]
    checks = [f"pm.expect(pm.response.code).to.equal({outcome.status});"]
    if outcome.decision is None:
        checks.append(f"pm.expect(pm.response.json().code).to.equal({outcome.code!r});")
    else:
        decision = str(outcome.decision)
        checks.append(f"pm.expect(pm.response.json().decision).to.equal({decision!r});")
    name = str(outcome.reason or outcome.code or outcome.what)
    return _item(f"{outcome.serial:03d} {name}", _request(example, body), checks)


def _item(name: str, request: Json, checks: Sequence[str]) -> Json:
    keep = [
        "const said = pm.response.headers.get('Content-Type') || '';",
        "const body = said.includes('json') ? pm.response.json() : {};",
        "const found = [body, ...(body.cases || []), ...(body.lines || [])];",
        f"for (const name of {json.dumps(KEPT)})",
        "  for (const one of found)",
        "    if (one && one[name]) pm.collectionVariables.set(name, one[name]);",
        "if (body.idempotency_key)",
        "  pm.collectionVariables.set('idempotency_key', body.idempotency_key);",
    ]
    script = [f"pm.test({name!r}, () => {{", *(f"  {check}" for check in checks), "});", *keep]
    test = {"listen": "test", "script": {"type": "text/javascript", "exec": script}}
    return {"name": name, "request": request, "event": [test]}


def _choose_role(endpoint: Endpoint) -> Role:
    """The least that may do it, but an operator where one is needed."""
    if endpoint.action is None:
        return Role.OUTLET
    if endpoint.operation_id == "match":
        # The example searches, too.
        return Role.CARRIER
    return next(role for role in Role if role in endpoint.action.roles)


def _bearer(role: Role) -> Json:
    token = {"key": "token", "value": f"{{{{{role.value}}}}}", "type": "string"}
    return {"type": "bearer", "bearer": [token]}


def _write_query(endpoint: Endpoint) -> str:
    if endpoint.query is None:
        return ""
    required = [one.name for one in msgspec.structs.fields(endpoint.query) if one.required]
    return "?" + "&".join(f"{name}={_VALUES[name]}" for name in required) if required else ""


def _adapt(example: Mapping[str, Any]) -> Json:
    """An example with pictures that can be decoded, of this moment, for an outlet's own key."""

    def adapt(value: Any, name: str = "") -> Any:
        if value == IMAGE_EXAMPLE:
            return f"{{{{{PICTURES[name == 'portrait']}}}}}"
        if name == "captured_at":
            return "{{$isoTimestamp}}"
        if isinstance(value, Mapping):
            return {key: adapt(one, key) for key, one in value.items() if key != "outlet"}
        return [adapt(one) for one in value] if isinstance(value, list) else value

    adapted: Json = adapt(example)
    return adapted
