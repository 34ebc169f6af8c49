"""People whom rules treat apart: `sosie death` and `sosie exceptions`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from schema.actors import Actor
from serving.cli.inputs import HomeOption, name_actor, open_deployment
from serving.cli.output import (
    DEPLOYMENT,
    JsonFlag,
    add_group,
    escape,
    print_answer,
    print_json,
    print_line,
    print_table,
)

Id = Annotated[str, typer.Argument(metavar="DOCUMENT", help="The document's id.")]


def register(app: typer.Typer) -> None:
    summary = "Holders who are reported dead."
    commands = {
        "show": show_death,
        "report": report_death,
        "confirm": confirm_death,
        "contest": contest_death,
        "lift": lift_death,
    }
    add_group(app, "death", summary, DEPLOYMENT, **commands)
    app.command("exceptions", rich_help_panel=DEPLOYMENT)(list_exceptions)


def report_death(
    document: Id,
    source: Annotated[
        str, typer.Option(help="registry, certificate, family or other: where it comes from.")
    ],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Report a document's holder dead, at once; one person may.

    The document enrolls nobody any more, its lines are disputed, its face is still searched.
    """
    from schema.people import DeathSource

    if source not in list(DeathSource):
        raise typer.BadParameter(f"{source} is none of {', '.join(DeathSource)}")
    _step(home, as_json, "report", document, DeathSource(source))


def confirm_death(document: Id, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Confirm what another person has reported: the lines are closed."""
    _step(home, as_json, "confirm", document)


def contest_death(document: Id, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Say that a report is wrong; it holds until another person lifts it."""
    _step(home, as_json, "contest", document)


def lift_death(document: Id, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Lift a report that another person has contested: its disputed lines are active again."""
    _step(home, as_json, "lift", document)


def show_death(document: Id, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Show what is reported of a document's holder."""
    from engine.cases.deaths import read_death
    from serving.wire.fields import of_record
    from serving.wire.people import Death

    with open_deployment(home) as deployment:
        found = read_death(deployment.store, document)
    text = f"{found.state.capitalize()} since {found.reported_at.isoformat(timespec='minutes')}."
    print_answer(of_record(Death, found), text, as_json=as_json)


def _step(home: Path | None, as_json: bool, name: str, document: str, *given: object) -> None:
    """Takes the step of this name in `engine.cases.deaths`."""
    from engine.cases import deaths
    from serving.wire.fields import of_record
    from serving.wire.people import Death

    account = name_actor()
    actor = Actor(account, account.removeprefix("cli:"))
    with open_deployment(home) as deployment:
        take = getattr(deaths, name)
        found = take(deployment.registrar, deployment.store, document, *given, actor)
    text = f"[green]{found.state.capitalize()}[/]: the holder of {escape(document)}."
    print_answer(of_record(Death, found), text, as_json=as_json)


def list_exceptions(
    days: Annotated[int, typer.Option(min=1, max=366, help="Since how many days.")] = 30,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List the outlets that have asked for exceptions, those with most first."""
    from datetime import timedelta

    from engine.registry.database import utc_now
    from serving.wire.fields import of_record
    from serving.wire.outlets import ExceptionCounts, OutletExceptions

    with open_deployment(home) as deployment:
        found = deployment.store.people.count_by_outlet(utc_now() - timedelta(days=days))
    shown = tuple(of_record(OutletExceptions, one) for one in found)
    if as_json:
        print_json(ExceptionCounts(shown))
        return
    if not shown:
        print_line("No outlet has asked for an exception.")
        return
    rows = [
        [
            escape(one.outlet),
            escape(one.carrier),
            str(one.asked),
            str(one.granted),
            str(one.asked - one.decided),
            one.last_at.isoformat(timespec="minutes"),
        ]
        for one in shown
    ]
    columns = ("outlet", "carrier", "asked", "granted", "undecided", "last")
    print_table(None, columns, rows)
