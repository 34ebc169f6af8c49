"""Errors, exit codes and signals of a load test."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
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
"""A terminal that closes signals this process and its parent command, which passes the signal on:
two signals so close count as one, so that the second does not end the cleaning."""
PR_SET_PDEATHSIG = 1
_libc: ctypes.CDLL | None = ctypes.CDLL(None) if sys.platform == "linux" else None


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


def end_with_parent() -> Callable[[], None]:
    """For a child, between its fork and its program: it is sent SIGTERM when its parent has died,
    even of SIGKILL. Linux alone knows that; elsewhere the child lives on (`prctl(2)`)."""
    parent = os.getpid()

    def ask() -> None:
        if _libc is not None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                # It has died already.
                os._exit(1)

    return ask
