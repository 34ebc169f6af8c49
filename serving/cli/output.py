"""Output of commands: JSON on request, rich text otherwise, errors in one line."""

from __future__ import annotations

import inspect
import json
import os
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
from typer.core import TyperGroup
from typer.models import OptionInfo

from engine.errors import RequestError
from engine.formatting import number
from schema import frozen
from schema.actors import Actor
from serving.cli.inputs import HOME_OPTION, name_actor, open_deployment
from serving.errors import ExitCode, Fault, describe

if TYPE_CHECKING:
    from rich.console import Console

    from engine.registry.store import Store
    from serving.deployment.deployment import Deployment

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document, nothing else.")]


Cell = str | Callable[[Any], object]
"""The name of a field, a dot before each inner one, or what makes markup of an item."""


@frozen
class Listing:
    """A row for each item, `empty` without any; `columns` are names of fields, a word each, titles
    with what fills them, or titles alone, where an item is a row of markup."""

    items: Sequence[Any]
    columns: str | Mapping[str, Cell] | tuple[str, ...]
    empty: str = ""
    title: str | None = None

    def print(self) -> None:
        """Writes it to standard output."""
        shown, rows = self.columns, self.items
        if isinstance(shown, str):
            shown = columns(shown)
        if isinstance(shown, Mapping):
            rows = [[_fill(make, one) for make in shown.values()] for one in self.items]
        if rows:
            print_table(self.title, tuple(shown), rows)
        elif self.empty:
            print_line(self.empty)


@frozen
class Facts:
    """Named values below a title, one a line, none cut short; None is left out."""

    title: str
    facts: Mapping[str, object]

    def print(self) -> None:
        """Writes them to standard output."""
        print_line(self.title)
        shown = {name: _show(value) for name, value in self.facts.items() if value is not None}
        width = max(map(len, shown), default=0)
        for name, value in shown.items():
            print_line(f"  [dim]{name:{width}}[/]  {escape(value)}")


Part = str | Listing | Facts | Callable[[], object]


class Answer:
    """`value` is printed as JSON where that is asked, else its parts: markup, none where it is
    empty, listings, facts, and what writes the text. The exit code is 1 where it `is_no`."""

    def __init__(self, value: object, *parts: Part, is_no: bool = False) -> None:
        self.value, self.parts, self.is_no = value, parts, is_no

    def print(self, *, as_json: bool) -> None:
        """Writes it to standard output, and ends with exit code 1 where it `is_no`."""
        if as_json:
            print_json(self.value)
        else:
            for part in self.parts:
                if isinstance(part, Listing | Facts):
                    part.print()
                elif not isinstance(part, str):
                    part()
                elif part:
                    print_line(part)
        if self.is_no:
            raise exit_negative()


@dataclass(frozen=True)
class Call:
    """One call of a command: its deployment, and who calls."""

    home: Path | None
    as_json: bool
    opened: ExitStack

    def open(self, *, is_examined: bool = False) -> Deployment:
        """Opens the deployment until the command has its answer."""
        return self.opened.enter_context(open_deployment(self.home, is_examined=is_examined))

    @cached_property
    def deployment(self) -> Deployment:
        """Opened when it is first needed, so after the checks of what the command was given."""
        return self.open()

    @property
    def store(self) -> Store:
        return self.deployment.store

    @property
    def actor(self) -> str:
        return name_actor()

    @property
    def person(self) -> Actor:
        """The account, and its name as histories name people."""
        return Actor(self.actor, self.actor.removeprefix("cli:"))

    def note(
        self, action: str, subject: str, detail: Mapping[str, Any] | None = None, revealed: int = 0
    ) -> None:
        """Adds an entry to the audit chain; so many people are about to be shown in full."""
        from engine.cases.steps import Revealed
        from engine.registry.audit import AuditEntry

        counted = [Revealed.to(self.person, revealed)] if revealed else []
        self.store.note(AuditEntry(self.actor, action, subject, detail or {}), *counted)

    def print(self, answer: Answer) -> None:
        """Writes an answer before the command ends: it can fail yet, or has others."""
        answer.print(as_json=self.as_json)

    def progress(self, what: str) -> AbstractContextManager[Callable[[int, int], None]]:
        return show_progress(what, is_shown=not self.as_json)


