"""People whom rules treat apart: `sosie death` and `sosie exceptions`."""

from __future__ import annotations

from datetime import timedelta

import typer

from engine.cases import deaths
from engine.cases.deaths import read_death
from engine.registry.database import utc_now
from schema.people import DeathSource
from serving.cli.inputs import argument, option
from serving.cli.output import Answer, Call, Listing, columns, command, escape
from serving.wire.fields import of_record
from serving.wire.outlets import ExceptionCounts, OutletExceptions
from serving.wire.people import Death

ID = argument("The document's id.", "DOCUMENT")


@command("death show")
def show_death(call: Call, document: str = ID) -> Answer:
    """Show what is reported of a document's holder."""
    found = read_death(call.store, document)
    text = f"{found.state.capitalize()} since {found.reported_at.isoformat(timespec='minutes')}."
    return Answer(of_record(Death, found), text)


@command("death report")
def report_death(
    call: Call,
    document: str = ID,
    source: str = option(
        "registry, certificate, family or other: where it comes from.", default=...
    ),
) -> Answer:
    """Report a document's holder dead, at once; one person may.

    The document enrolls nobody any more, its lines are disputed, its face is still searched.
    """
    if source not in list(DeathSource):
        raise typer.BadParameter(f"{source} is none of {', '.join(DeathSource)}")
    return _step(call, "report", document, DeathSource(source))


@command("death confirm")
def confirm_death(call: Call, document: str = ID) -> Answer:
    """Confirm what another person has reported: the lines are closed."""
    return _step(call, "confirm", document)


@command("death contest")
def contest_death(call: Call, document: str = ID) -> Answer:
    """Say that a report is wrong; it holds until another person lifts it."""
    return _step(call, "contest", document)


@command("death lift")
def lift_death(call: Call, document: str = ID) -> Answer:
    """Lift a report that another person has contested: its disputed lines are active again."""
    return _step(call, "lift", document)


def _step(call: Call, name: str, document: str, *given: object) -> Answer:
    """Takes the step of this name in `engine.cases.deaths`."""
    take = getattr(deaths, name)
    found = take(call.deployment.registrar, call.store, document, *given, call.person)
    text = f"[green]{found.state.capitalize()}[/]: the holder of {escape(document)}."
    return Answer(of_record(Death, found), text)


@command("exceptions")
def list_exceptions(
    call: Call, days: int = option("Since how many days.", default=30, min=1, max=366)
) -> Answer:
    """List the outlets that have asked for exceptions, those with most first."""

    found = call.store.people.count_by_outlet(utc_now() - timedelta(days=days))
    shown = tuple(of_record(OutletExceptions, one) for one in found)
    shown_columns = {
        **columns("outlet carrier asked granted"),
        "undecided": lambda one: one.asked - one.decided,
        "last": "last_at",
    }
    empty = "No outlet has asked for an exception."
    return Answer(ExceptionCounts(shown), Listing(shown, shown_columns, empty))
