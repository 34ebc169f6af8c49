"""Processes of a service: who they are, whether they live, and what they hold in memory."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

from serving.cluster.processes import list_descendants

MIB = 2**20


def list_family(pid: int) -> list[int]:
    """A process and all its descendants that are alive."""
    return [pid, *(one.pid for one in list_descendants(pid))]


def measure_memory(pids: Iterable[int]) -> int:
    """Bytes that the processes hold: shared pages count once among all that share them (PSS)."""
    return sum(_read_pss(pid) for pid in pids)


def kill_hard(pids: Iterable[int]) -> None:
    """SIGKILL, to each in turn; those that are gone already are left out."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_gone(pids: Iterable[int], timeout_s: float) -> list[int]:
    """Waits for processes to end; returns those that have not."""
    end = time.monotonic() + timeout_s
    left = [pid for pid in pids if _is_alive(pid)]
    while left and time.monotonic() < end:
        time.sleep(0.05)
        left = [pid for pid in left if _is_alive(pid)]
    return left


def _is_alive(pid: int) -> bool:
    try:
        status = psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return False
    return status not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def _read_pss(pid: int) -> int:
    # A process may end while it is read.
    with suppress(psutil.NoSuchProcess):
        return int(psutil.Process(pid).memory_full_info().pss)
    return 0