def print_json(value: object) -> None:
    """Writes one JSON document to standard output; no NaN and no infinity, which JSON lacks.

    A wire type, in it or as a whole, is as the service answers it.
    """
    from serving.wire.fields import plain

    # All of it before any is written: half a document would be none.
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False, default=plain)
    sys.stdout.write(f"{text}\n")


def print_line(text: str, *, is_notice: bool = False) -> None:
    """Writes a line of rich markup to standard output, a notice to standard error."""
    from rich.console import Console

    Console(stderr=is_notice, highlight=False, soft_wrap=True).print(text)


def escape(text: str) -> str:
    """Text from outside, safe between markup."""
    from rich.markup import escape as escape_markup

    return escape_markup(text)


def print_table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Writes a table to standard output; where that is too narrow for its words, a line for each
    cell. No cell is cut short, and no id broken."""
    from rich.table import Table

    if title is not None:
        # A table's own title would be wrapped to the width of the table.
        print_line(f"[bold]{title}[/]")
    table, console = Table(header_style="bold", show_header=any(columns)), _wide_console()
    needed = 1
    for name, *cells in zip(columns, *rows, strict=True):
        table.add_column(name, no_wrap=not any(" " in one for one in cells), overflow="fold")
        words = [console.measure(console.render_str(one)).minimum for one in (name, *cells)]
        needed += max(words) + 3
    if needed <= console.width:
        for row in rows:
            table.add_row(*row)
        console.print(table)
        return
    width = max(map(len, columns))
    for row in rows:
        for name, cell in zip(columns, row, strict=True):
            print_line(f"[dim]{name:{width}}[/]  {cell}")
        print_line("")


def print_page(text: str) -> None:
    """Writes Markdown to standard output."""
    from rich.markdown import Markdown

    _wide_console().print(Markdown(text))


def _wide_console() -> Console:
    """Standard output, of at least 150 columns where it is no terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 150)
    return console


def columns(names: str, **more: Cell) -> dict[str, Cell]:
    """Columns of the fields `names`, a word each, which are titled after them, and of `more`."""
    named: dict[str, Cell] = {
        name.rpartition(".")[2].removesuffix("_id").removesuffix("_at"): name
        for name in names.split()
    }
    return {name.replace("_", " "): cell for name, cell in (named | more).items()}


def warn(texts: Iterable[str]) -> list[str]:
    """Warnings as markup, a line each."""
    return [f"[yellow]warning:[/] {escape(text)}" for text in texts]


def next_page(after: object) -> str:
    """Tells, in markup, where the next page begins; nothing on the last."""
    return "" if after is None else f"[dim]Next: --after {after}[/]"


def _fill(make: Cell, item: object) -> str:
    if not isinstance(make, str):
        return str(make(item))
    value = item[make] if isinstance(item, dict) else attrgetter(make)(item)
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, int):
        return f"{value:,}"
    return escape(_show(value)) if value else "-"


def _show(value: object) -> str:
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return str(value)


def done(verb: str, what: str, value: object) -> Answer:
    """The answer of a command that has done something: the verb, and to what, a plain text."""
    return Answer(value, f"[green]{verb}[/] {escape(what)}.")


def print_fault(fault: Fault, *, as_json: bool) -> None:
    """Says what went wrong: one line on standard error, or a JSON document where JSON is asked."""
    if as_json:
        print_json({"error": {"code": fault.code, "message": fault.message}})
    else:
        sys.stderr.write(f"sosie: {fault.message}\n")


TELL_EVERY_S = 10.0


