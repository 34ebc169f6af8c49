"""The OpenAPI document: what the framework knows of the routes, and what all of them share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.responses import Response
from starlette.routing import BaseRoute

from serving.api.body import FORM, JSON, MSGPACK
from serving.api.fields import ErrorAnswer
from serving.api.routes.matching import DirectRoute
from serving.api.schemas.cases import AssignBody, NoteBody, OutcomeBody
from serving.api.schemas.enrollments import EnrollmentBody
from serving.api.schemas.identifications import IdentificationBody
from serving.api.schemas.lines import HolderBody
from serving.api.schemas.people import PeopleBody
from serving.api.schemas.sweeps import SweepBody
from serving.api.schemas.verifications import VerificationBody
from serving.errors import RETRIABLE

Json = dict[Any, Any]
BODIES: tuple[type[BaseModel], ...] = (
    EnrollmentBody,
    VerificationBody,
    IdentificationBody,
    HolderBody,
    PeopleBody,
    AssignBody,
    NoteBody,
    OutcomeBody,
    SweepBody,
)
"""What the routes of the framework read by themselves."""

_REF = "#/components/schemas/{model}"
_NEEDS_KEY = "x-sosie-key"

_REASONS = {
    400: "Malformed: `code` says what, `message` names the field, never its value",
    401: "No key, or one that is unknown, revoked or expired",
    403: "What the key's role or tenant may not do",
    404: "Not there, or not this tenant's",
    406: "No type that the client accepts",
    408: "The body came too slowly",
    409: "A request with this Idempotency-Key is being judged; or the case, or the sweep, is "
    "not in a state for this",
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
_PARAMETERS: Json = {
    "x-correlator": {
        "name": "x-correlator",
        "in": "header",
        "description": "names the call in logs and audit, and is given back; made where absent",
        "schema": {"type": "string", "pattern": r"^[a-zA-Z0-9\-_:;./<>{}]{0,256}$"},
    },
    "x-timeout-ms": {
        "name": "x-timeout-ms",
        "in": "header",
        "description": "how long the client waits: what has not committed by then is dropped",
        "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
    },
    "Idempotency-Key": {
        "name": "Idempotency-Key",
        "in": "header",
        "required": True,
        "description": "a fresh UUID for each activation, the same for its retries",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
    },
}
_SECURITY: Json = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`sosie_<id>_<secret>`"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def describe(
    summary: str,
    *,
    body: type[BaseModel] | None = None,
    answers: Mapping[int, type[BaseModel]] | None = None,
    errors: Sequence[int] = (),
    needs_key: bool = True,
    needs_idempotency_key: bool = False,
    text_answer: bool = False,
) -> Json:
    """What `add_api_route` is told of a route that reads its body and writes its answer itself."""
    assert body is None or body in BODIES, "the document has to define it"
    answers = answers or {}
    responses: Json = {
        status: {"model": model, "description": (model.__doc__ or summary).splitlines()[0]}
        for status, model in answers.items()
    }
    for status in errors:
        responses.setdefault(status, {"model": ErrorAnswer, "description": _REASONS[status]})
    if text_answer:
        responses[200] = {
            "description": summary,
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    names = ["x-correlator", "x-timeout-ms"]
    names += ["Idempotency-Key"] if needs_idempotency_key else []
    extra: Json = {
        "parameters": [_PARAMETERS[name] for name in names],
        _NEEDS_KEY: needs_key,
    }
    if body is not None:
        extra["requestBody"] = _describe_body(body)
    return {
        "summary": summary,
        "status_code": next(iter(answers), 200),
        "response_class": Response,
        "responses": responses,
        "openapi_extra": extra,
    }


def build_document(
    routes: Sequence[BaseRoute], direct: Sequence[DirectRoute], version: str
) -> Json:
    """The whole document of these routes, OpenAPI 3.1."""
    document = get_openapi(
        title="Sosie",
        version=version,
        description="Face matching for carriers. An error has the shape of `ErrorAnswer`; a 500 "
        "is a fault of ours. Bodies are JSON, MessagePack, or a form of files beside one part "
        "`request` with the JSON of the rest; answers are JSON or MessagePack, as `Accept` says.",
        routes=routes,
    )
    for route in direct:
        document["paths"][route.path] = {"post": _describe_direct(route)}
    for item in document["paths"].values():
        for operation in item.values():
            _finish(operation)
    components = document.setdefault("components", {})
    components["schemas"] = _define(routes, direct)
    components["securitySchemes"] = _SECURITY
    components["headers"] = _HEADERS
    return document


def _describe_direct(route: DirectRoute) -> Json:
    responses: Json = {
        "200": {
            "description": (route.response.__doc__ or route.summary).splitlines()[0],
            "content": {JSON: {"schema": _refer(route.response)}},
        }
    }
    for status in route.statuses:
        responses[str(status)] = {
            "description": _REASONS[status],
            "content": {JSON: {"schema": _refer(ErrorAnswer)}},
        }
    responses["200"]["content"][JSON]["example"] = dict(route.response_example)
    return {
        "operationId": route.operation_id,
        "summary": route.summary,
        "description": route.description,
        "parameters": [_PARAMETERS["x-correlator"], _PARAMETERS["x-timeout-ms"]],
        "requestBody": _describe_body(route.request, dict(route.request_example)),
        "responses": responses,
        _NEEDS_KEY: True,
    }


def _define(routes: Iterable[BaseRoute], direct: Iterable[DirectRoute]) -> Json:
    """The schema of each model, with the nulls of its examples, which the framework drops."""
    models: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {}
    models |= {(body, "validation"): None for body in BODIES}
    for route in routes:
        if isinstance(route, APIRoute):
            for response in route.responses.values():
                if "model" in response:
                    models[response["model"], "serialization"] = None
    for one in direct:
        models |= {(one.request, "validation"): None, (one.response, "serialization"): None}
    schemas: Json = models_json_schema(list(models), ref_template=_REF)[1]["$defs"]
    return schemas


def _finish(operation: Json) -> None:
    """Adds what every operation has."""
    if operation.pop(_NEEDS_KEY, False):
        operation["security"] = [{"bearer": []}, {"apiKey": []}]
    responses: Json = operation["responses"]
    _drop_foreign(responses)
    is_idempotent = any(one["name"] == "Idempotency-Key" for one in operation["parameters"])
    for status, response in responses.items():
        content = response.get("content", {})
        if JSON in content:
            content[MSGPACK] = {"schema": content[JSON]["schema"]}
        response["headers"] = {
            name: {"$ref": f"#/components/headers/{name}"}
            for name in _headers_of(status, is_idempotent)
        }


def _drop_foreign(responses: Json) -> None:
    """The framework's own error shape never leaves the edge."""
    schema = responses.get("422", {}).get("content", {}).get(JSON, {}).get("schema", {})
    if schema.get("$ref", "").endswith("HTTPValidationError"):
        del responses["422"]


def _headers_of(status: str, is_idempotent: bool) -> list[str]:
    names = ["x-correlator"]
    if int(status) in RETRIABLE:
        names.append("Retry-After")
    if status == "401":
        names.append("WWW-Authenticate")
    if status == "200" and is_idempotent:
        names.append("Idempotency-Replayed")
    return names


def _describe_body(model: type[BaseModel], example: Json | None = None) -> Json:
    as_json: Json = {"schema": _refer(model)}
    if example is not None:
        as_json["example"] = example
    return {
        "required": True,
        "content": {
            JSON: as_json,
            MSGPACK: {"schema": _refer(model)},
            FORM: {
                "schema": {
                    "type": "object",
                    "description": "each image is a part named by its path in the request",
                    "properties": {"request": {"type": "object"}},
                    "additionalProperties": {"type": "string", "format": "binary"},
                },
                "encoding": {"request": {"contentType": JSON}},
            },
        },
    }


def _refer(model: type[BaseModel]) -> Json:
    return {"$ref": _REF.format(model=model.__name__)}
