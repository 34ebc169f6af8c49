"""The application of an ingress: the table of endpoints over its parts, and the middleware around:
correlator, bound on what runs at once, deadline, errors as answers, counting, span, access line."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from http import HTTPStatus
from inspect import iscoroutinefunction
from pathlib import Path
from traceback import extract_tb
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from engine.errors import DeadlinePassed
from schema.reasons import ADVICE
from serving.access.authentication import Places
from serving.access.authorization import authorize
from serving.api.body import JSON, PROBLEM, BodyBudget
from serving.api.endpoints import ENDPOINTS, Endpoint
from serving.api.openapi import build_document
from serving.api.request import SCOPE_KEY, Answer, Request, Stop, admit
from serving.api.routes.enrollments import read_idempotency_key
from serving.api.routes.sessions import sign_in_pages
from serving.console.routes import page_routes
from serving.errors import (
    BodyTimeout,
    Busy,
    FaceUnusable,
    Fault,
    Malformed,
    MethodUnsupported,
    RouteUnknown,
    ServiceRefusal,
    describe,
    name_for_camara,
)
from serving.ingress.parts import Parts
from serving.settings.sections import ServeSettings
from serving.telemetry.metrics import IN_PROGRESS, OTHER, REFUSALS, REQUEST_SECONDS, REQUESTS, Meter
from serving.telemetry.traces import REQUEST, Tracer
from serving.wire.fields import AnswerBody, Error, Problem, RequestBody, encode_json, prepare_below

CLIENT_GONE = 499
UNMATCHED = "unmatched"
EXEMPT_ONGOING = 32
"""Requests that need no key and count into no other bound."""
_EXEMPT = ("/health/", "/version", "/metrics")
_CAMARA = "/camara/"
_VERSIONED = ("/v1/", _CAMARA)
_METHODS = frozenset({"GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"})

_LATE = "the time for this request ran out: ask for it again"
_LATE_KEYED = f"{_LATE} with the same Idempotency-Key"
_SLOW = "the body came too slowly: send it faster"
_ROOT = Path(__file__).parents[2]
_OURS = frozenset({"serving", "engine", "indexes", "schema"})


class RequestMiddleware:
    """An ASGI application around another. `direct` ones, by their whole path, are called past the
    router and take POST alone."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ServeSettings,
        meter: Meter,
        log: FilteringBoundLogger,
        tracer: Tracer | None = None,
        direct: Mapping[str, ASGIApp] | None = None,
    ) -> None:
        self._app = app
        self._settings = settings
        self._meter = meter
        self._log = log
        self._tracer = tracer or Tracer()
        self._direct = dict(direct or {})
        self._exempt_ongoing = 0
        self._budget = BodyBudget(settings.max_body_mib)
        self._places = Places(settings.requests_ongoing, settings.key_share, "requests")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send, self._settings, self._budget, self._places)
        scope[SCOPE_KEY] = request
        scope["app"] = self
        path = scope["path"]
        is_exempt = path.startswith(_EXEMPT)
        self._exempt_ongoing += is_exempt
        self._meter.add(IN_PROGRESS)
        code = None
        try:
            if is_exempt:
                code = await self._serve(request, path, is_exempt)
            else:
                code = await self._trace(request, path)
        finally:
            self._exempt_ongoing -= is_exempt
            request.leave()
            self._meter.add(IN_PROGRESS, by=-1)
            self._report(request, path, is_exempt, code)
            # It has the scope itself: the two together would wait for the garbage collector.
            del scope[SCOPE_KEY]

    async def _trace(self, request: Request, path: str) -> str | None:
        with self._tracer.span(REQUEST, request.traceparent) as span:
            request.traceparent = span.traceparent
            code = await self._serve(request, path, is_exempt=False)
            span.note(
                route=self._route_of(request, path),
                method=_method_of(request),
                status=request.status,
                correlator=request.correlator,
            )
            if code is not None:
                span.fail(code)
        return code

    def _route_of(self, request: Request, path: str) -> str:
        if path not in self._direct:
            path = getattr(request.scope.get("route"), "path", UNMATCHED)
        return path if isinstance(path, str) else UNMATCHED

    async def _serve(self, request: Request, path: str, is_exempt: bool) -> str | None:
        """Answers the request; returns the code of an error."""
        try:
            request.check(is_strict=path.startswith(_VERSIONED))
            if self._exempt_ongoing > EXEMPT_ONGOING if is_exempt else not self._places.left:
                raise Busy("as many requests run here as may: try again later")
            app = self._direct.get(path)
            if app is not None and request.scope["method"] != "POST":
                raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "POST"})
            if not is_exempt:
                request.guard()
            await (app or self._app)(request.scope, request.receive, request.send)
        except asyncio.CancelledError:
            stop = request.settle()
            if stop is None:
                # The server's own cancellation goes on.
                request.status = request.status or CLIENT_GONE
                raise
            return await self._end_stopped(request, stop)
        except ClientDisconnect:
            request.status = CLIENT_GONE
        except Exception as error:  # noqa: BLE001 (whatever it is, the client gets an answer)
            return await self._refuse(request, error)
        return None

    async def _end_stopped(self, request: Request, stop: Stop) -> str | None:
        match stop:
            case Stop.LATE:
                text = _LATE if request.idempotency_key is None else _LATE_KEYED
                return await self._refuse(request, DeadlinePassed(text))
            case Stop.SLOW:
                return await self._refuse(request, BodyTimeout(_SLOW))
            case Stop.GONE:
                request.status = CLIENT_GONE
                return None

    async def _refuse(self, request: Request, error: Exception) -> str:
        request.release()
        fault, headers = describe_failure(error)
        if fault.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            self._log.error(
                "failure",
                kind=type(error).__name__,
                at=_place_of(error),
                correlator=request.correlator,
            )
        self._meter.add(REFUSALS, fault.code)
        if request.status:
            # Half an answer is cut off, which a client sees; a second one it would not.
            raise RuntimeError("an answer was cut off") from None
        fields = error.fields if isinstance(error, Malformed) else ()
        await _send_fault(request, fault, headers, fields)
        return fault.code

    def _report(self, request: Request, path: str, is_exempt: bool, code: str | None) -> None:
        seconds = request.elapsed_s
        route, method = self._route_of(request, path), _method_of(request)
        self._meter.add(REQUESTS, route, method, str(request.status))
        self._meter.observe(REQUEST_SECONDS, seconds, route, method)
        say = self._log.debug if is_exempt else self._log.info
        say(
            "request",
            route=route,
            method=method,
            status=request.status,
            code=code,
            duration_ms=round(seconds * 1e3, 3),
            correlator=request.correlator,
            key_id=None if request.principal is None else request.principal.key_id,
        )


