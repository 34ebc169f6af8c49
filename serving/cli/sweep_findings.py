"""What sweeps have found: `sweep list`, `show`, `groups` and `report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import NotInstalled, RegistryError
from serving.cli.inputs import HomeOption, name_actor, open_deployment, require_place
from serving.cli.output import JsonFlag, print_facts, print_json, print_line, print_table

if TYPE_CHECKING:
    from engine.retention.job import Turns
    from engine.sweeps.model import SweepRecord
    from serving.compose import Deployment
    from serving.sweeping.shelf import SweepShelf

MOST_SWEEPS, MOST_GROUPS = 1_000, 10_000

SweepId = Annotated[str, typer.Argument(metavar="ID", help="As `sosie sweep list` shows it.")]
TopOption = Annotated[int, typer.Option(min=1, max=MOST_GROUPS, help="How many to list at most.")]
FacesFlag = Annotated[
    bool,
    typer.Option(
        "--faces",
        help="With the faces that are kept of its first groups: the file is yours to delete.",
    ),
]


def list_sweeps(
    top: Annotated[
        int, typer.Option(min=1, max=MOST_SWEEPS, help="How many to list at most.")
    ] = 20,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List the sweeps, the newest first."""
    from serving.sweeping.showing import SWEEP_COLUMNS, sweep_as_json, sweep_row

    with open_deployment(home) as deployment:
        found = find_shelf(deployment).list(top)
    if as_json:
        print_json({"sweeps": [sweep_as_json(record) for record in found]})
    elif found:
        print_table(None, SWEEP_COLUMNS, [sweep_row(record) for record in found])
    else:
        print_line("Nothing was swept yet.")


def show_sweep(sweep_id: SweepId, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Show one sweep: how far it is, what it found, where its files are."""
    from serving.sweeping.showing import sweep_as_json, sweep_facts

    with open_deployment(home) as deployment:
        shelf = find_shelf(deployment)
        record = shelf.status(sweep_id)
        files = list_files(shelf, sweep_id)
    if as_json:
        print_json({"sweep": sweep_as_json(record), "files": files})
        return
    print_facts(f"Sweep [bold]{record.id}[/]", sweep_facts(record))
    _print_files(files)


def list_groups(
    sweep_id: SweepId,
    top: TopOption = 100,
    after: Annotated[int, typer.Option(min=0, help="Leave out so many, the riskiest.")] = 0,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List what a sweep found, the riskiest first; whose they are is in its files and cases."""
    from serving.sweeping.showing import GROUP_COLUMNS, group_in_short, group_row

    with open_deployment(home) as deployment:
        page = find_shelf(deployment).groups(sweep_id, after, top)
    groups = [group_in_short(group) for group in page.groups]
    if as_json:
        print_json({"groups": groups, "total": page.total, "next_after": page.next_after})
        return
    rows = [group_row(place, group) for place, group in enumerate(groups, start=after + 1)]
    if rows:
        print_table(None, GROUP_COLUMNS, rows)
    print_line(f"{len(rows)} of {page.total} groups.")


def report_sweep(
    sweep_id: SweepId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the report goes.")],
    faces: FacesFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the HTML report of a sweep anew, with what people have decided since.

    With --faces the registry must not be open elsewhere: who looks at people is audited.
    """
    from engine.retention.job import LoneWriter

    require_place(file)
    with open_deployment(home) as deployment:
        turns = LoneWriter(deployment.writer) if faces else None
        shown = write_report(deployment, sweep_id, file, turns)
    if as_json:
        print_json({"report": str(file), "faces": shown})
        return
    typer.echo(f"  {file}")
    tell_faces(shown)


def write_report(
    deployment: Deployment, sweep_id: str, target: Path, turns: Turns | None = None
) -> int | None:
    """Issues a report; with `turns`, by which it is audited, one with faces: how many."""
    try:
        from serving.sweeping.issuing import issue_report, issue_report_with_faces
    except ModuleNotFoundError as missing:
        raise NotInstalled(
            f"a report is written with {missing.name}, which is not installed here: "
            "pip install 'sosie[desk]'"
        ) from None
    try:
        if turns is not None:
            return issue_report_with_faces(deployment, turns, sweep_id, target, name_actor())
        issue_report(deployment, sweep_id, target)
    except OSError as error:
        raise RegistryError(f"{target} cannot be written: {error.strerror}") from None
    return None


def tell_faces(shown: int | None) -> None:
    """Says in a line where a report that was to have faces has none."""
    if shown == 0:
        print_line(
            r"No face is kept of these people (\[crops] keep in sosie.toml): the report has none."
        )


def print_result(
    shelf: SweepShelf, record: SweepRecord, top: int, shown: int | None, *, as_json: bool
) -> None:
    """What a sweep that has just ended found; `shown` as `write_report` returned it."""
    from serving.sweeping.showing import (
        GROUP_COLUMNS,
        group_in_short,
        group_row,
        sweep_as_json,
        sweep_facts,
    )

    page = shelf.groups(record.id, 0, top)
    groups = [group_in_short(group) for group in page.groups]
    files = list_files(shelf, record.id)
    if as_json:
        told = {"sweep": sweep_as_json(record), "groups": groups, "total": page.total}
        print_json({**told, "files": files, "faces": shown})
        return
    if groups:
        rows = [group_row(place, group) for place, group in enumerate(groups, start=1)]
        print_table(None, GROUP_COLUMNS, rows)
    print_facts(f"Sweep [bold]{record.id}[/]", sweep_facts(record))
    _print_files(files)
    tell_faces(shown)


def find_shelf(deployment: Deployment) -> SweepShelf:
    from serving.sweeping.shelf import SweepShelf

    return SweepShelf(deployment.store, deployment.sweep_folder)


def list_files(shelf: SweepShelf, sweep_id: str) -> list[str]:
    return [str(path) for path in shelf.folder(sweep_id).files()]


def _print_files(files: list[str]) -> None:
    for path in files:
        typer.echo(f"  {path}")
