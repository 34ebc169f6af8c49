"""/metrics on loopback, by one process of the node for all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from serving.telemetry.exporter import FolderCollector, clear_folder, start_exporter
from serving.telemetry.metrics import PrometheusMeter
from tests.serving.telemetry.conftest import Node


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_the_metrics_are_served_on_loopback_only(port: int) -> None:
    meter = PrometheusMeter(None, version="1", model="m")
    meter.count_refusal("SERVICE.BUSY")
    with start_exporter(meter.rendered, port) as exporter:
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


def test_another_process_takes_over_when_the_first_is_killed(node: Node, port: int) -> None:
    code = f"""
from serving.telemetry.exporter import start_exporter
meter.count_refusal("SERVICE.BUSY")
exporter = start_exporter(meter.rendered, {port}, retry_s=0.1)
say("started")
exporter.is_serving.wait()
say("serving")
wait()
"""
    first = node.start(code)
    assert first.stdout is not None
    assert [first.stdout.readline().strip() for _ in range(2)] == ["started", "serving"]
    second = node.start(code)
    assert second.stdout is not None
    assert second.stdout.readline().strip() == "started"
    first.kill()
    first.wait()
    assert second.stdout.readline().strip() == "serving"
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    assert 'sosie_refusals_total{code="SERVICE.BUSY"} 2.0' in text


def test_a_closed_exporter_frees_its_port(port: int) -> None:
    meter = PrometheusMeter(None, version="1", model="m")
    for _ in range(2):
        with start_exporter(meter.rendered, port, retry_s=0.1) as exporter:
            assert exporter.is_serving.wait(120)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/metrics")


def test_a_taken_port_never_stops_the_process(port: int) -> None:
    meter = PrometheusMeter(None, version="1", model="m")
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with start_exporter(meter.rendered, port, retry_s=0.05) as exporter:
            assert not exporter.is_serving.wait(0.3)


def test_a_node_starts_from_an_empty_folder(node: Node) -> None:
    node.run("meter.count_refusal('SERVICE.BUSY')")
    assert list(node.folder.glob("*.db"))
    clear_folder(node.folder)
    assert not list(node.folder.glob("*.db"))
    assert list(FolderCollector(node.folder).collect()) == []


def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    clear_folder(tmp_path / "run" / "metrics")
    assert (tmp_path / "run" / "metrics").is_dir()


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    clear_folder(tmp_path)
    assert (tmp_path / "notes.txt").exists()


def test_an_empty_file_of_a_process_that_was_killed_does_no_harm(node: Node) -> None:
    node.run("meter.count_refusal('SERVICE.BUSY')")
    (node.folder / "counter_999999999.db").touch()
    names = {family.name for family in FolderCollector(node.folder).collect()}
    assert "sosie_refusals" in names


def test_a_process_does_not_inherit_the_gauges_of_an_earlier_one_with_its_number(
    node: Node,
) -> None:
    reused = """
import os, shutil
folder = find_metrics_folder()
meter.track_request(+5)
shutil.copy(folder / f"gauge_livesum_{os.getpid()}.db", folder / "kept")
"""
    node.run(reused)
    taken = f"""
import os
from pathlib import Path
folder = Path({str(node.folder)!r})
(folder / "kept").rename(folder / f"gauge_livesum_{{os.getpid()}}.db")
from serving.telemetry.metrics import PrometheusMeter
meter = PrometheusMeter(folder, version="1", model="m")
print([f.samples[0].value for f in meter.rendered.collect()
       if f.name == "sosie_http_requests_in_progress"])
"""
    assert run_bare(node, taken).strip() == "[0.0]"


def run_bare(node: Node, code: str) -> str:
    """Runs code before which no meter was made."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(node.folder)},
    )
    return done.stdout
