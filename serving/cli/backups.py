"""Backups: `backup`, `restore`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import DeadlinePassed, RegistryError, RequestError
from serving.cli.inputs import HomeOption, name_actor, open_deployment
from serving.cli.output import DEPLOYMENT, JsonFlag, escape, print_answer, print_line, show_progress

if TYPE_CHECKING:
    from engine.registry.backup import Lost, Manifest, RestoredBackup
    from serving.client.client import Client
    from serving.deployment.deployment import Deployment

LOOK_EVERY_S = 0.2
KEY_HOURS = 24
"""After so long a service's backup has hung."""


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel=DEPLOYMENT)(backup)
    app.command(rich_help_panel=DEPLOYMENT)(restore)


def backup(
    target: Annotated[Path, typer.Argument(metavar="DEST", help="A new folder.")],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Copy the registry to a new folder, also while a service runs, and check the copy.

    The key ring is not in it: keep its copy elsewhere, together they reveal every face.
    """
    with (
        open_deployment(home) as deployment,
        show_progress("copying", is_shown=not as_json) as report,
    ):
        made = _back_up(deployment, target.absolute(), name_actor(), report)
    print_answer(
        {"backup": str(target.absolute()), **asdict(made)},
        f"[green]Made[/] {escape(str(target))}, {made.bytes / 2**20:,.1f} MiB, checked.\n"
        f"It ends with entry {made.audit_number:,} of the audit chain, {made.audit_head[:16]}…"
        f"{_tell_damage(made)}",
        as_json=as_json,
        is_no=bool(made.damage),
    )


def restore(
    source: Annotated[
        Path, typer.Argument(metavar="BACKUP", help="A backup's folder, or an SQLite file.")
    ],
    replaces: Annotated[
        bool,
        typer.Option("--replace", help="Replace the registry that is there; SQLite's is kept."),
    ] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Put a backup in the place of the registry, and say what is lost since. Stop servers first."""
    from engine.registry.backup import restore_backup
    from engine.registry.keyring import KeyRing
    from engine.registry.vault import Vault
    from serving.deployment.deployment import registry_url
    from serving.deployment.models import embedder_card, find_conversion, model_digest
    from serving.settings.settings import KEY_RING_FILE, load_settings, require_home

    folder = require_home(home)
    settings = load_settings(folder)
    vault = Vault(KeyRing.load(folder / KEY_RING_FILE), embedder_card(settings).dimension)
    done = restore_backup(
        registry_url(folder, settings),
        vault,
        source.absolute(),
        model_digest=model_digest(settings),
        actor=name_actor(),
        replaces=replaces,
        conversion=find_conversion(settings),
    )
    made, lost = done.manifest, done.lost
    print_answer(
        {
            "audit_number": made.audit_number,
            "made_at": made.made_at,
            "damage": made.damage,
            "lost": None if lost is None else asdict(lost),
            "replaced": None if done.aside is None else str(done.aside),
        },
        partial(_print_restored, done),
        as_json=as_json,
        is_no=bool(made.damage),
    )


def _print_restored(done: RestoredBackup) -> None:
    number = done.manifest.audit_number
    print_line(f"[green]Restored[/] up to entry {number:,} of the audit chain.")
    _print_lost(done.lost)
    if done.aside is not None:
        print_line(f"What was there is {escape(str(done.aside))}: remove it when you are sure.")
    if done.manifest.damage:
        print_line(_tell_damage(done.manifest).lstrip())


def _tell_damage(made: Manifest) -> str:
    """The damaged rows that a backup has, as lines of markup."""
    if not made.damage:
        return ""
    found = "".join(f"\n  {escape(one)}" for one in made.damage)
    return f"\n[red]Damaged[/], and as it was in the registry:{found}\nRun sosie doctor there."


def _back_up(
    deployment: Deployment, target: Path, actor: str, report: Callable[[int, int], None]
) -> Manifest:
    """Makes a backup of a home, served or not, in the new folder `target`."""
    from engine.registry.backup import make_backup, move_backup, read_backup
    from serving.deployment.backups import FOLDER
    from serving.operator_client import as_operator

    store = deployment.store
    if target.exists():
        raise RequestError(f"{target} exists already: name a new folder")
    if store.engine.dialect.name != "sqlite":
        return make_backup(store, None, target, actor=actor, progress=report)
    if not store.has_writer():
        return make_backup(store, deployment.writer, target, actor=actor, progress=report)
    # The process that writes is the one that can copy: it is asked as any operator may ask it.
    with as_operator(deployment, actor, "sosie backup", KEY_HOURS) as client:
        name = _wait_for(client)
    place = deployment.home / FOLDER / name
    _, manifest = read_backup(place, deployment.vault)
    assert manifest is not None, "the service has written it"
    move_backup(place, target)
    return manifest


def _wait_for(client: Client) -> str:
    """The name of a backup that the service has made."""
    from serving.deployment.backups import BackupState

    name = client.start_backup().name
    end = monotonic() + 3600 * KEY_HOURS
    while monotonic() < end:
        found = next((one for one in client.list_backups().backups if one.name == name), None)
        if found is None or found.state == BackupState.FAILED:
            fault = "it is gone" if found is None or found.fault is None else found.fault
            raise RegistryError(f"the service made no backup: {fault}")
        if found.state == BackupState.DONE:
            return name
        sleep(LOOK_EVERY_S)
    raise DeadlinePassed("the service's backup does not end: see its log")


def _print_lost(lost: Lost | None) -> None:
    if lost is None:
        print_line("What is lost since cannot be told: no registry could be read in its place.")
    elif lost.is_another_history:
        print_line("[yellow]The registry that was replaced had another history.[/]")
    elif not lost.entries:
        print_line("Nothing is lost.")
    else:
        shown = ", ".join(f"{rows:,} {escape(action)}" for action, rows in lost.entries.items())
        print_line(f"[yellow]Lost since[/]: {shown}.")
    for document in () if lost is None else lost.erased:
        print_line(f"Erase again: DELETE /v1/documents/{escape(document)}")
