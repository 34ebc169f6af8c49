"""The application of an ingress: routes over its parts, the edge around them."""

from __future__ import annotations

from functools import cache
from threading import Lock

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from serving.api.body import JSON, encode
from serving.api.middleware import Edge
from serving.api.openapi import build_document
from serving.api.routes.audits import add_audits
from serving.api.routes.cases import add_cases
from serving.api.routes.crops import add_crops
from serving.api.routes.documents import add_documents
from serving.api.routes.enrollments import add_enrollments
from serving.api.routes.identifications import add_identifications
from serving.api.routes.lines import add_lines
from serving.api.routes.matching import match_routes
from serving.api.routes.operations import add_operations
from serving.api.routes.people import add_people
from serving.api.routes.sweeps import add_sweeps
from serving.api.routes.thresholds import add_thresholds
from serving.api.routes.verifications import add_verifications
from serving.console.routes import add_console
from serving.parts import Parts

_SUBJECTS = (
    add_enrollments,
    add_crops,
    add_verifications,
    add_identifications,
    add_lines,
    add_documents,
    add_people,
    add_cases,
    add_sweeps,
    add_thresholds,
    add_audits,
    add_operations,
    add_console,
)


class _Routes(FastAPI):
    """The framework without its own error answers: whatever is raised reaches the edge."""

    def build_middleware_stack(self) -> ASGIApp:
        return AsyncExitStackMiddleware(self.router)


def build_app(parts: Parts) -> ASGIApp:
    """The ASGI application over these parts; it starts nothing and closes nothing."""
    app = _Routes(
        title="Sosie",
        version=parts.version,
        # The document is made once, when it is first asked for, in a thread: it takes as long as
        # all else here. And the framework's pages of it would load scripts from elsewhere.
        openapi_url=None,
        redirect_slashes=False,
        # The framework's own spans and logs hold paths, bodies and the text of errors.
        telemetry={
            "tracing": False,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    for add in _SUBJECTS:
        add(app.router, parts)
    routes, direct = tuple(app.router.routes), match_routes(parts)

    making = Lock()

    @cache
    def make_document() -> bytes:
        return encode(build_document(routes, direct, parts.version), JSON)

    def show_document(request: Request) -> Response:
        del request
        # Whoever asks meanwhile waits for it: the cache alone would let each make one.
        with making:
            document = make_document()
        return Response(document, media_type=JSON)

    app.router.add_route("/openapi.json", show_document, methods=["GET"], include_in_schema=False)
    return Edge(
        app,
        settings=parts.settings,
        meter=parts.meter,
        log=parts.log,
        tracer=parts.tracer,
        direct={route.path: route.app for route in direct},
    )
