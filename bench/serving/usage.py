"""Where the time of a load goes: processor time of the service's processes, by their part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil

from bench.report import Figure
from bench.serving.service import Service
from serving.cluster.processes import Process, Role, list_descendants

PARTS = {
    Role.PROXY: "HAProxy",
    Role.INGRESS: "ingress replicas",
    Role.REGISTRAR: "registrar",
    Role.EMBEDDER: "embedder",
}
OWN_PROXY, OTHERS = "Serve's proxy", "the rest of Ray"


@dataclass(slots=True)
class Usage:
    """Seconds of processor time by part."""

    cpu_s: dict[str, float] = field(default_factory=dict)

    def list_figures(self, what: str, count: int) -> tuple[Figure, ...]:
        """Microseconds of processor time that each of `count` answers took, the most first."""
        return tuple(
            Figure(f"{what}: {part}", "us of a core", seconds / count * 1e6)
            for part, seconds in sorted(self.cpu_s.items(), key=lambda item: -item[1])
        )


@contextmanager
def watch_usage(service: Service) -> Iterator[Usage]:
    """Counts what the service's processes take until the context ends."""
    usage = Usage()
    before = _read_times(service)
    yield usage
    for key, seconds in _read_times(service).items():
        part = key[1]
        usage.cpu_s[part] = usage.cpu_s.get(part, 0.0) + seconds - before.get(key, 0.0)


def name_part(process: Process) -> str:
    """Which part of the service a process is."""
    if process.words and process.words[0].startswith("ray::ProxyActor"):
        return OWN_PROXY
    return PARTS.get(process.role, OTHERS)


def _read_times(service: Service) -> dict[tuple[int, str], float]:
    times = {}
    for process in list_descendants(service.pid):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            spent = psutil.Process(process.pid).cpu_times()
            times[process.pid, name_part(process)] = spent.user + spent.system
    return times
