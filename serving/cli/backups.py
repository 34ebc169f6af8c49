"""What an operator keeps: `backup`, `restore`, and the audit chain, `audit show`, `audit verify`,
`audit mend`, `audit certificate`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import DeadlinePassed, RegistryError, RequestError
from serving.cli.inputs import HomeOption, name_actor, open_deployment, require_words
from serving.cli.output import (
    DEPLOYMENT,
    JsonFlag,
    add_group,
    escape,
    print_answer,
    print_json,
    print_line,
    print_table,
    show_progress,
)

if TYPE_CHECKING:
    from engine.registry.audit import AuditRecord
    from engine.registry.backup import Lost, Manifest, RestoredBackup
    from schema.actors import Actor
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
    from schema.phases import BackupState

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


MOST_ENTRIES = 100_000


def register_audit(app: typer.Typer) -> None:
    summary = "Read, verify and mend the audit chain, and hold certificates against it."
    commands = {
        "show": show_entries,
        "verify": verify_entries,
        "mend": mend,
        "certificate": check_file,
    }
    add_group(app, "audit", summary, DEPLOYMENT, **commands)


def show_entries(
    action: Annotated[
        str | None, typer.Option(help="Only this action, as enrollment.decided.")
    ] = None,
    actor: Annotated[str | None, typer.Option(help="Only this actor, as outlet:b1.")] = None,
    subject: Annotated[
        str | None, typer.Option(help="Only what names this: the id of a document, line, case …")
    ] = None,
    after: Annotated[
        int | None,
        typer.Option(
            min=0, help="Entries above this number, oldest first.", show_default="the newest"
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST_ENTRIES, help="How many at most.")] = 50,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show entries of the audit chain, in its order.

    The next page begins after the last number shown.
    """
    from engine.registry.audit import read_audit
    from serving.api import serializers
    from serving.wire.oversight import AuditPage

    with open_deployment(home) as deployment:
        found = read_audit(deployment.store, after, limit, action, actor, subject)
        head = deployment.store.audit_head()[0]
    is_full = after is not None and len(found) == limit
    if as_json:
        following = found[-1].number if is_full else None
        print_json(AuditPage(tuple(map(serializers.audit_entry, found)), head, following))
        return
    if not found:
        print_line("No entry is there." if after is None else f"No entry is above {after}.")
        return
    print_table(
        None, ("", "at", "actor", "action", "subject", "detail"), [_cells(r) for r in found]
    )
    if is_full:
        print_line(f"[dim]Next: --after {found[-1].number}; the newest is {head}.[/]")


