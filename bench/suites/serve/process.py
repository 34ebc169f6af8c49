"""`sosie serve` as a child process, from its start to its end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from types import TracebackType

import httpx
import psutil

from bench.core.reports import Figure
from engine.errors import RequestError
from serving.client import CallFailed, Client, Options
from serving.cluster.environment import find_port
from serving.cluster.processes import Process, Role, end_with_starter, list_descendants

MIB = 2**20


class Worker(ProcessPoolExecutor):
    """A process for one call at a time, which ends with this one, even where that is killed.

    Spawned: a forked child would have the parent's memory, and slow down at its first writes.
    """

    def __init__(self) -> None:
        super().__init__(1, mp_context=get_context("spawn"), initializer=end_with_parent)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        if kind is not None:
            # Its result is not wanted any more.
            for process in active_children():
                process.terminate()
        return super().__exit__(kind, error, trace)


def end_with_parent() -> None:
    """A spawned process ends with the one that spawned it, even where that is killed."""
    parent = parent_process()
    assert parent is not None
    end_with_starter(parent.sentinel)


def list_family(pid: int) -> list[psutil.Process]:
    """A process and all its descendants that are alive."""
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    return []


def kill_hard(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL, to each in turn; those that are gone already are left out."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def read_pss(pid: int) -> int:
    """Bytes that a process holds: shared pages count once among all that share them (PSS).

    Of a process with a key ring only root sees that: to others its shared pages count in full.
    """
    # A process may end while it is read.
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        try:
            return int(process.memory_full_info().pss)
        except psutil.AccessDenied:
            return int(process.memory_info().rss)
    return 0


HOST = "127.0.0.1"
START_TIMEOUT_S, STOP_TIMEOUT_S = 600.0, 120.0
POLL_S, ASKED = 0.05, Options(timeout_s=2)
SHOWN_CHARACTERS = 2_000


class ServiceFailed(RequestError):
    """The service did not start, or ended by itself."""

    code = "BENCH.SERVICE_FAILED"


class Service:
    """A service on a home from its start; not ready at once. Stop it, whatever happens."""

    def __init__(self, home: Path, proxy: str = "haproxy") -> None:
        """`proxy` as in `[serve]`."""
        self.home, self.port, self._proxy = home, find_port(), proxy
        self._log = home.parent / f"{home.name}-serve.log"
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
        url, transport = f"http://{HOST}:{self.port}", httpx.HTTPTransport()
        with Client(url, retries=0, transport=transport) as client:
            while time.perf_counter() - since < timeout_s:
                self.require_running()
                with suppress(CallFailed):
                    if client.ready(ASKED).is_ready:
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
        self._wait()
        kill_hard(psutil.wait_procs(family, STOP_TIMEOUT_S / 6)[1])

    def kill(self) -> None:
        """SIGKILL to every process of it, as when a machine loses its power."""
        family = list_family(self.pid)
        kill_hard(family)
        self._wait()
        psutil.wait_procs(family, STOP_TIMEOUT_S)

    def restart(self) -> None:
        """Begins again what has ended."""
        assert self._process.poll() is not None
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = Path(sys.executable).with_name("sosie")
        if not command.is_file():
            raise RequestError(f"no command sosie beside {sys.executable}: install Sosie there")
        environment = os.environ | {
            "SOSIE_SERVE__PORT": str(self.port),
            "SOSIE_SERVE__PROXY": self._proxy,
            "SOSIE_SERVE__LOG_FILE": "log/service.jsonl",
        }
        with self._log.open("ab") as file:
            return subprocess.Popen(
                [str(command), "serve", "--home", str(self.home), "--until-stdin-closes"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def _wait(self) -> None:
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _read_log(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace").strip()
        return " ".join(text[-SHOWN_CHARACTERS:].split()) or "it said nothing"


@contextmanager
def serve(home: Path, proxy: str = "haproxy") -> Iterator[tuple[Service, float]]:
    """A service that is ready, and the seconds that took; stopped at the end."""
    begun = time.perf_counter()
    service = Service(home, proxy)
    try:
        yield service, service.wait_ready(begun)
    finally:
        service.stop()


PARTS = {
    Role.PROXY: "HAProxy",
    Role.INGRESS: "ingress replicas",
    Role.REGISTRAR: "registrar",
    Role.EMBEDDER: "embedder",
}
OWN_PROXY, OTHERS, SUPERVISOR = "Serve's proxy", "the rest of Ray", "supervisor"
_DECODER = "engine.faces.images"


Usage = dict[str, float]
"""Seconds of processor time, by part of the service."""


def list_usage(usage: Usage, what: str, count: int) -> tuple[Figure, ...]:
    """Microseconds of processor time that each of `count` answers took, the most first."""
    return tuple(
        Figure(f"{what}: {part}", "us of a core", seconds / count * 1e6)
        for part, seconds in sorted(usage.items(), key=lambda item: -item[1])
    )


@contextmanager
def watch_usage(pid: int) -> Iterator[Usage]:
    """Counts what a process and its descendants take until the context ends."""
    usage: Usage = {}
    before = _read_times(pid)
    yield usage
    for key, seconds in _read_times(pid).items():
        usage[key[1]] = usage.get(key[1], 0.0) + seconds - before.get(key, 0.0)


def name_part(process: Process) -> str:
    """Which part of the service a process is."""
    if process.words and process.words[0].startswith("ray::ProxyActor"):
        return OWN_PROXY
    if any(_DECODER in word for word in process.words):
        return PARTS[Role.INGRESS]
    return PARTS.get(process.role, OTHERS)


def _read_times(pid: int) -> dict[tuple[int, str], float]:
    """Seconds of each process so far, with the part that it is."""
    times = {}
    parts = {pid: SUPERVISOR} | {one.pid: name_part(one) for one in list_descendants(pid)}
    for one, part in parts.items():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            spent = psutil.Process(one).cpu_times()
            times[one, part] = spent.user + spent.system
    return times
