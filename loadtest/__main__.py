"""`python -m loadtest SHAPE`: what `sosie loadtest SHAPE` runs in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from loadtest.errors import Exit, end_orderly, refuse

NEEDED = ("gevent", "geventhttpclient", "hdrh", "jinja2", "locust", "msgpack", "psutil")
"""Of the extra `loadtest`."""


def start(arguments: Sequence[str]) -> int:
    """The exit code. Sockets must be gevent's before anything that uses them is imported."""
    if any(find_spec(name) is None for name in NEEDED):
        missing = "a load test needs Locust and more: pip install 'sosie[loadtest]'"
        refuse(missing, as_json="--json" in arguments)
        return Exit.REFUSED
    from gevent import monkey
    from gevent.hub import Hub

    monkey.patch_all()
    # Nor is an interrupt a fault, to be shown with its traceback.
    Hub.NOT_ERROR = (*Hub.NOT_ERROR, KeyboardInterrupt)
    end_orderly()
    from loadtest.cli import main

    return main(arguments)


if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
