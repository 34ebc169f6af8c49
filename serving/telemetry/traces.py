"""Traces of a request over all its processes, by OpenTelemetry (OTLP over HTTP), which takes half a
second to import and is imported only where a collector is configured."""
# ruff: noqa: PLC0415

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from engine.errors import RequestError, advise_extra
from serving.settings.sections import ServeSettings
from serving.telemetry.logs import show_text

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import SpanProcessor

Attribute = str | int | float | bool

ATTRIBUTES = {
    "route": "http.route",
    "method": "http.request.method",
    "status": "http.response.status_code",
    "code": "error.type",
    "correlator": "sosie.correlator",
    "items": "sosie.items",
    "references": "sosie.references",
    "decision": "sosie.decision",
}
"""The only attributes of a span; none of them is personal."""

REQUEST = "request"
"""The span of a whole request. Below it are extract, match and hop; below a hop judge, search and
audit, or a registrar's call by its own name."""

EXPORT_TIMEOUT_S = 5
_HEADER = "traceparent"


class Span:
    """A span, open while its `with` block runs; this one is not sent."""

    @property
    def traceparent(self) -> str | None:
        """The W3C header for calls to another process; None if the span is not sent."""
        return None

    def note(self, **attributes: Attribute) -> None:
        """Adds some of `ATTRIBUTES`; a span has no others."""

    def fail(self, code: str) -> None:
        """Marks it as failed, with the stable code of the refusal."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        pass


_SILENT = Span()


class Tracer:
    """Opens spans, from any thread or task; this one traces nothing, at no cost."""

    def span(self, name: str, traceparent: str | None = None, **attributes: Attribute) -> Span:
        """A span below `traceparent` (ignored if invalid), else below the current one; an exception
        marks it failed, by its type."""
        del name, traceparent, attributes
        return _SILENT

    def close(self) -> None:
        """Sends the remaining spans."""


def open_tracer(settings: ServeSettings, process: str) -> Tracer:
    """The tracer of a process: OpenTelemetry's with `trace_endpoint`, else one that does nothing.

    An unreachable collector costs spans, nothing else. `RequestError` where traces are configured
    and the extra `tracing` is not installed.
    """
    if not settings.trace_endpoint:
        return Tracer()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise RequestError(
            f"trace_endpoint needs OpenTelemetry: {advise_extra('tracing')}, or leave it empty"
        ) from None
    exporter = OTLPSpanExporter(endpoint=settings.trace_endpoint, timeout=EXPORT_TIMEOUT_S)
    return OpenTelemetryTracer(BatchSpanProcessor(exporter), settings.trace_ratio, process)


class OpenTelemetryTracer(Tracer):
    """Samples `ratio` of the traces that begin here, and those that the caller sampled."""

    def __init__(self, processor: SpanProcessor, ratio: float, process: str) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._propagator = TraceContextTextMapPropagator()
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource.create(
                {"service.name": "sosie", "service.instance.id": f"{process}:{os.getpid()}"}
            ),
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("sosie")

    def span(self, name: str, traceparent: str | None = None, **attributes: Attribute) -> Span:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        parent: Context | None = None
        if traceparent is not None:
            parent = self._propagator.extract({_HEADER: traceparent}, Context())
        kind = SpanKind.SERVER if name == REQUEST else SpanKind.INTERNAL
        return _OpenSpan(self._tracer.start_span(name, parent, kind, _translate(attributes)))

    def close(self) -> None:
        self._provider.shutdown()


class _OpenSpan(Span):
    """A span that is sent; the current one inside its `with` block."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str | None:
        found = self._span.get_span_context()
        if not found.is_valid:
            return None
        return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"

    def note(self, **attributes: Attribute) -> None:
        self._span.set_attributes(_translate(attributes))

    def fail(self, code: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_attribute(ATTRIBUTES["code"], code)
        self._span.set_status(StatusCode.ERROR)

    def __enter__(self) -> Self:
        from opentelemetry import context, trace

        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        from opentelemetry import context

        context.detach(self._token)
        if kind is not None:
            # Not record_exception: an exception's text may contain anything.
            self.fail(kind.__qualname__)
        self._span.end()


def _translate(attributes: dict[str, Attribute]) -> dict[str, Attribute]:
    assert attributes.keys() <= ATTRIBUTES.keys(), "a span says only what ATTRIBUTES lists"
    return {
        ATTRIBUTES[name]: show_text(value) if isinstance(value, str) else value
        for name, value in attributes.items()
        if name in ATTRIBUTES
    }
