"""`python -m loadtest SHAPE`, which `sosie loadtest SHAPE` runs in another process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from engine.errors import advise_extra
from loadtest.errors import Exit, interrupt_on_signals, refuse

NEEDED = ("gevent", "geventhttpclient", "hdrh", "httpx", "locust", "psutil")
"""Packages of the extra `loadtest`."""


def start(arguments: Sequence[str]) -> int:
    """Patches sockets for gevent before anything imports them, and runs the command."""
    if any(find_spec(name) is None for name in NEEDED):
        missing = f"a load test needs Locust and more: {advise_extra('loadtest')}"
        refuse(missing, as_json="--json" in arguments)
        return Exit.REFUSED
    from gevent import monkey
    from gevent.hub import Hub

    monkey.patch_all()
    # Without this gevent prints a traceback for an interrupt.
    Hub.NOT_ERROR = (*Hub.NOT_ERROR, KeyboardInterrupt)
    interrupt_on_signals()
    from loadtest.commands import main

    return main(arguments)


if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
