"""An authority's service for tests, in this process: it answers as it is told, and keeps what it
was asked."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Question = dict[str, Any]
Behave = Callable[["Handler", Question], None]


def answer(*records: dict[str, Any], **changes: Any) -> Behave:
    """Answers with these records."""

    def behave(handler: Handler, question: Question) -> None:
        body = {"request_id": question["request_id"], "records": list(records), **changes}
        handler.send(json.dumps(body).encode())

    return behave


def send(body: bytes, status: int = 200, **headers: str) -> Behave:
    """Answers with these bytes, whatever was asked."""
    return lambda handler, _: handler.send(body, status, **headers)


@dataclass
class Service:
    """What stands behind the address; `behave` may be changed at any time."""

    url: str
    behave: Behave = field(default_factory=lambda: answer({"standing": "valid"}))
    asked: list[Question] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)
    """Set when the test ends: nobody has to wait any longer."""

    @property
    def sink(self) -> str:
        """Its address for whoever sends events."""
        return self.url.replace("localhost", "127.0.0.1").replace("{type}", "events")


class Handler(BaseHTTPRequestHandler):
    """One request; `service` is set by `serve_authority`."""

    protocol_version = "HTTP/1.1"
    service: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        question = json.loads(body)
        self.service.asked.append(question)
        self.service.paths.append(self.path)
        self.service.bodies.append(body)
        self.service.headers.append({k.lower(): v for k, v in self.headers.items()})
        self.service.behave(self, question)

    def send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if "Connection" not in given:
            given = {"Content-Length": str(len(body)), **given}
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not to standard error."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that went away is what the tests are about."""


@contextmanager
def serve_authority(context: ssl.SSLContext | None = None) -> Iterator[Service]:
    """A service on a port of its own, by TLS where a context is given."""
    server = _Server(("127.0.0.1", 0), Handler)
    port = server.server_address[1]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "http" if context is None else "https"
    service = Service(f"{scheme}://localhost:{port}/v1/{{type}}")
    server.RequestHandlerClass = type("Bound", (Handler,), {"service": service})
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.ending.set()
        server.shutdown()
        server.server_close()
        thread.join()
