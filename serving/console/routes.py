"""`/console` and `/docs`: pages of our own files, with headers that let in no other code. Neither
has a way of its own to anything: they ask `/v1` and read `/openapi.json`."""

import gzip
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from starlette.requests import Request
from starlette.responses import Response

from schema import frozen
from schema.cases import CaseKind, CaseSort, Outcome
from schema.documents import DOCUMENT_TYPES
from schema.people import ExceptionCause
from schema.reasons import Decision
from serving.errors import RouteUnknown

INDEX = "index.html"
PAGES = {"/console": "static", "/docs": "docs"}
"""Addresses, and the folders of their files."""
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

VOCABULARY: Mapping[str, list[str]] = MappingProxyType(
    {
        "CASE_KINDS": list(CaseKind),
        "CASE_SORTS": list(CaseSort),
        "DECISIONS": list(Decision),
        "DOCUMENT_TYPES": list(DOCUMENT_TYPES),
        "EXCEPTION_CAUSES": list(ExceptionCause),
        "OUTCOMES": list(Outcome),
    }
)
"""Lists that the console's `js/vocabulary.js` has from here."""


@frozen
class StaticFile:
    """A file as it is sent, and as it is sent to those who unpack gzip."""

    content_type: str
    body: bytes
    packed: bytes


def read_files(folder: str = "static") -> Mapping[str, StaticFile]:
    """Every file of a page by its path below it: nothing else can be asked for."""
    root = Path(__file__).parent / folder
    found = {
        path.relative_to(root).as_posix(): _lighten(path.suffix, path.read_bytes())
        for path in filter(Path.is_file, root.rglob("*"))
    }
    if folder == "static":
        lists = (f"export const {name} = {json.dumps(one)};\n" for name, one in VOCABULARY.items())
        found["js/vocabulary.js"] = "".join(lists).encode()
    return MappingProxyType(
        {
            path: StaticFile(TYPES[path.rpartition(".")[2]], body, gzip.compress(body, mtime=0))
            for path, body in found.items()
        }
    )


_COMMENT = re.compile(rb"^ *(?://.*|/\*\*(?:.|\n)*?\*/)$", re.MULTILINE)


def _lighten(suffix: str, body: bytes) -> bytes:
    """A file without what no browser needs: comments on lines of their own, which stay empty so
    that faults name the lines of the file, and the layout of texts."""
    if suffix == ".js":
        return _COMMENT.sub(lambda found: b"\n" * found[0].count(b"\n"), body)
    if suffix == ".json":
        texts = json.loads(body)
        return json.dumps(texts, ensure_ascii=False, separators=(",", ":")).encode()
    return body


def page_routes() -> Iterator[tuple[str, Callable[[Request], Awaitable[Response]]]]:
    """Paths and what they show; they need no key, and tell nothing."""
    for address, folder in PAGES.items():
        show = _shower(address, read_files(folder))
        yield address, show
        yield f"{address}/{{path:path}}", show


def _shower(
    address: str, found: Mapping[str, StaticFile]
) -> Callable[[Request], Awaitable[Response]]:
    async def show(request: Request) -> Response:
        file = found.get(request.path_params.get("path") or INDEX)
        if file is None:
            raise RouteUnknown(f"there is no such file: open {address}")
        return _send(file, request)

    return show


def _send(file: StaticFile, request: Request) -> Response:
    headers = {**HEADERS, "Content-Type": file.content_type, "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.packed, headers={**headers, "Content-Encoding": "gzip"})
    return Response(file.body, headers=headers)
