"""Commands about reports: run everything, compare two runs, pages of `docs`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import DebugFlag
from bench.core.reports import REPORTS
from engine.errors import RequestError
from engine.formatting import duration
from serving.cli.output import (
    JsonFlag,
    escape,
    exit_negative,
    print_json,
    print_line,
    show_progress,
)

if TYPE_CHECKING:
    from bench.core.compare import Comparison, Pair
    from bench.core.reports import Report

IMAGES = Path(__file__).parents[1] / "docs" / "img"


def register(app: typer.Typer) -> None:
    app.command()(report)
    app.command()(compare)
    app.command()(docs)


def report(
    as_json: JsonFlag = False,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: seven minutes.")] = False,
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="Folder of page, JSON and pictures.")
    ] = Path("bench-report"),
    only: Annotated[
        str, typer.Option(metavar="SUITES", help="With commas between them; all if none.")
    ] = "",
    blocks: Annotated[
        int,
        typer.Option(min=1, help="Times that a suite is run, apart in time, to know its noise."),
    ] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of everything drawn at random.")] = 0,
    debug: DebugFlag = False,
) -> None:
    """Run all suites and write Markdown, JSON and pictures: in full two and a half hours.

    A suite that fails costs no other. Ends with 1 where one failed or missed a goal; with --quick
    a goal of speed does not count.
    """
    from bench.core.run_all import PAGE, choose_suites, run_suites, write_folder

    del debug
    suites, start = choose_suites(only), time.monotonic()
    output.mkdir(parents=True, exist_ok=True)
    with show_progress("suites", is_shown=not as_json) as progress:
        ran = run_suites(suites, quick=quick, blocks=blocks, seed=seed, progress=progress)
    summary = write_folder(output, ran)
    if as_json:
        print_json(summary | {"seconds": round(time.monotonic() - start, 1)})
    else:
        for name, one in ran.reports.items():
            print_line(f"{'[green]✓[/]' if ran.keeps(one) else '[red]✗[/]'} {name}")
        for name, reason in ran.failures.items():
            print_line(f"[red]✗[/] {name} failed: {escape(reason)}")
        print_line(f"{output / PAGE}, after {duration(time.monotonic() - start)}")
    if not ran.holds:
        raise exit_negative()


def compare(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A report, or a folder of them.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The later one.")],
    as_json: JsonFlag = False,
    only: Annotated[
        str,
        typer.Option(metavar="SUITES", help="With commas between them; all that OLD has if none."),
    ] = "",
    debug: DebugFlag = False,
) -> None:
    """Say what is worse by more than the noise of both runs, or missing in the later one.

    Ends with 1 if anything is, with 2 where nothing can be compared.
    """
    from bench.core.compare import compare as compare_reports
    from bench.core.reports import choose_names, explain_absent, list_unreadable, read_reports

    del debug
    before, after = read_reports(old), read_reports(new)
    if not (old.is_dir() or new.is_dir()):
        before, after = _name_alike(before, after)
    wanted = choose_names(only, before, f"no report of {{name}} in {old}: it has {{known}}")
    # A single report is asked for nothing else.
    if not wanted and not new.is_dir():
        wanted = tuple(after)
    if wanted:
        before = {name: one for name, one in before.items() if name in wanted}
        after = {name: one for name, one in after.items() if name in wanted}
    for name, why in list_unreadable(old).items():
        if name in after:
            raise RequestError(why)
    comparison = compare_reports(before, after, explain_absent(new))
    if as_json:
        print_json(comparison.to_dict())
    else:
        _print(comparison)
    if not comparison.holds:
        raise exit_negative()


def docs(
    as_json: JsonFlag = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; end with 1 if anything would change.")
    ] = False,
    debug: DebugFlag = False,
) -> None:
    """Render README.md and docs from the committed reports: pages, blocks of figures, pictures.

    Pages that show what a command prints are given what it prints now.
    """
    from tempfile import TemporaryDirectory

    from bench.docs.pages import ROOT, build_documents, show_commands

    del debug
    with TemporaryDirectory(prefix="sosie-bench-") as folder:
        made = build_documents(ROOT, REPORTS, Path(folder) if check else IMAGES)
    made |= show_commands(made)
    changed = [name for name, text in made.items() if _read(ROOT / name) != text]
    if not check:
        for name in changed:
            (ROOT / name).write_text(made[name], encoding="utf-8")
    if as_json:
        print_json({"changed": changed})
    else:
        for name in changed:
            print_line(name)
    if check and changed:
        raise exit_negative()


def _name_alike(
    old: dict[str, Report], new: dict[str, Report]
) -> tuple[dict[str, Report], dict[str, Report]]:
    """Two single reports; one that does not name its suite is of that of the other."""
    ((name, before),), ((other, after),) = old.items(), new.items()
    if not before.suite:
        return {other: before}, new
    return old, new if after.suite else {name: after}


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _print(comparison: Comparison) -> None:
    from bench.core.compare import RULE, Verdict
    from bench.core.render import print_pairs

    print_line(f"[dim]A figure is {RULE}.[/]")
    for note in comparison.notes:
        print_line(escape(note))
    for one in comparison.missing:
        print_line(f"[red]✗[/] {escape(one)}")
    for verdict in (Verdict.WORSE, Verdict.BETTER, Verdict.UNSURE, Verdict.GONE):
        pairs: list[Pair] = [one for one in comparison.pairs if one.verdict is verdict]
        if pairs:
            print_pairs(verdict.value, pairs)
    same = sum(one.verdict is Verdict.SAME for one in comparison.pairs)
    print_line(
        f"{len(comparison.regressions)} worse of {len(comparison.pairs)}; {same} within the noise; "
        f"{len(comparison.missing)} missing"
    )
