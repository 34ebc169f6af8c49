"""Way of a request past Serve's wrapper around an application, which makes ids, counts five metrics
and writes a line: a fifth of what a match costs an ingress. Of these only the count of running
requests is of use, where Serve adds replicas by it. A replica that ends lets uvicorn finish what it
has accepted."""

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
OF_SERVE = "/-/"
"""Paths that Serve answers: its proxy asks there how a replica is."""

_applications: list[ASGIApp] = []


def set_application(app: ASGIApp) -> None:
    """Has the requests of this process answered by `app`, past Serve's wrapper."""
    _applications[:] = [app]


def list_middlewares() -> list[Middleware]:
    """Serve's hook: what stands before each of its HTTP servers."""
    return [Middleware(Shortcut)]


class Shortcut:
    """Hands requests to the application of this process; where none is set, to Serve."""

    def __init__(self, app: ASGIApp) -> None:
        self._serve = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_ours = _applications and not scope.get("path", "").startswith(OF_SERVE)
        await (_applications[0] if is_ours else self._serve)(scope, receive, send)
