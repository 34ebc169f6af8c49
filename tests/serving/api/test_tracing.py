"""One trace of a request over all that it passes, at a collector; and one correlator in the log."""

import asyncio
import json
import pickle
import shutil
from collections.abc import Callable
from contextvars import Context
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from serving.api.app import build_app
from serving.cluster.registrar_client import RayRegistrar
from serving.registrar.operations import Operations
from serving.registrar.service import RegistrarService
from serving.telemetry.traces import ATTRIBUTES
from tests.serving.api.conftest import serving
from tests.serving.api.driver import Service
from tests.serving.api.test_secrets import FRAGMENTS, failing_calls
from tests.serving.telemetry.collector import ROOT, Traces, run_collector, trace_of


def hop_to(service: RegistrarService) -> Any:
    """A deployment's handle: arguments and reply are pickled, and nothing else crosses."""

    async def perform(method: str, sent: bytes) -> Any:
        reply = await service.perform(method, *pickle.loads(sent))
        return pickle.loads(pickle.dumps(reply))

    def remote(method: str, *given: Any) -> asyncio.Task[Any]:
        work = perform(method, pickle.dumps(given))
        return asyncio.get_running_loop().create_task(work, context=Context())

    return SimpleNamespace(perform=SimpleNamespace(remote=remote))


def with_hop(service: Service) -> Service:
    parts = service.parts
    registrar = RayRegistrar(
        hop_to(service.match),
        capacity=64,
        timeout_s=10,
        meter=parts.meter,
        log=parts.log,
        tracer=parts.tracer,
    )
    hopping = replace(parts, registrar=registrar)
    return replace(service, parts=hopping, app=build_app(hopping))


Drive = Callable[[Service], None]


@pytest.fixture
def trace(keyed_home, extractor, tmp_path) -> Callable[[Drive], Traces]:
    """`trace(drive)`: what arrives of what `drive` asks a service that is then stopped."""

    def run(drive: Drive) -> Traces:
        home = tmp_path / "served"
        shutil.copytree(keyed_home[0], home)
        with run_collector() as collector:
            with serving(home, keyed_home[1], extractor) as start:
                started = start(trace_endpoint=collector.endpoint, trace_ratio=0.0)
                drive(with_hop(started))
            return collector.traces

    return run


def test_a_clients_trace_goes_through_the_hop_to_the_registrar(trace, faces, activation) -> None:
    image = {"image": faces["later"]}

    def drive(service: Service) -> None:
        def ask(number: int, path: str, body: Any, status: int, key: str = "blue") -> Any:
            headers = trace_of(number) | {"idempotency-key": "k1", "x-correlator": f"c{number}"}
            answer = service.ask("POST", path, key=key, body=body, headers=headers)
            assert answer.status_code == status, answer.text
            return answer.json()

        made = ask(1, "/v1/enrollments", activation(), 201)
        ask(2, "/v1/match", {"items": [{"probe": image, "reference": image, "search": True}]}, 200)
        (issued,) = ask(3, "/v1/templates", {"items": [image]}, 200)["items"]
        face = {"template": issued["template"]}
        ask(4, "/v1/match", {"items": [{"probe": face, "reference": face}]}, 200)
        ask(5, "/v1/identifications", {"probe": image}, 200, key="fraud")
        read = f"/v1/enrollments/{made['enrollment_id']}"
        assert service.ask("GET", read, headers=trace_of(6)).status_code == 200
        # Nobody asks for these traces, and of its health no service keeps any.
        assert service.ask("GET", "/health/live", headers=trace_of(7)).status_code == 200
        assert service.ask("GET", read).status_code == 200

    found = trace(drive)
    assert found.tree(1) == {
        (ROOT, "request"),
        ("request", "extract"),
        ("request", "hop"),
        ("hop", "judge"),
    }
    searched = {("request", "hop"), ("hop", "search"), ("search", "audit")}
    extracted = {(ROOT, "request"), ("request", "extract")}
    assert found.tree(2) == extracted | searched | {("request", "match")}
    assert found.tree(3) == extracted
    assert found.tree(4) == {(ROOT, "request"), ("request", "match")}
    assert found.tree(5) == extracted | searched | {("hop", "audit")}
    assert found.tree(6) == {(ROOT, "request"), ("request", "hop"), ("hop", "audit")}
    assert {int.from_bytes(span.trace_id) for span in found.spans} == set(range(1, 7))
    assert {found.processes[s.span_id] for s in found.spans if s.name in {"judge", "search"}} == {
        "registrar"
    }
    assert found.find(1, "request") == {
        "http.route": "/v1/enrollments",
        "http.request.method": "POST",
        "http.response.status_code": 201,
        "sosie.correlator": "c1",
    }
    assert {one.name for one in found.spans if one.kind == Span.SPAN_KIND_SERVER} == {"request"}
    assert found.find(1, "judge") == {"sosie.decision": "approved"}
    assert found.find(1, "extract") == {"sosie.items": 2}
    assert found.find(2, "search") == {"sosie.items": 1, "sosie.references": 2}


def test_no_span_says_anything_personal(trace, faces, activation) -> None:
    keys: list[str] = []

    def drive(service: Service) -> None:
        keys.extend(service.keys.values())
        for number, (method, path, options) in enumerate(failing_calls(activation, faces), 1):
            headers = trace_of(number) | options.pop("headers", {})
            assert service.ask(method, path, headers=headers, **options).status_code >= 400
        good = trace_of(100) | {"idempotency-key": "k"}
        body = activation()
        assert service.ask("POST", "/v1/enrollments", body=body, headers=good).is_success

    found = trace(drive)
    text = "".join(map(str, found.spans))
    assert text.count("sosie.decision") == 1
    assert text.count('name: "request"') > 20
    assert found.find(1, "request")["error.type"] == "REQUEST.MALFORMED"
    for fragment in (*FRAGMENTS, *keys):
        assert fragment not in text
    said = {item.key for span in found.spans for item in span.attributes}
    assert said <= set(ATTRIBUTES.values())
    assert not any(span.events or span.links or span.status.message for span in found.spans)


def test_one_correlator_names_a_request_in_every_line_about_it(
    fresh, activation, monkeypatch
) -> None:
    def ask(correlator: str) -> int:
        headers = {"idempotency-key": correlator, "x-correlator": correlator}
        answer = fresh.ask("POST", "/v1/enrollments", body=activation(), headers=headers)
        assert answer.headers["x-correlator"] == correlator
        return answer.status_code

    async def fail(*_: Any) -> Any:
        raise OSError("the disk")

    assert ask("sound-1") == 201
    monkeypatch.setattr(Operations, "enroll", fail)
    assert ask("failed-1") == 500
    lines = [json.loads(line) for line in fresh.log_text.splitlines()]
    events = {
        name: {line["event"] for line in lines if line.get("correlator") == name}
        for name in ("sound-1", "failed-1")
    }
    assert events["sound-1"] == {"decided", "request"}
    assert events["failed-1"] == {"call_failed", "failure", "request"}
    (decided,) = (line for line in lines if line["event"] == "decided")
    # The audit chain is for ever, and a correlator is a client's text: the id leads there.
    assert decided["enrollment_id"] in {one.subject for one in fresh.audited()}
