"""Metrics of the proxy's own answers, with the HAProxy of Ray."""

import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving.cluster.environment import find_port
from serving.cluster.haproxy import list_sockets
from serving.cluster.proxy_metrics import ProxyCollector
from serving.settings.settings import METRICS_VARIABLE
from tests.serving.cluster.proxied import CONFIG, run_proxy
from tests.waiting import wait_until

APP, MATCH, ENROLL = "http-sosie", "http-sosie-match", "http-sosie-enroll"
UNKNOWN = "http-sosie-unknown"


def scrape(folder: Path) -> dict[tuple[str, str], float]:
    """Every sample by its name and its label's value, as Prometheus reads it."""
    registry = CollectorRegistry()
    registry.register(ProxyCollector(folder))
    return {
        (sample.name, *sample.labels.values()): sample.value  # type: ignore[misc]
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def wait_for(folder: Path, name: str, label: str, value: float) -> dict[tuple[str, str], float]:
    """The samples in which this one has the value: HAProxy counts a request after its answer."""
    return (
        wait_until(lambda: found if (found := scrape(folder))[name, label] == value else None) or {}
    )


@pytest.mark.parametrize(
    ("backend", "path", "bound"),
    [
        (MATCH, "/v1/match", CONFIG.match_ongoing),
        (ENROLL, "/v1/enrollments", CONFIG.enroll_ongoing),
    ],
)
def test_overload_that_the_proxy_refuses_is_counted(
    proxied, backend: str, path: str, bound: int
) -> None:
    held = proxied.hold(bound, path, "POST")
    assert [proxied.ask(path, "POST")[0] for _ in range(3)] == [429] * 3
    found = wait_for(proxied.folder, "sosie_proxy_refused_total", "4xx", 3)
    assert found["sosie_proxy_refused_total", "5xx"] == 0
    assert found["sosie_proxy_sessions", backend] == bound
    assert found["sosie_proxy_queue", backend] == 0
    proxied.release(held)
    found = wait_for(proxied.folder, "sosie_proxy_sessions", backend, 0)
    assert found["sosie_proxy_requests_total", backend] == bound
    # Of the start alone, which has asked with both keys, some of them twice.
    assert found["sosie_proxy_requests_total", UNKNOWN] >= 2
    assert found["sosie_proxy_requests_total", APP] >= 2


def test_answers_for_ingresses_that_are_gone_are_counted(proxied) -> None:
    proxied.stop_server()
    assert [proxied.ask(path)[0] for path in ("/v1/", "/v1/lines", "/v1/match")] == [503] * 3
    wait_for(proxied.folder, "sosie_proxy_failed_total", APP, 2)
    found = wait_for(proxied.folder, "sosie_proxy_failed_total", MATCH, 1)
    assert found["sosie_proxy_refused_total", "5xx"] == 0


def test_what_an_ingress_refuses_is_not_the_proxys(proxied) -> None:
    asked = "sosie_proxy_requests_total"
    # Not while requests of the start are still to be counted.
    for backend in (APP, UNKNOWN):
        before = wait_for(proxied.folder, "sosie_proxy_sessions", backend, 0)
    assert proxied.ask("/v1/missing")[0] == 404
    found = wait_for(proxied.folder, asked, APP, before[asked, APP] + 1)
    assert found["sosie_proxy_refused_total", "4xx"] == 0
    assert found[asked, UNKNOWN] == before[asked, UNKNOWN]


def test_without_a_proxy_nothing_is_shown(proxied, tmp_path) -> None:
    assert scrape(proxied.folder)
    assert scrape(tmp_path) == {}
    assert scrape(tmp_path / "missing") == {}
    (tmp_path / "admin.sock").touch()
    assert scrape(tmp_path) == {}


def test_proxies_that_hang_share_one_bounded_time(tmp_path) -> None:
    opened = []
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        opened.append(socket.socket(socket.AF_UNIX))
        opened[-1].bind(str(tmp_path / name / "admin.sock"))
        opened[-1].listen()
    assert len(list_sockets(tmp_path)) == 3
    assert scrape(tmp_path) == {}
    # The first takes all the time that there is, and none is left for the others.
    assert [bool(select.select([one], [], [], 0)[0]) for one in opened] == [True, False, False]
    for one in opened:
        one.close()


def test_a_process_of_the_node_shows_what_its_proxy_counts(tmp_path_factory) -> None:
    node = tmp_path_factory.mktemp("n")
    # As `make_environment` has it, with a folder that Serve makes.
    (node / "p" / "0a1b").mkdir(parents=True)
    code = f"""
from urllib.request import urlopen
import structlog
from serving.cluster.deployments import open_meter
from serving.settings.settings import Settings
from serving.telemetry.metrics import Exporter
meter = open_meter(Settings(), structlog.get_logger())
with Exporter(meter.node_registry, {(port := find_port())}) as exporter:
    assert exporter.is_serving.wait(120)
    exported = urlopen("http://127.0.0.1:{port}/metrics").read()
for text in (meter.render()[0], exported):
    print(text.decode().count("sosie_proxy_requests_total{{"), text.decode().count("sosie_build"))
"""
    with run_proxy(node / "p" / "0a1b"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, METRICS_VARIABLE: str(node / "metrics")},
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.split("\n") == ["7 3", "7 3", ""]
