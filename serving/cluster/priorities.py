"""Who goes first where cores are few: the proxy, then what answers, then what Ray needs besides.

A full service so refuses in time: a proxy that waits for a core is as slow as what it protects.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from serving.cluster.processes import Process, Role

_ANSWERING, _HOUSEKEEPING = 5, 10
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


def set_priorities(processes: Iterable[Process]) -> None:
    """Makes each as nice as its role asks, once; who is so already, or more, is left alone."""
    for process in processes:
        niceness = NICENESS.get(process.role, 0)
        if _is_below(process.pid, niceness):
            _raise_threads(process.pid, niceness)


def _raise_threads(pid: int, niceness: int) -> None:
    """Linux gives each thread its own; one that is started meanwhile has that of its starter."""
    while below := [thread for thread in _list_threads(pid) if _is_below(thread, niceness)]:
        for thread in below:
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, thread, niceness)


def _list_threads(pid: int) -> list[int]:
    with suppress(FileNotFoundError, ProcessLookupError):
        return [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
    return []


def _is_below(thread: int, niceness: int) -> bool:
    with suppress(ProcessLookupError):
        return os.getpriority(os.PRIO_PROCESS, thread) < niceness
    return False
