"""`python -m loadtest SHAPE`: what `sosie loadtest SHAPE` runs in a process of its own."""

from __future__ import annotations

import signal
import sys

from gevent import monkey
from gevent.hub import Hub


def start() -> int:
    """The exit code. Sockets must be gevent's before anything that uses them is imported."""
    monkey.patch_all()
    # Nor is an interrupt a fault, to be shown with its traceback.
    Hub.NOT_ERROR = (*Hub.NOT_ERROR, KeyboardInterrupt)
    # Told to end, it stops its service and erases people first, as when it is interrupted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from loadtest.command import main

    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(start())
