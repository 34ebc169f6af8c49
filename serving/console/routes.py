"""`/console`: the files of the console, with headers that let no other code into its page.

The console has no way of its own to anything: what it shows it asks of `/v1`, with a key.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import MappingProxyType

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serving.errors import RouteUnknown
from serving.parts import Parts

PAGE = "index.html"
TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        # Photographs before they are sent, and crops, which come as base64.
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        # A string never becomes markup, whoever wrote it.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": POLICY,
        "Referrer-Policy": "no-referrer",
        "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
)
"""Beside `nosniff` and `no-store`, which the edge gives to every answer."""


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file as it is sent, and as it is sent to those who unpack gzip."""

    content_type: str
    body: bytes
    packed: bytes


def read_files() -> Mapping[str, StaticFile]:
    """Every file of the console by its path below `/console/`: nothing else can be asked for."""
    return MappingProxyType(
        {path: _read(path, file) for path, file in _walk(files("serving.console") / "static", "")}
    )


def add_console(router: APIRouter, parts: Parts) -> None:
    """Adds the routes of the console; they need no key, and tell nothing."""
    del parts
    found = read_files()

    async def show_page(request: Request) -> Response:
        """The page."""
        return _send(found[PAGE], request)

    async def show_file(request: Request, path: str) -> Response:
        """What the page is made of."""
        file = found.get(path or PAGE)
        if file is None:
            raise RouteUnknown("the console has no such file: open /console")
        return _send(file, request)

    for path, show in (("/console", show_page), ("/console/{path:path}", show_file)):
        router.add_api_route(
            path, show, methods=["GET"], include_in_schema=False, response_class=Response
        )


def _send(file: StaticFile, request: Request) -> Response:
    headers = {**HEADERS, "Content-Type": file.content_type, "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.packed, headers={**headers, "Content-Encoding": "gzip"})
    return Response(file.body, headers=headers)


def _read(path: str, file: Traversable) -> StaticFile:
    body = file.read_bytes()
    return StaticFile(TYPES[path.rpartition(".")[2]], body, gzip.compress(body, mtime=0))


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for one in folder.iterdir():
        if one.is_dir():
            yield from _walk(one, f"{prefix}{one.name}/")
        else:
            yield f"{prefix}{one.name}", one