def verify_entries(
    anchor: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Heads that were anchored outside, a line each."),
    ] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Recompute the audit chain, and check the database against it and against anchored heads.

    Exit code 1 where an entry was altered, removed or added, or the database is damaged.
    """
    from engine.registry.audit import verify_chain
    from engine.registry.damage import MOST_SHOWN, find_anchor_faults, find_damage, read_anchors
    from serving.api import serializers
    from serving.wire.fields import of_record
    from serving.wire.oversight import ChainHead, ChainReport

    with (
        open_deployment(home, is_examined=True) as deployment,
        show_progress("verifying", is_shown=not as_json) as report,
    ):
        store = deployment.store
        found = verify_chain(store, progress=report)
        number, head = store.audit_head()
        verified = store.audit_hash_at(found.entries) if found.intact else None
        if verified is not None:
            # A writer may have gone on meanwhile.
            number, head = found.entries, verified
        anchors = None
        damage = tuple(find_damage(store, is_alone=not store.has_writer()))
        if anchor is not None:
            heads = read_anchors(anchor, deployment.vault.deployment_id)
            anchors, faults = find_anchor_faults(store, heads)
            damage = (*faults[:MOST_SHOWN], *damage)
    text = f"[green]Intact[/]: {found.entries:,} entries, head {number} {head.hex()}."
    if not found.intact:
        text = (
            f"[red]Broken[/] at entry {found.first_bad}: it or one before it was altered, "
            "removed or added. Compare with a backup, and put that back; or two operators let the "
            "chain go on as it is, with `sosie audit mend`."
        )
    text += "".join(f"\n[yellow]Mended[/]: {_describe_mend(one)}." for one in found.mends)
    if anchors is not None:
        text += f" {anchors:,} anchored heads were compared with it."
    text += "".join(f"\n[red]Damaged[/]: {escape(one)}." for one in damage)
    mends = tuple(map(serializers.audit_entry, found.mends))
    end = ChainHead(number, head.hex())
    answer = of_record(ChainReport, found, head=end, damage=damage, anchors=anchors, mends=mends)
    print_answer(answer, text, as_json=as_json, is_no=not found.intact or bool(damage))


def mend(
    reason: Annotated[
        str, typer.Option(help="Why the chain may go on as it is. It stays: no names.")
    ],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Let a broken audit chain go on: two operators seal what `audit verify` finds, by their keys.

    Asks for both keys. Nothing that was altered or lost comes back; every later verification shows
    the mend. Stop the service first, and keep a copy of the database as it is.
    """
    from engine.registry.damage import mend_chain
    from serving.api import serializers

    require_words(reason, "a reason", MAX_REASON_LENGTH)
    with open_deployment(home, is_examined=True) as deployment:
        people = [_ask_operator(deployment, which) for which in ("first", "second")]
        record = mend_chain(deployment.store, reason, *people)
    text = f"[green]Mended[/]: {_describe_mend(record)}."
    print_answer(serializers.audit_entry(record), text, as_json=as_json)


MAX_REASON_LENGTH = 500


def _ask_operator(deployment: Deployment, which: str) -> Actor:
    """Whose key is given; refused unless it is an operator's and in force."""
    from schema.actors import Actor, Role
    from serving.access.authentication import Authenticator
    from serving.errors import Unauthenticated

    text = typer.prompt(f"Key of the {which} operator", hide_input=True, err=True)
    principal = asyncio.run(Authenticator(deployment.store, cache_s=0.0).admit(text))
    if principal.role is not Role.OPERATOR or principal.person is None:
        raise Unauthenticated("this key is no operator's: give one with a person of its own")
    return Actor(principal.actor, principal.person)


def _describe_mend(record: AuditRecord) -> str:
    entry = record.entry
    people = f"{entry.actor} and {entry.detail['second']}"
    told = f"broken at {entry.subject}, sealed by {people}: {entry.detail['reason']}"
    return escape(f"entry {record.number} ({record.at:%Y-%m-%d %H:%M} UTC), {told}")


def check_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A certificate, as JSON.")],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Check a certificate of an erasure or of retention against the audit chain.

    Exit code 1 where it does not hold: altered, of another registry, or from before a restore.
    """
    from engine.retention.certificates import check_certificate
    from serving.jobs.retention import read_certificate
    from serving.wire.oversight import CertificateCheck

    certificate = read_certificate(file)
    with (
        open_deployment(home) as deployment,
        show_progress("verifying", is_shown=not as_json) as report,
    ):
        fault = check_certificate(deployment.store, certificate, report)
    text = f"[green]It holds[/]: entry {certificate.audit_number} says the same."
    if fault is not None:
        text = f"[red]It does not hold[/]: {escape(fault)}."
    answer = CertificateCheck(fault is None, fault, certificate.audit_number)
    print_answer(answer, text, as_json=as_json, is_no=fault is not None)


def _cells(record: AuditRecord) -> list[str]:
    entry = record.entry
    detail = json.dumps(dict(entry.detail), ensure_ascii=False) if entry.detail else ""
    return [
        str(record.number),
        record.at.isoformat(timespec="seconds"),
        escape(entry.actor),
        escape(entry.action),
        escape(entry.subject),
        escape(detail),
    ]
