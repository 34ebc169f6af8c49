"""The real service in process, listening behind the proxy."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from ray.serve._private.haproxy import ServerConfig

from serving.cluster.environment import find_port
from serving.cluster.haproxy import ProxyConfig
from tests.security.unfinished_requests import WAIT_S
from tests.serving.cluster.proxied import generate, start_proxy
from tests.waiting import wait_until


@contextmanager
def listening(service: Any, folder: Path, given: ProxyConfig) -> Iterator[tuple[int, int]]:
    """The ports at which it is reached through the proxy, and without."""
    config = uvicorn.Config(service.app, port=0, http="httptools", log_config=None)
    server = uvicorn.Server(config)
    ended = asyncio.run_coroutine_threadsafe(server.serve(), service.loop)
    wait_until(lambda: server.started)
    own: int = server.servers[0].sockets[0].getsockname()[1]
    port = find_port()
    path = generate(folder, port, [ServerConfig("one", "127.0.0.1", own)])
    # Health checks of Serve's, which a replica answers beside the application.
    path.write_text(path.read_text().replace("GET /-/healthz", "GET /health/live"))
    process = start_proxy(path, given, folder / "log")

    def is_ready() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
        return False

    try:
        wait_until(is_ready)
        assert not (folder / "log").exists()
        yield port, own
    finally:
        process.kill()
        process.wait()
        server.should_exit = True
        ended.result(WAIT_S)
