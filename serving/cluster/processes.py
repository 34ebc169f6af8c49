"""Processes of a running service: their roles and their end. Linux only."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

NODE_MODULE = "serving.cluster.node"
RAY_AGENT_PORT = 52365
"""Of the agent of a node that Ray starts here; Ray has no way to name another."""
_REPLICA = "ray::ServeReplica:"


def end_with_starter(descriptor: int = 0) -> None:
    """From now on this process gets SIGTERM when the pipe of which it has the reading end is closed
    at the other, as it is when the process that holds that end dies, of SIGKILL too."""

    def wait() -> None:
        while os.read(descriptor, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="starter", daemon=True).start()


class Role(StrEnum):
    """The role of a process of a service. `agent`: Ray's monitoring; `other`: idle workers and
    processes with none of these roles."""

    NODE = "node"
    GCS = "gcs"
    RAYLET = "raylet"
    CONTROLLER = "controller"
    PROXY_KEEPER = "proxy_keeper"
    PROXY = "haproxy"
    INGRESS = "ingress"
    REGISTRAR = "registrar"
    EMBEDDER = "embedder"
    SHARD = "shard"
    AGENT = "agent"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Process:
    """A living process: `words` is its command line, or the title that it has set."""

    pid: int
    words: tuple[str, ...]

    @property
    def role(self) -> Role:
        title = self.words[0] if self.words else ""
        if title.startswith(_REPLICA):
            return _role_of_replica(title)
        for start, role in _TITLES.items():
            if title.startswith(start):
                return role
        if NODE_MODULE in self.words:
            return Role.NODE
        # A script follows its interpreter, and an option of that.
        if _AGENTS.intersection(map(os.path.basename, self.words[1:3])):
            return Role.AGENT
        return _PROGRAMS.get(os.path.basename(title), Role.OTHER)


_TITLES = {
    "ray::ServeController": Role.CONTROLLER,
    "ray::HAProxyManager": Role.PROXY_KEEPER,
    "ray::ShardActor": Role.SHARD,
    "ray::DashboardAgent": Role.AGENT,
    "ray::RuntimeEnvAgent": Role.AGENT,
}
_PROGRAMS = {"gcs_server": Role.GCS, "raylet": Role.RAYLET, "haproxy": Role.PROXY}
_AGENTS = frozenset({"dashboard.py", "monitor.py", "log_monitor.py"})


def _role_of_replica(title: str) -> Role:
    # ray::ServeReplica:sosie:Ingress, with a dot and the method while it runs one.
    name = title.removeprefix(_REPLICA).split(":")[-1].split(".")[0].split("(")[0].strip()
    try:
        return Role(name.lower())
    except ValueError:
        return Role.OTHER


def find_processes(supervisor_pid: int) -> dict[Role, list[int]]:
    """The living descendants of `sosie serve` by role, in order of their start."""
    found: dict[Role, list[int]] = {role: [] for role in Role}
    for process in list_descendants(supervisor_pid):
        found[process.role].append(process.pid)
    return found


def list_descendants(pid: int) -> list[Process]:
    """All living descendants, by process id."""
    import psutil  # noqa: PLC0415 - an extra

    try:
        family = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return sorted(_read_living(family), key=lambda process: process.pid)


def _read_living(processes: Iterable[psutil.Process]) -> Iterator[Process]:
    """These processes, without those that have ended meanwhile, or wait to be reaped."""
    import psutil  # noqa: PLC0415 - an extra

    for one in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            yield Process(one.pid, tuple(filter(None, one.cmdline())))


def end_descendants(pid: int, timeout_s: float = 10.0) -> list[int]:
    """Kills every descendant of `pid`, this process, a subreaper, until none is left; returns those
    alive at the timeout."""
    deadline = time.monotonic() + timeout_s
    while True:
        doomed = [process.pid for process in list_descendants(pid)]
        for one in doomed:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        reap_orphans()
        if not doomed or time.monotonic() > deadline:
            return doomed
        time.sleep(0.02)


def reap_orphans(spared: int | None = None) -> list[Process]:
    """Reads the exit status of ended children, so that none stays a zombie, and returns those that
    live; not of `spared`, for which its owner waits."""
    import psutil  # noqa: PLC0415 - an extra

    children: list[int] = []
    # Asked for every second: not of all processes of the machine, where the kernel keeps a list.
    for path in Path("/proc/self/task").glob("*/children"):
        # An orphan is given to any of the threads.
        with suppress(OSError):
            children += map(int, path.read_text().split())
    living = []
    for child in children or [one.pid for one in psutil.Process().children()]:
        with suppress(ChildProcessError, psutil.NoSuchProcess):
            if child != spared and not any(os.waitpid(child, os.WNOHANG)):
                living.append(psutil.Process(child))
    return list(_read_living(living))


def main() -> None:
    """The process that delivers events beside the registrar: it ends with the process that started
    it, which gives it the deployment's class, home and settings on standard input."""
    from serving.cluster.environment import Site  # noqa: PLC0415 - the processes that look at others need neither
    from serving.webhooks.keeper import deliver  # noqa: PLC0415

    kind, home, settings = pickle.load(sys.stdin.buffer)  # noqa: S301 - of the process that started it
    end_with_starter()
    with kind(home, settings) as deployment:
        deliver(deployment, Site.of(home, None).open_log(settings.serve, "webhooks"))


if __name__ == "__main__":
    main()
