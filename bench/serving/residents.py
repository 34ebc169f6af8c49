"""Processes of a service as /proc shows them: who they are, and what they hold in memory."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

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
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def _read_pss(pid: int) -> int:
    # A process may end while it is read.
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
