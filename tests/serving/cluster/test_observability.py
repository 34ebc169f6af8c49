"""Traces, metrics and log lines of all parts of the running service."""

import base64
import socket

import pytest

from tests.serving.telemetry.collector import ROOT, trace_of
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


def test_a_trace_joins_the_ingress_and_the_registrar(served, activation, pictures) -> None:
    # Two people: it is rejected, and leaves no reference that another test would find.
    body = activation(700) | {"live": base64.b64encode(pictures["stranger"]).decode()}
    headers = trace_of(7) | {"idempotency-key": "traced", "x-correlator": "traced-7"}
    answer = served.ask("POST", "/v1/enrollments", json=body, headers=headers)
    assert answer.is_success, answer.text
    wanted = {(ROOT, "request"), ("request", "extract"), ("request", "hop"), ("hop", "judge")}
    wait_until(lambda: served.collector.traces.tree(7) >= wanted)
    found = served.collector.traces
    assert found.tree(7) == wanted
    processes = {(span.name, found.processes[span.span_id]) for span in found.spans}
    assert {("request", "ingress"), ("hop", "ingress"), ("judge", "registrar")} <= processes


def test_the_log_of_all_processes_comes_to_standard_output(served) -> None:
    served.ask("GET", "/v1/me", headers={"x-correlator": "logged-8"})
    wait_until(lambda: any(line.get("correlator") == "logged-8" for line in served.events))
    assert {line.get("process") for line in served.events} >= {"ingress", "registrar"}
    assert not (served.home / "log/service.jsonl").exists()


def test_what_the_proxy_refuses_is_among_the_metrics(served) -> None:
    def count() -> float:
        text = served.ask("GET", "/metrics", key="operator").text
        start = 'sosie_proxy_refused_total{status="4xx"} '
        (line,) = (line for line in text.splitlines() if line.startswith(start))
        return float(line.removeprefix(start))

    before = count()
    host, port = served.url.removeprefix("http://").split(":")
    for _ in range(3):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"this is not HTTP\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")
    assert count() == before + 3
