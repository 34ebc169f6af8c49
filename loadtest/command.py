"""Runs what was asked for, and tells what came out of it."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from loadtest.errors import LoadTestRefused
from loadtest.options import Wish, read_options
from loadtest.order import Session
from loadtest.printout import print_report, print_session
from loadtest.progress import show_progress
from loadtest.refusal import INTERNAL, Exit, refuse, write_json
from loadtest.report.page import write_page
from loadtest.summary import summarize

INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended."""


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    # Locust logs by the root logger, which would be set up to write to standard error.
    logging.getLogger().addHandler(logging.NullHandler())
    as_json = "--json" in arguments
    try:
        return _run(read_options(arguments))
    except LoadTestRefused as refused:
        refuse(str(refused), as_json=as_json)
        return Exit.REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as fault:  # noqa: BLE001 - a fault of this program is no failed test
        traceback.print_exc()
        if as_json:
            message = f"internal error ({type(fault).__name__}): the traceback is on standard error"
            refuse(message, as_json=True, code=INTERNAL)
        return Exit.INTERNAL


def _run(wish: Wish) -> int:
    # Brings Locust, which replaces sockets and threads of the whole process.
    from loadtest.session import hold

    with show_progress(is_shown=not wish.as_json) as report:
        session = hold(wish.order, report)
    return tell(session, wish.html, as_json=wish.as_json)


def tell(session: Session, html: Path | None, *, as_json: bool) -> int:
    """The exit code. What came out is told first: a page that cannot be written loses nothing."""
    summary = summarize(session)
    if as_json:
        write_json(summary)
    else:
        print_session(session)
    sys.stdout.flush()
    code = Exit.HELD if session.is_passed else Exit.FAILED
    if html is None:
        return code
    try:
        html.write_text(write_page(session, summary), encoding="utf-8")
    except OSError as error:
        # On standard error whatever was asked: the document has been written.
        refuse(f"{html} cannot be written: {error.strerror}", as_json=False)
        return code or Exit.REFUSED
    if not as_json:
        print_report(html)
    return code
