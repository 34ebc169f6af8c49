"""The exporter of /metrics on loopback, by one process for the node."""

from pathlib import Path

import httpx
import pytest

from serving.telemetry.metrics import REFUSALS, Exporter, Meter
from tests.serving.identity_provider import free_port


@pytest.fixture
def port() -> int:
    return free_port()


def test_the_metrics_are_served_on_loopback_only(port) -> None:
    meter = Meter()
    meter.add(REFUSALS, "SERVICE.BUSY")
    with Exporter(meter.node_registry, port) as exporter:
        assert exporter.is_serving.wait(120)
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics")
        assert answer.status_code == 200
        assert 'sosie_refusals_total{code="SERVICE.BUSY"} 1.0' in answer.text
        listening = [
            line.split()[1]
            for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
            if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
        ]
        assert listening == [f"0100007F:{port:04X}"]


def test_another_process_takes_over_when_the_first_is_killed(node, port) -> None:
    code = f"""
from serving.telemetry.metrics import Exporter
meter.add(REFUSALS, "SERVICE.BUSY")
exporter = Exporter(meter.node_registry, {port}, retry_s=0.1)
say("started")
exporter.is_serving.wait()
say("serving")
wait()
"""
    first = node.start(code)
    assert [first.stdout.readline().strip() for _ in range(2)] == ["started", "serving"]
    second = node.start(code)
    assert second.stdout.readline().strip() == "started"
    first.kill()
    first.wait()
    assert second.stdout.readline().strip() == "serving"
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    assert 'sosie_refusals_total{code="SERVICE.BUSY"} 2.0' in text


def test_a_closed_exporter_frees_its_port(port) -> None:
    meter = Meter()
    for _ in range(2):
        with Exporter(meter.node_registry, port, retry_s=0.1) as exporter:
            assert exporter.is_serving.wait(120)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/metrics")
