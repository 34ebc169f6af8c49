"""Load with planted truth: `loadtest`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from serving.cli.panels import FIGURES
from serving.errors import ExitCode

if TYPE_CHECKING:
    from subprocess import Popen

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def register(app: typer.Typer) -> None:
    app.command(context_settings=PASSED_ON, rich_help_panel=FIGURES)(loadtest)


def loadtest(
    context: typer.Context,
    shape: Annotated[
        str, typer.Argument(metavar="SHAPE", help="smoke, steady, spike, knee, soak.")
    ],
) -> None:
    """Load a service, and hold every decision against what was planned.

    Without --url it starts a service of its own over a temporary home. Fails on latency, on errors
    and on a wrong decision. Options after the shape: --rate, --seconds, --class, --p99-ms, --html
    FILE, --json; `sosie loadtest SHAPE -- --help` lists them all.
    """
    from subprocess import Popen

    # A process of its own: gevent replaces sockets and threads of the whole interpreter. -P: a
    # folder named loadtest where the command happens to run is not ours.
    command = [sys.executable, "-P", "-m", "loadtest", shape, *context.args]
    code = _wait(Popen(command))  # noqa: S603 - our own interpreter
    raise typer.Exit(code if code >= 0 else ExitCode.INTERNAL)


def _wait(process: Popen[bytes]) -> int:
    """Its exit code; what interrupts or ends this process is for that one, which has a service to
    stop and people to erase first."""
    import signal

    # `nohup` has hanging up ignored, and means it.
    is_held = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    ending = (signal.SIGTERM,) if is_held else (signal.SIGTERM, signal.SIGHUP)
    before = {one: signal.signal(one, lambda *_: process.terminate()) for one in ending}
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                # A terminal has sent it to both.
                continue
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
