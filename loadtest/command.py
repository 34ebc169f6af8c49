"""Runs what was asked for, and tells what came out of it."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Sequence
from enum import IntEnum

from loadtest.errors import LoadTestRefused
from loadtest.options import Wish, read_options
from loadtest.printout import print_session
from loadtest.progress import show_progress
from loadtest.report.page import write_page
from loadtest.summary import summarize

INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended."""


class Exit(IntEnum):
    """The exit codes of every command of Sosie."""

    HELD = 0
    FAILED = 1
    REFUSED = 2
    INTERNAL = 3


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    # Locust logs by the root logger, which would be set up to write to standard error.
    logging.getLogger().addHandler(logging.NullHandler())
    as_json = "--json" in arguments
    try:
        return _run(read_options(arguments))
    except LoadTestRefused as refused:
        message = " ".join(str(refused).split())
        if as_json:
            _write({"error": {"code": "LOADTEST.REFUSED", "message": message}})
        else:
            sys.stderr.write(f"sosie: {message}\n")
        return Exit.REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception:  # noqa: BLE001 - a fault of this program must not look like a failed test
        traceback.print_exc()
        return Exit.INTERNAL


def _run(wish: Wish) -> int:
    # Brings Locust, which replaces sockets and threads of the whole process.
    from loadtest.session import hold

    with show_progress(is_shown=not wish.as_json) as report:
        session = hold(wish.order, report)
    summary = summarize(session)
    if wish.html is not None:
        try:
            wish.html.write_text(write_page(session, summary), encoding="utf-8")
        except OSError as error:
            raise LoadTestRefused(f"{wish.html} cannot be written: {error.strerror}") from None
    if wish.as_json:
        _write(summary)
    else:
        print_session(session, wish.html)
    return Exit.HELD if session.is_passed else Exit.FAILED


def _write(value: object) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
