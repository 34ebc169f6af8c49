"""Exporter of /metrics on loopback, without a key: one process serves it for the node."""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry, start_http_server

LOOPBACK = "127.0.0.1"
RETRY_S = 3.0


class Exporter:
    """Serves a registry on 127.0.0.1 from the first process that gets the port.

    When that process ends, another takes over within `retry_s`.
    """

    def __init__(self, registry: CollectorRegistry, port: int, retry_s: float = RETRY_S) -> None:
        self._registry, self._port, self._retry_s = registry, port, retry_s
        self._closed = threading.Event()
        self.is_serving = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="sosie-metrics", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closed.is_set():
            try:
                server, thread = start_http_server(
                    self._port, addr=LOOPBACK, registry=self._registry
                )
            except OSError:
                # Another process of the node has the port.
                self._closed.wait(self._retry_s)
                continue
            self.is_serving.set()
            self._closed.wait()
            self.is_serving.clear()
            server.shutdown()
            server.server_close()
            thread.join()

    def close(self) -> None:
        """Frees the port."""
        self._closed.set()
        self._thread.join()

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
