"""How much memory a process has had."""

from __future__ import annotations

import re
from pathlib import Path


def read_peak_bytes() -> int | None:
    """The most memory that this process has had at once; None where there is no /proc."""
    # What the system's own accounting says (ru_maxrss) a child has from its parent.
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None
