"""Which machine this is."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from engine.capacity.figures import Machine


def stamp_machine() -> Machine:
    """Its processor, the cores that this process may use, its memory."""
    return Machine(
        cpu=_read_cpu(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def _read_cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    fields = (line.partition(":") for line in lines)
    named = (value.strip() for key, _, value in fields if key.strip() == "model name")
    return next(named, "") or platform.processor() or platform.machine()
