"""The OpenAPI document, from the table of endpoints and the wire types, with its examples."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from serving.api.body import FACE_PARTS, FORM, JSON, MSGPACK, PROBLEM, REQUEST_PART
from serving.api.endpoints import ENDPOINTS, TAGS, Endpoint
from serving.errors import RETRIABLE
from serving.wire import cases, enrollments, lines, matching, oversight, people, sweeps, webhooks
from serving.wire.fields import (
    HOLDER_EXAMPLE,
    ID_EXAMPLE,
    IMAGE_EXAMPLE,
    MAX_FRAMES,
    AnswerBody,
    Error,
    Moment,
    Problem,
    RequestBody,
    Template,
)

Json = dict[str, Any]

_REF = "#/components/schemas/{name}"
_REASONS = {
    400: "Malformed: `code` says what, `message` names the field, never its value",
    401: "No key, or one that is unknown, revoked or expired",
    403: "What the key's role or tenant may not do",
    404: "Not there, or not this tenant's",
    406: "No type that the client accepts",
    408: "The body came too slowly",
    409: "A request with this Idempotency-Key is being judged; or the case, or the sweep, is "
    "not in a state for this",
    410: "What came after this place may have left",
    413: "The body or an image is too large",
    415: "A content type or an image format that is not read",
    422: "Understood, and not to be judged",
    429: "Full, or the key has spent its rate: nothing was stored",
    503: "Not ready, interrupted, or out of time: ask again, with the same Idempotency-Key",
    507: "The storage is full: nothing was stored",
}
_HEADERS: Json = {
    "x-correlator": {
        "description": "the request's, or a new one",
        "schema": {"type": "string", "maxLength": 256},
    },
    "Retry-After": {
        "description": "seconds until the same call may succeed",
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {"schema": {"type": "string"}},
    "Idempotency-Replayed": {
        "description": "true where the answer is a stored one",
        "schema": {"type": "string", "enum": ["true"]},
    },
}
_CORRELATOR: Json = {
    "name": "x-correlator",
    "in": "header",
    "description": "names the call in logs and audit, and is given back; made where absent",
    "schema": {"type": "string", "pattern": r"^[a-zA-Z0-9\-_:;./<>{}]{0,256}$"},
}
_TIMEOUT: Json = {
    "name": "x-timeout-ms",
    "in": "header",
    "description": "how long the client waits: what has not committed by then is dropped",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
}
_IDEMPOTENCY_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": "a fresh UUID for each activation, the same for its retries",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
_SECURITY: Json = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`sosie_<id>_<secret>`"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_CUSTOM: Mapping[type, Json] = {
    Moment: {"type": "string", "format": "date-time"},
    Template: {"type": "string"},
}
_PHOTOGRAPHS = "Photographs"
_NULL: Json = {"type": "null"}
_OF_AN_IMAGE = {"type": "string", "format": "binary"}
_OF_FRAMES = {"type": "array", "items": _OF_AN_IMAGE, "minItems": 1, "maxItems": MAX_FRAMES}
"""Parts of one name, or a single one."""


def build_document(version: str) -> Json:
    """The whole document, OpenAPI 3.1."""
    schemas = describe_types()
    paths: dict[str, Json] = {}
    for endpoint in ENDPOINTS:
        operation = _describe_operation(endpoint, schemas)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    _name_photographs(schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sosie",
            "version": version,
            "description": "Face matching for carriers. An error has the shape of `Error`; a 500 "
            "is a fault of ours. Bodies are JSON, MessagePack, or a form of files beside one part "
            "`request` with the JSON of the rest; answers are JSON or MessagePack, as `Accept` "
            "says.",
        },
        "servers": [{"url": "/", "description": "the service that shows this document"}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": _SECURITY, "headers": _HEADERS},
    }


def describe_types() -> dict[str, Json]:
    """The schema of every type that an endpoint takes or answers, by its name."""
    kinds: list[type] = [Error, Problem]
    for one in ENDPOINTS:
        kinds += [kind for kind in (one.body, *one.answers.values()) if kind not in (None, str)]
    schemas = _describe_structs(dict.fromkeys(kinds))
    # Of bytes msgspec says base64, which the text of a template is not.
    del schemas["Face"]["properties"]["template"]["anyOf"][0]["contentEncoding"]
    for kind, examples in EXAMPLES.items():
        schemas[kind.__name__]["examples"] = examples
    return schemas


def _describe_structs(kinds: Iterable[type]) -> dict[str, Json]:
    """The schemas of structs by name, with the values of an enumeration where it is used."""
    _, schemas = msgspec.json.schema_components(
        list(kinds), schema_hook=_CUSTOM.__getitem__, ref_template=_REF
    )
    values = {
        _REF.format(name=name): {"enum": schemas.pop(name)["enum"]}
        for name in [name for name, schema in schemas.items() if "enum" in schema]
    }

    def write(node: Any) -> Any:
        if isinstance(node, dict):
            written = {name: write(one) for name, one in node.items()}
            return written | values[written.pop("$ref")] if node.get("$ref") in values else written
        return [write(one) for one in node] if isinstance(node, list) else node

    return {name: write(schema) for name, schema in schemas.items()}


def _name_photographs(schemas: dict[str, Json]) -> None:
    """Gives "one photograph, or frames" a name: generators of clients make nothing, or no code that
    compiles, of a choice that has none."""
    choice = [one for one in schemas["Face"]["properties"]["image"]["anyOf"] if one != _NULL]
    reference = {"$ref": _REF.format(name=_PHOTOGRAPHS)}
    for kind, schema in schemas.items():
        for described in schema.get("properties", {}).values():
            given = described.get("anyOf", [])
            if [one for one in given if one != _NULL] != choice:
                continue
            if _NULL in given and kind != "EnrollmentRequest":
                described["anyOf"] = [reference, _NULL]
            else:
                # Left out where there is none: of a choice with null, generators make a third type.
                del described["anyOf"]
                described.pop("default", None)
                described.update(reference)
    schemas[_PHOTOGRAPHS] = {"title": _PHOTOGRAPHS, "anyOf": choice}


def _describe_operation(endpoint: Endpoint, schemas: dict[str, Json]) -> Json:
    found: list[Json] = [
        {"name": step[1:-1], "in": "path", "required": True, "schema": {"type": "string"}}
        for step in endpoint.path.split("/")
        if step.startswith("{")
    ]
    if endpoint.query is not None:
        asked = _describe_structs([endpoint.query])[endpoint.query.__name__]
        found += [
            {
                "name": name,
                "in": "query",
                "required": name in asked["required"],
                "schema": schema,
                **({"description": schema["description"]} if "description" in schema else {}),
            }
            for name, schema in asked["properties"].items()
        ]
    if endpoint.needs_idempotency_key:
        found.append(_IDEMPOTENCY_KEY)
    operation: Json = {
        "operationId": endpoint.operation_id,
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "description": inspect.cleandoc(endpoint.handle.__doc__ or ""),
        "parameters": [*found, _CORRELATOR, _TIMEOUT],
        "responses": _responses(endpoint),
    }
    if endpoint.body is not None:
        operation["requestBody"] = _describe_body(endpoint.body, schemas)
    if endpoint.needs_key:
        operation["security"] = [{"bearer": []}, {"apiKey": []}]
    return operation


def _responses(endpoint: Endpoint) -> Json:
    found: dict[int, Json] = {}
    for status, kind in endpoint.answers.items():
        if issubclass(kind, AnswerBody):
            found[status] = _response((kind.__doc__ or "").splitlines()[0], kind)
        else:
            content = {"text/plain": {"schema": {"type": "string"}}}
            found[status] = {"description": endpoint.summary, "content": content}
    for status in endpoint.all_errors:
        found[status] = _response(_REASONS[status], Error)
        problem = {"schema": {"$ref": _REF.format(name=Problem.__name__)}}
        found[status]["content"][PROBLEM] = problem
    for status, response in found.items():
        names = ["x-correlator"]
        if status in RETRIABLE:
            names.append("Retry-After")
        if status == 401:
            names.append("WWW-Authenticate")
        if status == 200 and endpoint.needs_idempotency_key:
            names.append("Idempotency-Replayed")
        response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    return {str(status): found[status] for status in sorted(found)}


def _response(description: str, kind: type[AnswerBody]) -> Json:
    schema = {"$ref": _REF.format(name=kind.__name__)}
    content = {media_type: {"schema": schema} for media_type in (JSON, MSGPACK)}
    return {"description": description, "content": content}


def _list_forms(schema: Json) -> list[Json]:
    """The forms that a value may have, each by itself."""
    return [form for one in schema.get("anyOf", ()) for form in _list_forms(one)] or [schema]


def _describe_body(kind: type[RequestBody], schemas: dict[str, Json]) -> Json:
    schema = {"$ref": _REF.format(name=kind.__name__)}
    # Of lists of items the parts are named by their places, which no property can be.
    images = {
        name: _OF_FRAMES
        if name in FACE_PARTS or any(form.get("type") == "array" for form in forms)
        else _OF_AN_IMAGE
        for name, one in schemas[kind.__name__]["properties"].items()
        for forms in (_list_forms(one),)
        if name in FACE_PARTS or any(form.get("format") == "byte" for form in forms)
    }
    return {
        "required": True,
        "content": {
            JSON: {"schema": schema},
            MSGPACK: {"schema": schema},
            FORM: {
                "schema": {
                    "type": "object",
                    "description": "each image is a part named by its field: `live`, `probe`, "
                    "`items.0.probe`; frames of one face are parts of one name",
                    "properties": {REQUEST_PART: {"type": "object"}, **images},
                    "additionalProperties": _OF_AN_IMAGE,
                },
                "encoding": {REQUEST_PART: {"contentType": JSON}},
            },
        },
    }


_KNOWN_DOCUMENT = {"type": "cn-ric", "number": "110105199003071239"}
_PROBE = {"image": IMAGE_EXAMPLE}
_FALSE_CANDIDATES = {"value": 0.1, "low": 0.05, "high": 0.2, "is_bound": False}

_ENROLLMENT = {
    "outlet": "b1",
    "document": {**_KNOWN_DOCUMENT, "name": "Aileen Probe", "expires_on": "2036-01-31"},
    "msisdn": "+8613800138000",
    "live": IMAGE_EXAMPLE,
    "portrait": IMAGE_EXAMPLE,
    "consent_ref": "C-2026-000417",
    "captured_at": "2026-01-31T12:00:00Z",
}

SEEN_EXAMPLE = {"seen_at": "2026-01-31T12:00:00.123456Z"}

EXAMPLES: Mapping[type[msgspec.Struct], list[dict[str, Any]]] = {
    enrollments.EnrollmentRequest: [_ENROLLMENT, {**_ENROLLMENT, "live": [IMAGE_EXAMPLE] * 3}],
    enrollments.Enrollment: [
        {
            "enrollment_id": ID_EXAMPLE,
            "decision": "approved",
            "reasons": [],
            "scores": {"live_portrait": 0.8123, "holder": None, "best_candidate": None},
            "thresholds": {
                "verify": 0.3494,
                "same_document": 0.3629,
                "review": 0.4718,
                "certain": 0.6015,
            },
            "duplicate_search": {
                "ran": True,
                "searched": 100000,
                "gallery_sequence": 100412,
                "candidates": [],
                "expected_false_candidates": _FALSE_CANDIDATES,
            },
            "cases": [],
            "document_id": ID_EXAMPLE,
            "line_id": ID_EXAMPLE,
            "quality": {"live": {"sharpness": 212.0}, "portrait": {"sharpness": 187.0}},
            "model_digest": "2b0e6f",
            "policy_version": "1",
            "decided_at": "2026-01-31T12:00:01+00:00",
            "idempotency_key": "5c0fbe8a-1ad5-4b1f-9c0f-6e6c1f2d9a10",
            "is_repeated": False,
            "calibration_version": 3,
        }
    ],
    webhooks.NewWebhook: [
        {"sink": "https://systems.example/sosie", "types": ["line.opened", "line.closed"]}
    ],
    webhooks.ChangedWebhook: [{"state": "paused"}],
    webhooks.Replay: [{"after": "0"}],
    webhooks.AskedExample: [{"type": "line.opened"}],
    webhooks.AskedAgain: [{"events": ["0198c2a4-7c1e-7b52-9d0c-3f4b6f6f6f10"]}],
    matching.MatchRequest: [
        {
            "items": [
                {"id": "a1", "probe": {"template": "AAAB"}, "reference": {"template": "AAAB"}},
                {"id": "a2", "probe": _PROBE, "search": True},
            ]
        }
    ],
    matching.MatchResults: [
        {
            "items": [
                {
                    "id": "a1",
                    "verification": {"is_match": True, "score": 0.7214, "threshold": 0.3494},
                },
                {
                    "id": "a2",
                    "identification": {
                        "candidates": [{"holder": HOLDER_EXAMPLE, "score": None}],
                        "found": 1,
                        "searched": 100000,
                        "gallery_sequence": 100412,
                        "threshold": 0.4718,
                        "expected_false_candidates": _FALSE_CANDIDATES,
                    },
                },
            ]
        }
    ],
    matching.TemplatesRequest: [{"items": [{"id": "live", "image": IMAGE_EXAMPLE}]}],
    matching.Templates: [
        {
            "expires_at": "2026-02-01T12:00:00+00:00",
            "model_digest": "2b0e6f",
            "items": [
                {
                    "id": "live",
                    "template": "AQAB",
                    "quality": {"sharpness": 212.0, "brightness": 0.52},
                }
            ],
        }
    ],
    matching.VerificationRequest: [
        {"probe": _PROBE, "reference": _PROBE},
        {"probe": _PROBE, "line": "+8613800138000"},
        {"proof": "signed.by.anybody", "line": "+8613800138000", "document": _KNOWN_DOCUMENT},
    ],
    people.IdentificationRequest: [{"probe": _PROBE, "threshold": 0.6}],
    people.PeopleRequest: [
        {"probe": _PROBE},
        {"document": _KNOWN_DOCUMENT},
        {"msisdn": "+8613800138000"},
    ],
    people.DeathRequest: [{"step": "report", "source": "registry"}, {"step": "confirm"}],
    people.FacesRequest: [{"document_ids": [ID_EXAMPLE]}],
    people.SubjectRequest: [
        {"document": _KNOWN_DOCUMENT, "reason": "Asked for in person.", "language": "ko"}
    ],
    lines.HolderRequest: [{"document": _KNOWN_DOCUMENT, "probe": _PROBE}],
    lines.EventReport: [{"kind": "device_change", "at": "2026-01-31T12:00:00Z"}],
    lines.ExemptionRequest: [{"cause": "business"}],
    lines.CampaignRequest: [
        {
            "name": "Lines of outlet b1",
            "deadline": "2036-01-31T12:00:00Z",
            "chosen": {"outlet": "b1", "opened_before": "2026-01-01T00:00:00Z"},
            "then": "suspended_outgoing",
            "after": "30d",
            "last": "suspended",
        },
        {"name": "From a file", "deadline": "2036-01-31T12:00:00Z"},
    ],
    lines.CampaignLinesRequest: [{"lines": ["+8613800138000", ID_EXAMPLE]}],
    lines.SimSwapDateRequest: [{"phoneNumber": "+8613800138000"}],
    lines.SimSwapCheckRequest: [{"phoneNumber": "+8613800138000", "maxAge": 120}],
    cases.AssignRequest: [{"assignee": "me"}],
    cases.RevealRequest: [{"reason": "The outlet sent a copy of the document to compare."}],
    cases.ReopenRequest: [{"reason": "The second face is a twin's.", **SEEN_EXAMPLE}],
    cases.NoteRequest: [{"text": "Both documents show the same scar."}],
    cases.OutcomeRequest: [
        {"outcome": "fraud", "close_lines": [ID_EXAMPLE], **SEEN_EXAMPLE},
        {"outcome": "twins", **SEEN_EXAMPLE},
    ],
    cases.EndingsRequest: [
        {"step": "close", "cases": [{"case_id": ID_EXAMPLE, "outcome": "twins", **SEEN_EXAMPLE}]}
    ],
    cases.RestrictRequest: [
        {"case_id": ID_EXAMPLE, "reason": "Twelve documents of one face in a night."}
    ],
    cases.LiftRequest: [{"restriction": "suspended", "reason": "The clerk has left."}],
    cases.CaseReportRequest: [{"faces": True}, {"reveal": True, "carrier": "blue"}],
    oversight.ImportChunk: [{"sealed": oversight.SEALED_EXAMPLE}],
    sweeps.SweepRequest: [
        {"scope": "all", "dry_run": True},
        {"scope": "new", "threshold": 0.47},
        {"fmr": 1e-6},
        {"budget": 500},
    ],
}