@contextmanager
def show_progress(what: str, *, is_shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, or a line now and then where that is no terminal; yields
    `report(done, total)`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    is_disabled = not (is_shown and console.is_terminal)
    with Progress(*columns, console=console, disable=is_disabled, transient=True) as progress:
        task, told_s = progress.add_task(what, total=None), time.monotonic()

        def report(done: int, total: int) -> None:
            nonlocal told_s
            progress.update(task, completed=done, total=total)
            if not console.is_terminal and time.monotonic() - told_s >= TELL_EVERY_S:
                told_s = time.monotonic()
                console.print(f"{what}: {done:,} of {total:,}", soft_wrap=True, markup=False)

        yield report


def confirm(question: str, reason: str) -> None:
    """Asks on a terminal, and ends the command where the answer is no.

    Raises `RequestError` with the reason where nobody can be asked.
    """
    if not sys.stdin.isatty():
        raise RequestError(f"{reason}: say --yes where nobody can be asked")
    if not typer.confirm(question, err=True):
        raise exit_negative()


def exit_negative() -> typer.Exit:
    """To be raised where the answer is no: a mismatch, a refusal, nothing found."""
    return typer.Exit(ExitCode.NEGATIVE)


Command = TypeVar("Command", bound=Callable[..., Any])
apps: dict[str, typer.Typer] = defaultdict(lambda: typer.Typer(add_completion=False))
"""The commands of the modules that are imported, by the first word."""


EXAMPLES: Mapping[str, str] = json.loads(Path(__file__).with_name("examples.json").read_text())
"""Arguments of a whole call, by command."""


def show_example(path: str) -> str:
    """The last line of a command's help."""
    return f"Example: sosie {path} {EXAMPLES[path]}"


def command(path: str, **settings: Any) -> Callable[[Command], Command]:
    """Makes a function a command, as `case show`; `case` alone is called before each of these.

    One that takes a `Call` gets --home and --json, and its answer is printed. The fields of a
    parameter that is a dataclass are options, too.
    """
    first, _, name = path.partition(" ")

    def add(run: Command) -> Command:
        epilog = show_example(path)
        apps[first].command(name or first, epilog=epilog, **settings)(make_command(run))
        return run

    return add


def make_command(run: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(run, eval_str=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for one in signature.parameters.values():
        if (
            isinstance(one.annotation, type)
            and one.annotation is not Call
            and is_dataclass(one.annotation)
        ):
            groups[one.name] = one.annotation
            parameters += inspect.signature(one.annotation, eval_str=True).parameters.values()
        else:
            parameters.append(one)
    for one in parameters:
        if one.annotation is bool and isinstance(one.default, OptionInfo):
            _make_flag(one.name, one.default)
    if not parameters or parameters[0].annotation is not Call:
        return run

    def command(home: Path | None = HOME_OPTION, as_json: JsonFlag = False, **given: Any) -> None:
        for name, group in groups.items():
            values = {field.name: given.pop(field.name) for field in fields(group)}
            given[name] = group(**values)
        with ExitStack() as opened:
            answer = run(call := Call(home, as_json, opened), **given)
        if answer is not None:
            call.print(answer)

    options = list(inspect.signature(command, eval_str=True).parameters.values())[:2]
    parameters = [*parameters[1:], *options]
    command.__doc__ = run.__doc__
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def _make_flag(name: str, flag: OptionInfo) -> None:
    if flag.default is None:
        flag.default = False
        flag.param_decls = flag.param_decls or (f"--{name.replace('_', '-')}",)


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

    def main(self, args: Sequence[str] | None = None, *_: Any, **more: Any) -> NoReturn:
        given = list(sys.argv[1:] if args is None else args)
        try:
            code = self._refuse_bytes(given) or self._run(given, more)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader has closed the pipe (`| head`): what is still buffered is dropped.
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

    def _run(self, given: list[str], more: dict[str, Any]) -> int:
        """The exit code of a command, whatever it raises."""
        try:
            code = super().main(given, **more | {"standalone_mode": False})
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
