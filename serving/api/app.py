"""The application of an ingress: the table of endpoints over its parts, the middleware around."""

from __future__ import annotations

from functools import cache
from threading import Lock
from typing import Any

from starlette.requests import Request as StarletteRequest
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.access.authorization import authorize
from serving.api.body import JSON
from serving.api.dependencies import admit, read_idempotency_key
from serving.api.endpoints import ENDPOINTS, Endpoint
from serving.api.middleware import RequestMiddleware
from serving.api.openapi import build_document
from serving.api.request import SCOPE_KEY, Answer, Request
from serving.console.routes import page_routes
from serving.parts import Parts
from serving.wire.codec import encode_json


def build_app(parts: Parts) -> ASGIApp:
    """The ASGI application over these parts; it starts nothing and closes nothing."""
    apps = [(endpoint, _Operation(parts, endpoint)) for endpoint in ENDPOINTS]
    routes: list[BaseRoute] = [
        _Route(one.path, app, methods=[one.method]) for one, app in apps if not one.is_direct
    ]
    pages = [("/openapi.json", _document_route(parts)), *page_routes()]
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
    """An endpoint as an ASGI application: who may, what is given, what is answered."""

    def __init__(self, parts: Parts, endpoint: Endpoint) -> None:
        self._parts, self._endpoint = parts, endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive, send
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
        answer = await endpoint.handle(parts, request, *given, **scope.get("path_params", {}))
        if not isinstance(answer, Answer):
            answer = Answer(answer, endpoint.status)
        await request.answer(answer)


def _document_route(parts: Parts) -> Any:
    making = Lock()

    @cache
    def make_document() -> bytes:
        return encode_json(build_document(parts.version))

    def show_document(request: StarletteRequest) -> Response:
        del request
        # Who asks meanwhile waits for it: the cache alone would let each make one.
        with making:
            document = make_document()
        return Response(document, media_type=JSON)

    return show_document