async def _send_fault(
    request: Request, fault: Fault, headers: dict[str, str], fields: tuple[str, ...]
) -> None:
    if fault.retry_after_s is not None:
        headers["retry-after"] = str(max(math.ceil(fault.retry_after_s), 1))
    if fault.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = 'Bearer realm="sosie"'
    if request.scope["path"].startswith(_CAMARA):
        fault = name_for_camara(fault)
    if request.accepts(PROBLEM):
        title = HTTPStatus(fault.status).phrase
        problem = Problem(
            title, fault.status, fault.message, fault.code, fields=fields, advice=fault.advice
        )
        await request.answer(Answer(encode_json(problem), fault.status, headers, PROBLEM))
    else:
        shown = Error(fault.status, fault.code, fault.message, fields, fault.advice)
        await request.answer(Answer(shown, fault.status, headers))


def _method_of(request: Request) -> str:
    method = request.scope["method"]
    return method if method in _METHODS else OTHER


def _place_of(error: Exception) -> str:
    """File and line of our innermost frame: the text of an error may hold anything."""
    for frame in reversed(extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in _OURS:
            return f"{path.relative_to(_ROOT)}:{frame.lineno}"
    return "elsewhere"


def describe_failure(error: Exception) -> tuple[Fault, dict[str, str]]:
    """The fault to show and the headers that go with it; nothing of the request is in it."""
    headers = {}
    if isinstance(error, HTTPException):
        headers = {
            name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"
        }
        error = _translate(error)
    fault = describe(error)
    if isinstance(error, FaceUnusable):
        fault = replace(fault, code=f"MATCH.{error.reason}", advice=ADVICE.get(error.reason))
    if fault.code == "INTERNAL":
        kind = type(error).__name__
        message = f"internal error ({kind}): report it with this answer's x-correlator"
        fault = replace(fault, message=message)
    return fault, headers


def _translate(error: HTTPException) -> ServiceRefusal:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return RouteUnknown("no such route: see /openapi.json")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return MethodUnsupported("this route has no such method: see /openapi.json")
    return Malformed("the request is not one that this service reads: see /openapi.json")


def build_app(parts: Parts) -> ASGIApp:
    """The ASGI application over these parts; it starts nothing and closes nothing."""
    apps = [(endpoint, _Operation(parts, endpoint)) for endpoint in ENDPOINTS]
    routes: list[BaseRoute] = [
        _Route(one.path, app, methods=[one.method]) for one, app in apps if not one.is_direct
    ]
    # Made now, when nobody waits for it.
    document = _document(parts.version)
    prepare_below(RequestBody, AnswerBody)

    async def show_document(_: StarletteRequest) -> Response:
        return Response(document, media_type=JSON)

    pages = [("/openapi.json", show_document), *sign_in_pages(parts), *page_routes()]
    routes += [_Route(path, show) for path, show in pages]
    return RequestMiddleware(
        Router(routes, redirect_slashes=False),
        settings=parts.settings,
        meter=parts.meter,
        log=parts.log,
        tracer=parts.tracer,
        direct={one.path: app for one, app in apps if one.is_direct},
    )


class _Route(Route):
    """A route that says in the scope which one it is, and takes no method but its own."""

    def __init__(self, path: str, endpoint: Any, methods: list[str] | None = None) -> None:
        super().__init__(path, endpoint, methods=methods or ["GET"])
        if self.methods is not None:
            self.methods.discard("HEAD")

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        found, child = super().matches(scope)
        return found, {**child, "route": self}


class _Operation:
    """An endpoint as an ASGI application: admission, authorization, arguments, answer."""

    def __init__(self, parts: Parts, endpoint: Endpoint) -> None:
        self._parts, self._endpoint = parts, endpoint
        handle = endpoint.handle
        self._handle: Callable[..., Awaitable[Any]] = (
            handle if iscoroutinefunction(handle) else partial(asyncio.to_thread, handle)
        )

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        parts, endpoint = self._parts, self._endpoint
        request: Request = scope[SCOPE_KEY]
        if endpoint.needs_key:
            await admit(parts, request)
        if endpoint.action is not None:
            authorize(request.caller, endpoint.action)
        if endpoint.needs_idempotency_key:
            read_idempotency_key(request)
        given: list[Any] = []
        if endpoint.query is not None:
            given.append(request.read_query(endpoint.query))
        if endpoint.body is not None:
            given.append(await request.read(endpoint.body))
        if request.principal is not None:
            request.begin()
        answer = await self._handle(parts, request, *given, **scope.get("path_params", {}))
        if not isinstance(answer, Answer):
            answer = Answer(answer, endpoint.status)
        await request.answer(answer)


@cache
def _document(version: str) -> bytes:
    return encode_json(build_document(version))
