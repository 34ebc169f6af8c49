"""The OpenAPI document, from the table of endpoints and the wire types."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import msgspec

from serving.api.body import FACE_PARTS, FORM, JSON, MSGPACK, REQUEST_PART
from serving.api.endpoints import ENDPOINTS, TAGS, Endpoint
from serving.api.examples import EXAMPLES
from serving.errors import RETRIABLE
from serving.wire.fields import MAX_FRAMES, AnswerBody, Error, Moment, RequestBody, Template

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
    kinds: list[type] = [Error]
    for one in ENDPOINTS:
        kinds += [kind for kind in (one.body, *one.answers.values()) if kind not in (None, str)]
    _, schemas = msgspec.json.schema_components(
        list(dict.fromkeys(kinds)), schema_hook=_CUSTOM.__getitem__, ref_template=_REF
    )
    # Of bytes msgspec says base64, which the text of a template is not.
    del schemas["Face"]["properties"]["template"]["anyOf"][0]["contentEncoding"]
    for kind, examples in EXAMPLES.items():
        schemas[kind.__name__]["examples"] = examples
    return schemas


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
    operation: Json = {
        "operationId": endpoint.operation_id,
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "description": inspect.cleandoc(endpoint.handle.__doc__ or ""),
        "parameters": _parameters(endpoint),
        "responses": _responses(endpoint),
    }
    if endpoint.body is not None:
        operation["requestBody"] = _describe_body(endpoint.body, schemas)
    if endpoint.needs_key:
        operation["security"] = [{"bearer": []}, {"apiKey": []}]
    return operation


def _parameters(endpoint: Endpoint) -> list[Json]:
    found: list[Json] = [
        {"name": step[1:-1], "in": "path", "required": True, "schema": {"type": "string"}}
        for step in endpoint.path.split("/")
        if step.startswith("{")
    ]
    if endpoint.query is not None:
        (_,), schemas = msgspec.json.schema_components(
            [endpoint.query], schema_hook=_CUSTOM.__getitem__
        )
        asked = schemas[endpoint.query.__name__]
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
    return [*found, _CORRELATOR, _TIMEOUT]


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
