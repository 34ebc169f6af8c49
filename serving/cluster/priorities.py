"""Who goes first where cores are few: the proxy, then what answers, then what Ray needs besides.

A full service so refuses in time: a proxy that waits for a core is as slow as what it protects.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from serving.cluster.processes import Process, Role

_ANSWERING, _HOUSEKEEPING = 1, 10
NICENESS = {
    Role.INGRESS: _ANSWERING,
    Role.REGISTRAR: _ANSWERING,
    Role.EMBEDDER: _ANSWERING,
    Role.SHARD: _ANSWERING,
    Role.GCS: _HOUSEKEEPING,
    Role.CONTROLLER: _HOUSEKEEPING,
    Role.AGENT: _HOUSEKEEPING,
}
"""All others keep what they have. Node, raylet and the proxy's keeper start others, an idle worker
becomes another, and nobody can be made less nice again without privilege."""

SLICES_US = {Role.PROXY: 100}
"""Linux 6.12 on runs first who asks for the shorter turn, and the proxy needs no longer one."""
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}.get(platform.machine())
_SCHED_ATTR = struct.Struct("=IIQiIQQQ")
"""size, policy, flags, nice, priority, runtime (ns), deadline, period: sched_setattr(2)."""


def set_priorities(processes: Iterable[Process]) -> None:
    """Makes each as nice as its role asks, once; who is so already, or more, is left alone."""
    for process in processes:
        niceness = NICENESS.get(process.role, 0)
        if _is_below(process.pid, niceness):
            _raise_threads(process.pid, niceness)
        slice_us = SLICES_US.get(process.role)
        if slice_us is not None:
            _shorten_turns(process.pid, slice_us)


def place_ingresses(processes: Iterable[Process]) -> None:
    """Gives each ingress a core of its own where there are as many of them as cores.

    Else two of them share one for milliseconds while the other idles; what else runs fits itself
    in. Whoever has a core keeps it.
    """
    ours = [process.pid for process in processes if process.role is Role.INGRESS]
    cores = os.sched_getaffinity(0)
    if len(ours) != len(cores) or len(cores) < 2:
        return
    placed = {pid: _cores_of(pid) for pid in ours}
    free = cores - set().union(*(held for held in placed.values() if len(held) == 1))
    for pid, held in placed.items():
        if len(held) > 1 and free:
            own = {free.pop()}
            for thread in _list_threads(pid):
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(thread, own)


def _raise_threads(pid: int, niceness: int) -> None:
    """Linux gives each thread its own; one that is started meanwhile has that of its starter."""
    while below := [thread for thread in _list_threads(pid) if _is_below(thread, niceness)]:
        for thread in below:
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, thread, niceness)


def _shorten_turns(pid: int, slice_us: int) -> None:
    if _SCHED_SETATTR is None:
        return
    call = ctypes.CDLL(None).syscall
    for thread in _list_threads(pid):
        with suppress(ProcessLookupError):
            niceness = os.getpriority(os.PRIO_PROCESS, thread)
            runtime_ns = slice_us * 1000
            wanted = _SCHED_ATTR.pack(_SCHED_ATTR.size, 0, 0, niceness, 0, runtime_ns, 0, 0)
            # Where it fails the proxy has the turns that all have.
            call(_SCHED_SETATTR, thread, wanted, 0)


def _cores_of(pid: int) -> set[int]:
    with suppress(ProcessLookupError):
        return os.sched_getaffinity(pid)
    return set()


def _list_threads(pid: int) -> list[int]:
    with suppress(FileNotFoundError, ProcessLookupError):
        return [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
    return []


def _is_below(thread: int, niceness: int) -> bool:
    with suppress(ProcessLookupError):
        return os.getpriority(os.PRIO_PROCESS, thread) < niceness
    return False
