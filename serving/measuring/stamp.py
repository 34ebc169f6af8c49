"""Which machine this is."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from engine.capacity.figures import Machine


def stamp_machine() -> Machine:
    """Its processor, the cores that this process may use, its memory."""
    return Machine(
        cpu=read_cpu()[0],
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def read_cpu() -> tuple[str, frozenset[str]]:
    """Model name and flags; the flags are unknown, thus none, where there is no /proc."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    facts = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    name = facts.get("model name") or platform.processor() or platform.machine()
    return name, frozenset(facts.get("flags", "").split())
