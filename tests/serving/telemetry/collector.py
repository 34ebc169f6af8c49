"""An OTLP collector over real HTTP."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

CLIENT_SPAN = "b7ad6b7169203331"
ROOT = "root"
"""What the client's own span is called here."""


def trace_of(number: int) -> dict[str, str]:
    """The header of a client that samples the trace of that number."""
    return {"traceparent": f"00-{number:032x}-{CLIENT_SPAN}-01"}


@dataclass
class Traces:
    """Spans that arrived, and the process of each by its id."""

    spans: list[Span]
    processes: dict[bytes, str]

    def tree(self, number: int) -> set[tuple[str, str]]:
        """Every span of that trace below its parent, which may come later."""
        own = [span for span in self.spans if int.from_bytes(span.trace_id) == number]
        names = {span.span_id: span.name for span in own} | {bytes.fromhex(CLIENT_SPAN): ROOT}
        return {(names.get(span.parent_span_id, ""), span.name) for span in own}

    def find(self, number: int, name: str) -> dict[str, Any]:
        """The attributes of the one span of that name."""
        (span,) = (
            span
            for span in self.spans
            if int.from_bytes(span.trace_id) == number and span.name == name
        )
        return {
            item.key: getattr(item.value, str(item.value.WhichOneof("value")))
            for item in span.attributes
        }


class Collector(HTTPServer):
    """Keeps what it is sent, with the path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.endpoint = f"http://127.0.0.1:{self.server_port}/v1/traces"
        self.received: list[tuple[str, ExportTraceServiceRequest]] = []

    @property
    def traces(self) -> Traces:
        """What has arrived so far."""
        found = Traces([], {})
        for _, sent in list(self.received):
            for resource in sent.resource_spans:
                names = {item.key: item.value.string_value for item in resource.resource.attributes}
                process = names["service.instance.id"].partition(":")[0]
                for scope in resource.scope_spans:
                    found.spans.extend(scope.spans)
                    found.processes |= {span.span_id: process for span in scope.spans}
        return found


class _Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def run_collector() -> Iterator[Collector]:
    """Receives while the `with` runs."""
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()
