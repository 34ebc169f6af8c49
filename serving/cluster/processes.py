"""The processes of a running service, by what each of them does. Linux: reads /proc."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

NODE_MODULE = "serving.cluster.node"
_REPLICA = "ray::ServeReplica:"


class Role(StrEnum):
    """What a process of a service does; `other` is what Ray needs besides."""

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
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Process:
    """A living process: `words` is its command line, or the title that it has given itself."""

    pid: int
    parent: int
    words: tuple[str, ...]

    @property
    def role(self) -> Role:
        title = self.words[0] if self.words else ""
        if title.startswith(_REPLICA):
            return _role_of_replica(title)
        for start, role in _TITLES.items():
            if title.startswith(start):
                return role
        program = os.path.basename(title)
        if NODE_MODULE in self.words:
            return Role.NODE
        return _PROGRAMS.get(program, Role.OTHER)


_TITLES = {
    "ray::ServeController": Role.CONTROLLER,
    "ray::HAProxyManager": Role.PROXY_KEEPER,
    "ray::ShardActor": Role.SHARD,
}
_PROGRAMS = {"gcs_server": Role.GCS, "raylet": Role.RAYLET, "haproxy": Role.PROXY}


def _role_of_replica(title: str) -> Role:
    # ray::ServeReplica:sosie:Ingress, and the method behind a dot while it runs one.
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
    """Children, their children and so on, by process id; without what has ended already."""
    children: dict[int, list[Process]] = {}
    for process in _read_all():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    pending = [pid]
    while pending:
        for child in children.get(pending.pop(), []):
            found.append(child)
            pending.append(child.pid)
    return sorted(found, key=lambda process: process.pid)


def _read_all() -> Iterator[Process]:
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # The second field may hold spaces and brackets.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] not in "ZX":
            yield Process(int(folder.name), int(fields[1]), tuple(word for word in words if word))


def end_descendants(pid: int, timeout_s: float = 10.0, spared: int | None = None) -> list[int]:
    """Kills every descendant until none is left, and returns those that would not go.

    `pid` is this process, a subreaper: whoever loses its parent becomes its child. `spared` and
    its descendants are left alone.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        doomed = [process.pid for process in list_descendants(pid)]
        if spared is not None:
            kept = {spared, *(process.pid for process in list_descendants(spared))}
            doomed = [one for one in doomed if one not in kept]
        for one in doomed:
            try:
                os.kill(one, signal.SIGKILL)
            except ProcessLookupError:
                continue
        reap_orphans(spared)
        if not doomed or time.monotonic() > deadline:
            return doomed
        time.sleep(0.02)


def reap_orphans(spared: int | None = None) -> None:
    """Takes the exit status of ended children, so that none stays as a zombie; not of `spared`,
    for which somebody else waits."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == spared:
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z" and int(fields[1]) == os.getpid():
                os.waitpid(int(folder.name), os.WNOHANG)
        except (FileNotFoundError, ProcessLookupError, ChildProcessError):
            continue
