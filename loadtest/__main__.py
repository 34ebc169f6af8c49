"""`python -m loadtest SHAPE`, which `sosie loadtest SHAPE` runs in another process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from engine.errors import advise_extra
from loadtest.errors import LoadTestRefused, interrupt_on_signals

NEEDED = ("gevent", "geventhttpclient", "hdrh", "httpx", "locust", "psutil")
"""Packages of the extra `loadtest`."""


def start(arguments: Sequence[str]) -> None:
    """Patches sockets for gevent before anything imports them, and runs the command."""
    if any(find_spec(name) is None for name in NEEDED):
        from serving.cli.output import print_fault
        from serving.errors import describe

        missing = f"a load test needs Locust and more: {advise_extra('loadtest')}"
        fault = describe(LoadTestRefused(missing))
        print_fault(fault, as_json="--json" in arguments)
        sys.exit(fault.exit_code)
    from gevent import monkey

    monkey.patch_all()
    interrupt_on_signals()
    from loadtest.commands import app

    app(arguments, prog_name="sosie loadtest")


if __name__ == "__main__":
    start(sys.argv[1:])
