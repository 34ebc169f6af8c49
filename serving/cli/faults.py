"""The root of the commands: whatever one raises becomes one line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from serving.cli.output import print_fault
from serving.errors import ExitCode, Fault, describe

INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended."""

READER_GONE = 1
"""As typer and rich do it, who meet a closed pipe before we do."""

# Typer may bring a click of its own: BadParameter is the one usage error that it makes public.
_UsageError = typer.BadParameter.__mro__[1]


class RootGroup(TyperGroup):
    """Shows faults as `serving.errors` describes them, as JSON where the command was asked to.

    With the global `--debug` the traceback goes to standard error first.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        del standalone_mode, windows_expand_args
        given = list(sys.argv[1:] if args is None else args)
        try:
            code = self._refuse_bytes(given) or self._run(given, prog_name, complete_var, extra)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader has seen enough (`| head`). What is still buffered goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = READER_GONE
        sys.exit(code)

    def _refuse_bytes(self, given: list[str]) -> int:
        """The exit code where an argument is bytes that are no text, 0 where all are text."""
        for place, argument in enumerate(given):
            try:
                argument.encode()
            except UnicodeEncodeError:
                print_fault(_describe_bytes(given, place), as_json="--json" in given)
                return ExitCode.BAD_INPUT
        return ExitCode.FINE

    def _run(
        self, given: list[str], prog_name: str | None, complete_var: str | None, extra: Any
    ) -> int:
        """The exit code of a command, whatever it raises."""
        try:
            code = super().main(given, prog_name, complete_var, standalone_mode=False, **extra)
        except BrokenPipeError:
            raise
        except typer.Abort:
            return INTERRUPTED
        except Exception as error:  # noqa: BLE001 - the last line of defence
            if "--debug" in given:
                traceback.print_exc()
            fault = _describe_usage(error) or describe(error)
            # When the arguments themselves are wrong, no parsed option can be asked.
            print_fault(fault, as_json="--json" in given)
            return fault.exit_code
        return code if isinstance(code, int) else ExitCode.FINE


def _describe_usage(error: Exception) -> Fault | None:
    """A fault for wrong arguments, `None` for any other error."""
    if not isinstance(error, _UsageError):
        return None
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "sosie"
    text = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
    # A group without a command has shown its help, and says nothing more.
    text = text[:1].lower() + text[1:] if text else "a command is missing"
    return Fault("USAGE", f"{text}: see `{command} --help`", 400, ExitCode.BAD_INPUT)


def _describe_bytes(given: list[str], place: int) -> Fault:
    # Python reads such bytes as lone surrogates, which neither a database nor an output takes.
    itself, _, value = given[place].partition("=")
    before = given[place - 1] if place else ""
    if value and itself.isascii():
        what = f"the value of {itself}"
    elif before.startswith("-") and before.isascii():
        what = f"the argument after {before.partition('=')[0]}"
    else:
        what = "an argument"
    return Fault("USAGE", f"{what} is not UTF-8: write it as UTF-8 text", 400, ExitCode.BAD_INPUT)
