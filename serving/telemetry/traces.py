"""Traces: where the time of one request went, over all processes that it passed."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

from engine.errors import RequestError
from serving.sections import ServeSettings

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
        from serving.telemetry.spans import open_spans  # noqa: PLC0415
    except ImportError:
        raise RequestError(
            "trace_endpoint needs OpenTelemetry: install sosie[tracing], or leave it empty"
        ) from None
    return open_spans(settings.trace_endpoint, settings.trace_ratio, process)
