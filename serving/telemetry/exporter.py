"""/metrics without a key, on loopback: one of a node's processes serves it for all."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

LOOPBACK = "127.0.0.1"
RETRY_S = 3.0


class Exporter:
    """Serves the node's metrics, or waits to: the first process that gets the port has it.

    When that one ends, another takes over within `retry_s`.
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def start_exporter(registry: CollectorRegistry, port: int, retry_s: float = RETRY_S) -> Exporter:
    """Begins to serve `PrometheusMeter.rendered` on 127.0.0.1:`port`; returns at once."""
    return Exporter(registry, port, retry_s)


# The folder in which the processes of one node count together.

LIVE = "gauge_live"
ATTEMPTS = 5


def clear_folder(folder: Path) -> None:
    """An empty folder for a node that starts; none of its processes may run yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink(missing_ok=True)


def discard_gauges(folder: Path, pid: int) -> None:
    """Forgets the gauges of a process that is gone; what it counted stays."""
    for file in folder.glob(f"{LIVE}*_{pid}.db"):
        file.unlink(missing_ok=True)


class FolderCollector(Collector):
    """The sum of all processes of the node, without gauges of those that are gone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Reads every file: some milliseconds."""
        for attempt in range(1, ATTEMPTS + 1):
            files = self._list_files()
            try:
                return list(MultiProcessCollector.merge(files))  # type: ignore[no-untyped-call]
            except (FileNotFoundError, RuntimeError, struct.error):
                # Another process made or removed one of the files meanwhile.
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def describe(self) -> Iterable[Metric]:
        # A registry would otherwise read all files to learn the names.
        return []

    def _list_files(self) -> list[str]:
        pids = {_pid_of(file) for file in self._folder.glob(f"{LIVE}*.db")}
        for pid in pids:
            if not _is_alive(pid):
                discard_gauges(self._folder, pid)
        # A process that was killed while it made its file leaves an empty one for ever.
        return [str(file) for file in self._folder.glob("*.db") if _size_bytes(file)]


def _pid_of(file: Path) -> int:
    return int(file.stem.rsplit("_", 1)[1])


def _size_bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
