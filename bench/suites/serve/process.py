"""`sosie serve` as a child process, from its start to its end."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from types import TracebackType

import psutil

from bench.core.reports import Figure
from serving.cluster.processes import (
    STOP_TIMEOUT_S,
    ChildService,
    Process,
    Role,
    end_with_starter,
    kill_hard,
    list_descendants,
    list_family,
)

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


class Service(ChildService):
    """A service on a home that is ended as by a loss of power, and begun again."""

    def __init__(self, home: Path, proxy: str = "haproxy") -> None:
        """`proxy` as in `[serve]`."""
        super().__init__(home, os.environ | {"SOSIE_SERVE__PROXY": proxy})

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
