"""What a load test cannot do, in one line that says what to do instead."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType


class LoadTestRefused(Exception):
    """The test cannot be run as it was asked: bad options, no faces, a service that never came."""


# How a load test ends, and how it says why it could not be run.

REFUSED, INTERNAL = "LOADTEST.REFUSED", "INTERNAL"


class Exit(IntEnum):
    """The exit codes of every command of Sosie."""

    HELD = 0
    FAILED = 1
    REFUSED = 2
    INTERNAL = 3


def refuse(message: str, *, as_json: bool, code: str = REFUSED) -> None:
    """One line on standard error, or a JSON document where that was asked for."""
    line = " ".join(message.split())
    if as_json:
        write_json({"error": {"code": code, "message": line}})
    else:
        sys.stderr.write(f"sosie: {line}\n")


def write_json(value: object) -> None:
    """One document on standard output; no NaN in it, which JSON lacks."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


# Signals that end a load test, and the time in which they must not.

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TOGETHER_S = 1.0
"""`timeout` and the like tell this process, and then its whole group: two signals so close are one,
and the second does not end the cleaning up."""


def end_orderly() -> None:
    """Whoever ends the process interrupts it: it then stops its service, and erases people."""
    last_s = float("-inf")

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        nonlocal last_s
        now_s = time.monotonic()
        is_first, last_s = now_s - last_s > TOGETHER_S, now_s
        if is_first:
            raise KeyboardInterrupt

    for one in ENDING:
        # `nohup` has it ignored, and means it.
        if one is not signal.SIGHUP or signal.getsignal(one) is not signal.SIG_IGN:
            signal.signal(one, interrupt)


@contextmanager
def undisturbed() -> Iterator[None]:
    """What is begun in it is done to its end: a second Ctrl-C meanwhile is not heard."""
    before = {one: signal.signal(one, signal.SIG_IGN) for one in ENDING}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
