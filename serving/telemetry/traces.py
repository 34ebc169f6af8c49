"""Traces: where the time of one request went, over all processes that it passed."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from engine.errors import RequestError
from serving.settings import ServeSettings
from serving.telemetry.redaction import show_text

Attribute = str | int | float | bool

REQUEST = "request"
"""The span of a whole request. Below it are extract, match and hop; below a hop judge, search and
audit, or the desk's call by its own name."""


class Span(Protocol):
    """One stretch of work, open while its `with` runs."""

    @property
    def traceparent(self) -> str | None:
        """The W3C header for what this span asks of another process."""
        ...

    def note(self, **attributes: Attribute) -> None:
        """Adds some of `spans.ATTRIBUTES`; nothing else can be said in a span."""
        ...

    def fail(self, code: str) -> None:
        """Marks it as failed, with the stable code of the refusal."""
        ...


class Tracer(Protocol):
    """Opens spans; safe from many threads and tasks."""

    def span(
        self, name: str, traceparent: str | None = None, **attributes: Attribute
    ) -> AbstractContextManager[Span]:
        """A span under `traceparent` (a bad one counts as none), else under the current span.

        An exception that leaves it marks it as failed by its type, without its text.
        """
        ...

    def close(self) -> None:
        """Sends what was gathered."""
        ...


class _SilentSpan:
    traceparent: str | None = None

    def note(self, **attributes: Attribute) -> None:
        pass

    def fail(self, code: str) -> None:
        pass

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


_SILENT = _SilentSpan()


class SilentTracer:
    """Traces nothing, at no cost: where tracing is off."""

    def span(
        self, name: str, traceparent: str | None = None, **attributes: Attribute
    ) -> AbstractContextManager[Span]:
        del name, traceparent, attributes
        return _SILENT

    def close(self) -> None:
        pass


def open_tracer(settings: ServeSettings, process: str) -> Tracer:
    """The tracer of a process: silent without `trace_endpoint`, else OpenTelemetry's.

    `RequestError` where traces are asked for and the extra `tracing` is not installed.
    """
    if not settings.trace_endpoint:
        return SilentTracer()
    try:
        # Half a second of imports that only those pay who trace.
        pass  # noqa: PLC0415
    except ImportError:
        raise RequestError(
            "trace_endpoint needs OpenTelemetry: install sosie[tracing], or leave it empty"
        ) from None
    return open_spans(settings.trace_endpoint, settings.trace_ratio, process)


# Spans by OpenTelemetry, sent as OTLP over HTTP; imported only where tracing is on.

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
"""All that a span may say of its work: none of it is personal."""

EXPORT_TIMEOUT_S = 5
_HEADER = "traceparent"
_propagator = TraceContextTextMapPropagator()


def open_spans(endpoint: str, ratio: float, process: str) -> OpenTelemetryTracer:
    """A tracer that sends to an OTLP collector; one that is not there costs spans, nothing else."""
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_S)
    return OpenTelemetryTracer(BatchSpanProcessor(exporter), ratio, process)


class OpenTelemetryTracer:
    """A `Tracer`; samples `ratio` of the traces that begin here, and those sampled before."""

    def __init__(self, processor: SpanProcessor, ratio: float, process: str) -> None:
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource.create(
                {"service.name": "sosie", "service.instance.id": f"{process}:{os.getpid()}"}
            ),
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("sosie")

    def span(
        self, name: str, traceparent: str | None = None, **attributes: Attribute
    ) -> AbstractContextManager[Span]:
        parent: Context | None = None
        if traceparent is not None:
            parent = _propagator.extract({_HEADER: traceparent}, Context())
        kind = trace.SpanKind.SERVER if name == REQUEST else trace.SpanKind.INTERNAL
        return OpenSpan(self._tracer.start_span(name, parent, kind, _translate(attributes)))

    def close(self) -> None:
        self._provider.shutdown()


class OpenSpan:
    """A span that is the current one inside its `with`."""

    __slots__ = ("_span", "_token")

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
        self._span.set_attribute(ATTRIBUTES["code"], code)
        self._span.set_status(trace.StatusCode.ERROR)

    def __enter__(self) -> Span:
        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace_back: TracebackType | None,
    ) -> None:
        context.detach(self._token)
        if kind is not None:
            # Not record_exception: an exception's text may hold anything.
            self.fail(kind.__qualname__)
        self._span.end()


def _translate(attributes: dict[str, Attribute]) -> dict[str, Attribute]:
    assert attributes.keys() <= ATTRIBUTES.keys(), "a span says only what ATTRIBUTES lists"
    return {
        ATTRIBUTES[name]: show_text(value) if isinstance(value, str) else value
        for name, value in attributes.items()
        if name in ATTRIBUTES
    }
