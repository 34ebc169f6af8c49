"""Errors, exit codes and signals of a load test."""

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType


class LoadTestRefused(Exception):
    """The test cannot be run as asked; the message is one line that says what to do instead."""


REFUSED, INTERNAL = "LOADTEST.REFUSED", "INTERNAL"


class Exit(IntEnum):
    """Exit codes, the same as of every command of Sosie."""

    PASSED = 0
    FAILED = 1
    REFUSED = 2
    INTERNAL = 3


def refuse(message: str, *, as_json: bool, code: str = REFUSED) -> None:
    """Writes one line on standard error, or a JSON document on standard output."""
    line = " ".join(message.split())
    if as_json:
        write_json({"error": {"code": code, "message": line}})
    else:
        sys.stderr.write(f"sosie: {line}\n")


def write_json(value: object) -> None:
    """Writes one JSON document on standard output; `ValueError` for NaN, which JSON lacks."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TOGETHER_S = 1.0
"""`timeout` and the like tell this process, and then its whole group: two signals so close are one,
and the second does not end the cleaning up."""


def interrupt_on_signals() -> None:
    """Turns every signal that ends the process into `KeyboardInterrupt`, so that it cleans up."""
    last_s = float("-inf")

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        nonlocal last_s
        now_s = time.monotonic()
        is_first, last_s = now_s - last_s > TOGETHER_S, now_s
        if is_first:
            raise KeyboardInterrupt

    for one in ENDING:
        # Under `nohup` SIGHUP is ignored, and has to stay so.
        if one is not signal.SIGHUP or signal.getsignal(one) is not signal.SIG_IGN:
            signal.signal(one, interrupt)


@contextmanager
def signals_ignored() -> Iterator[None]:
    """Ignores the signals that end a load test while its block runs."""
    before = {one: signal.signal(one, signal.SIG_IGN) for one in ENDING}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
