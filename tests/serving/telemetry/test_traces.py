"""Spans that join the client's trace, cross processes, and say nothing personal."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from engine.errors import RequestError
from serving.settings.sections import ServeSettings
from serving.telemetry.traces import OpenTelemetryTracer, Tracer, open_tracer

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


class Kept:
    """A tracer whose spans stay in memory."""

    def __init__(self, ratio: float = 1) -> None:
        self.memory = InMemorySpanExporter()
        self.tracer: Tracer = OpenTelemetryTracer(
            SimpleSpanProcessor(self.memory), ratio, "ingress"
        )

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.memory.get_finished_spans()}


@pytest.fixture
def kept() -> Iterator[Kept]:
    made = Kept()
    yield made
    made.tracer.close()


def test_without_an_endpoint_nothing_is_traced_nor_imported() -> None:
    assert type(open_tracer(ServeSettings(), "ingress")) is Tracer
    code = """
import sys
from serving.settings.sections import ServeSettings
from serving.telemetry.traces import open_tracer
tracer = open_tracer(ServeSettings(), "ingress")
with tracer.span("request", "00-1-2-3", route="/v1/match") as span:
    span.note(status=200)
    span.fail("X")
    assert span.traceparent is None
tracer.close()
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_extra_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)
    with pytest.raises(RequestError, match=r"\.\[tracing\]"):
        open_tracer(ServeSettings(trace_endpoint="http://127.0.0.1:1/v1/traces"), "ingress")


def test_what_the_client_did_not_sample_is_not_sampled(kept) -> None:
    with kept.tracer.span("request", UNSAMPLED) as span:
        assert span.traceparent.endswith("-00")
    assert not kept.spans()


@pytest.mark.parametrize("header", ["", "x" * 10_000, "00-0-0-0", "00-" + "0" * 32 + "-1-01", "é"])
def test_a_bad_header_begins_a_new_trace(kept, header: str) -> None:
    with kept.tracer.span("request", header):
        pass
    assert kept.spans()["request"].parent is None


def test_a_failed_span_has_its_code(kept) -> None:
    with kept.tracer.span("request") as span:
        span.fail("SERVICE.BUSY")
    failed = kept.spans()["request"]
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes == {"error.type": "SERVICE.BUSY"}


def test_an_exception_fails_the_span_without_its_text(kept) -> None:
    with pytest.raises(ValueError, match="Aileen"), kept.tracer.span("judge"):
        raise ValueError("Aileen +8613800138000")
    text = kept.spans()["judge"].to_json()
    assert "ValueError" in text
    assert "Aileen" not in text
    assert "8613800138000" not in text


def test_a_span_has_only_listed_attributes(kept) -> None:
    with pytest.raises(AssertionError), kept.tracer.span("request", msisdn="+8613800138000"):
        pass
    with kept.tracer.span("request", correlator="call +8613800138000"):
        pass
    assert "8613800138000" not in kept.spans()["request"].to_json()
