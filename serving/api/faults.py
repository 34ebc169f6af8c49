"""What an error is to a client of the API: ours by the one table, the framework's in our words."""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from serving.errors import Fault, describe
from serving.refusals import (
    FaceUnusable,
    Malformed,
    MethodUnsupported,
    RouteUnknown,
    ServiceRefusal,
)

Headers = list[tuple[bytes, bytes]]
MAX_PATH_LENGTH = 100


def describe_failure(error: Exception) -> tuple[Fault, Headers]:
    """The fault to show and the headers that go with it; nothing of the request is in it."""
    headers: Headers = []
    if isinstance(error, HTTPException):
        allowed = (error.headers or {}).get("allow") or (error.headers or {}).get("Allow")
        if allowed:
            headers.append((b"allow", allowed.encode()))
        error = _translate(error)
    elif isinstance(error, RequestValidationError | ValidationError):
        error = read_validation(error)
    fault = describe(error)
    if isinstance(error, FaceUnusable):
        fault = replace(fault, code=f"MATCH.{error.reason}")
    if fault.code == "INTERNAL":
        kind = type(error).__name__
        message = f"internal error ({kind}): report it with this answer's x-correlator"
        fault = replace(fault, message=message)
    return fault, headers


def read_validation(error: ValidationError | RequestValidationError) -> Malformed:
    """Names the first field that is wrong, and never its value."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    else:
        first = error.errors()[0]
    # A key that nobody foresaw is the client's text, and may be a name.
    steps = first["loc"][:-1] if first["type"] == "extra_forbidden" else first["loc"]
    where = ".".join(str(step) for step in steps)[:MAX_PATH_LENGTH] or "the body"
    fault = str(first["msg"]).removeprefix("Value error, ")
    return Malformed(f"{where}: {fault}")


def _translate(error: HTTPException) -> ServiceRefusal:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return RouteUnknown("no such route: see /openapi.json")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return MethodUnsupported("this route has no such method: see /openapi.json")
    return Malformed("the request is not one that this service reads: see /openapi.json")
