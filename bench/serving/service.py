"""`sosie serve` as a child process, from its start to its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from bench.serving.residents import kill_hard, list_family, wait_gone
from engine.errors import RequestError
from serving.cluster.supervisor import RAYS_OWN_PORT

HOST = "127.0.0.1"
START_TIMEOUT_S, STOP_TIMEOUT_S = 180.0, 60.0
POLL_S = 0.05
READY_PATH = "/health/ready"
SHOWN_CHARACTERS = 2_000


class ServiceFailed(RequestError):
    """The service did not start, or ended by itself."""

    code = "BENCH.SERVICE_FAILED"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a service finds what it needs, and where it listens; `proxy` as in `[serve]`."""

    home: Path
    cache: Path
    port: int
    proxy: str = "haproxy"


class Service:
    """A service from its start; not ready at once. Stop it, whatever happens."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._log = place.home.parent / f"{place.home.name}-serve.log"
        self._process = self._start()

    @property
    def pid(self) -> int:
        """Of `sosie serve` itself."""
        return self._process.pid

    def require_running(self) -> None:
        """`ServiceFailed` where it has ended by itself."""
        status = self._process.poll()
        if status is not None:
            raise ServiceFailed(f"`sosie serve` ended with status {status}: {self._read_log()}")

    def wait_ready(self, since: float, timeout_s: float = START_TIMEOUT_S) -> float:
        """Seconds from `since` (of `time.perf_counter`) to its first answer that it is ready."""
        while time.perf_counter() - since < timeout_s:
            self.require_running()
            if is_ready(self.place.port):
                return time.perf_counter() - since
            time.sleep(POLL_S)
        raise ServiceFailed(
            f"the service was not ready after {timeout_s:.0f} s: {self._read_log()}"
        )

    def stop(self) -> None:
        """Asks it to end, as an operator does; what does not end in time is killed."""
        family = list_family(self.pid)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        kill_hard(wait_gone(family, STOP_TIMEOUT_S / 6))

    def kill(self) -> None:
        """SIGKILL to every process of it, as when a machine loses its power."""
        family = list_family(self.pid)
        kill_hard(family)
        self._process.wait()
        wait_gone(family, STOP_TIMEOUT_S)

    def restart(self) -> None:
        """Begins again what has ended."""
        assert self._process.poll() is not None
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = Path(sys.executable).with_name("sosie")
        if not command.is_file():
            raise RequestError(f"no command sosie beside {sys.executable}: pip install it there")
        environment = os.environ | {
            "SOSIE_CACHE": str(self.place.cache),
            "SOSIE_SERVE__PORT": str(self.place.port),
            "SOSIE_SERVE__PROXY": self.place.proxy,
        }
        with self._log.open("ab") as file:
            return subprocess.Popen(
                [str(command), "serve", "--home", str(self.place.home)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def _read_log(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace").strip()
        return " ".join(text[-SHOWN_CHARACTERS:].split()) or "it said nothing"


@dataclass(frozen=True, slots=True)
class Ready:
    """A service, and the seconds from its start to its first answer that it is ready."""

    service: Service
    seconds: float


@contextmanager
def serve(place: Place) -> Iterator[Ready]:
    """A service that is ready; stopped at the end, whatever happens."""
    begun = time.perf_counter()
    service = Service(place)
    try:
        yield Ready(service, service.wait_ready(begun))
    finally:
        service.stop()


def is_ready(port: int, timeout_s: float = 2.0) -> bool:
    """True where `/health/ready` says 200."""
    connection = HTTPConnection(HOST, port, timeout=timeout_s)
    try:
        connection.request("GET", READY_PATH)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def find_port() -> int:
    """A port that nobody listens on now, nor Ray later."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return find_port() if port == RAYS_OWN_PORT else port
