"""How commands speak: JSON on request, rich text otherwise, errors in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.errors import ExitCode, Fault

if TYPE_CHECKING:
    from collections.abc import Callable

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document, nothing else.")]


def print_json(value: Mapping[str, Any]) -> None:
    """Writes one JSON document to standard output; no NaN and no infinity, which JSON lacks."""
    # All of it before any is written: half a document would be none.
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    sys.stdout.write(f"{text}\n")


def print_line(text: str) -> None:
    """Writes a line of rich markup to standard output."""
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(text)


def escape(text: str) -> str:
    """Text from outside, safe between markup."""
    from rich.markup import escape as escape_markup

    return escape_markup(text)


def print_table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Writes a table to standard output; where that is no terminal, no cell is cut short."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, 150))
    table = Table(*columns, title=title, title_justify="left", header_style="bold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_facts(title: str, facts: Mapping[str, str]) -> None:
    """Writes named values below a title to standard output, one a line, none cut short."""
    print_line(title)
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        print_line(f"  [dim]{name:{width}}[/]  {escape(value)}")


def print_fault(fault: Fault, *, as_json: bool) -> None:
    """Says what went wrong: one line on standard error, or a JSON document where JSON is asked."""
    if as_json:
        print_json({"error": {"code": fault.code, "message": fault.message}})
    else:
        sys.stderr.write(f"sosie: {fault.message}\n")


@contextmanager
def show_progress(what: str, *, is_shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error; yields `report(done, total)`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    is_disabled = not (is_shown and console.is_terminal)
    with Progress(*columns, console=console, disable=is_disabled, transient=True) as progress:
        task = progress.add_task(what, total=None)

        def report(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield report


def exit_negative() -> typer.Exit:
    """To be raised where the answer is no: a mismatch, a refusal, nothing found."""
    return typer.Exit(ExitCode.NEGATIVE)
