"""What an operator keeps: `backup`, `restore`, and the audit chain, `audit show`, `audit verify`,
`audit mend`, `audit certificate`."""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

import typer

from engine.registry.audit import AuditRecord, read_audit, verify_chain
from engine.registry.backup import Lost, Manifest, restore_backup
from engine.registry.damage import (
    MOST_SHOWN,
    find_anchor_faults,
    find_damage,
    mend_chain,
    read_anchors,
)
from engine.retention.job import check_certificate
from schema.actors import Actor, Role
from serving.access.authentication import Authenticator
from serving.api import serializers
from serving.cli.inputs import argument, option, require_words
from serving.cli.output import Answer, Call, Cell, Listing, columns, command, escape, next_page
from serving.deployment.deployment import Deployment, load_vault, registry_url
from serving.deployment.models import find_conversion, model_digest
from serving.errors import Unauthenticated
from serving.jobs.periodic import read_certificate
from serving.operator_client import back_up
from serving.settings.settings import load_settings, require_home
from serving.wire.fields import of_record
from serving.wire.oversight import AuditPage, CertificateCheck, ChainHead, ChainReport


@command("backup")
def backup(call: Call, target: Path = argument("A new folder.", "DEST")) -> Answer:
    """Copy the registry to a new folder, also while a service runs, and check the copy.

    The key ring is not in it: keep its copy elsewhere, together they reveal every face.
    """
    deployment = call.deployment
    with call.progress("copying") as report:
        made = back_up(deployment, target.absolute(), call.actor, report)
    return Answer(
        {"backup": str(target.absolute()), **asdict(made)},
        f"[green]Made[/] {escape(str(target))}, {made.bytes / 2**20:,.1f} MiB, checked.\n"
        f"It ends with entry {made.audit_number:,} of the audit chain, {made.audit_head[:16]}…"
        f"{_tell_damage(made)}",
        is_no=bool(made.damage),
    )


@command("restore")
def restore(
    call: Call,
    source: Path = argument("A backup's folder, or an SQLite file.", "BACKUP"),
    replaces: bool = option(
        "Replace the registry that is there; SQLite's is kept.", None, "--replace"
    ),
) -> Answer:
    """Put a backup in the place of the registry, and say what is lost since. Stop servers first."""
    folder = require_home(call.home)
    settings = load_settings(folder)
    with call.progress("restoring") as report:
        done = restore_backup(
            registry_url(folder, settings),
            load_vault(folder, settings),
            source.absolute(),
            model_digest=model_digest(settings),
            actor=call.actor,
            replaces=replaces,
            progress=report,
            conversion=find_conversion(settings),
        )
    made, lost = done.manifest, done.lost
    return Answer(
        {
            "audit_number": made.audit_number,
            "made_at": made.made_at,
            "damage": made.damage,
            "lost": None if lost is None else asdict(lost),
            "replaced": None if done.aside is None else str(done.aside),
        },
        f"[green]Restored[/] up to entry {made.audit_number:,} of the audit chain.",
        _tell_lost(lost),
        *(
            f"Erase again: DELETE /v1/documents/{escape(document)}"
            for document in (() if lost is None else lost.erased)
        ),
        *(
            f"Withdraw again: POST /v1/documents/{escape(document)}/withdrawal, by a key of "
            f"{escape(carrier) or 'an operator'}"
            for document, carrier in (() if lost is None else lost.withdrawn)
        ),
        f"What was there is {escape(str(done.aside))}: remove it when you are sure."
        if done.aside
        else "",
        _tell_damage(made).lstrip(),
        is_no=bool(made.damage),
    )


def _tell_damage(made: Manifest) -> str:
    """The damaged rows that a backup has, as lines of markup."""
    if not made.damage:
        return ""
    found = "".join(f"\n  {escape(one)}" for one in made.damage)
    return f"\n[red]Damaged[/], and as it was in the registry:{found}\nRun sosie doctor there."


def _tell_lost(lost: Lost | None) -> str:
    if lost is None:
        return "What is lost since cannot be told: no registry could be read in its place."
    if lost.is_another_history:
        return "[yellow]The registry that was replaced had another history.[/]"
    shown = ", ".join(f"{rows:,} {escape(action)}" for action, rows in lost.entries.items())
    return f"[yellow]Lost since[/]: {shown}." if shown else "Nothing is lost."


@command("audit show")
def show_entries(
    call: Call,
    action: str | None = option("Only this action, as enrollment.decided."),
    actor: str | None = option("Only this actor, as outlet:b1."),
    subject: str | None = option("Only what names this: the id of a document, line, case …"),
    after: int | None = option(
        "Entries above this number, oldest first.", min=0, show_default="the newest"
    ),
    limit: int = option("How many at most.", default=50, min=1, max=100_000),
) -> Answer:
    """Show entries of the audit chain, in its order.

    The next page begins after the last number shown.
    """
    found = read_audit(call.store, after, limit, action, actor, subject)
    head = call.store.audit_head()[0]
    following = found[-1].number if after is not None and len(found) == limit else None
    page = AuditPage(tuple(map(serializers.audit_entry, found)), head, following)
    shown: dict[str, Cell] = {
        "": lambda entry: entry.number,
        "at": lambda entry: entry.at.isoformat(timespec="seconds"),
        **columns("actor action subject"),
        "detail": lambda entry: (
            escape(json.dumps(entry.detail, ensure_ascii=False)) if entry.detail else ""
        ),
    }
    empty = "No entry is there." if after is None else f"No entry is above {after}."
    place = None if following is None else f"{following}; the newest is {head}."
    return Answer(page, Listing(page.entries, shown, empty), next_page(place))


@command("audit verify")
def verify_entries(
    call: Call,
    anchor: Path | None = option("Heads that were anchored outside, a line each.", "FILE"),
) -> Answer:
    """Recompute the audit chain, and check the database against it and against anchored heads.

    Exit code 1 where an entry was altered, removed or added, or the database is damaged.
    """
    deployment = call.open(is_examined=True)
    store, anchors = deployment.store, None
    with call.progress("verifying") as report:
        found = verify_chain(store, progress=report)
        number, head = store.audit_head()
        verified = store.audit_hash_at(found.entries) if found.intact else None
        if verified is not None:
            # A writer may have gone on meanwhile.
            number, head = found.entries, verified
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
    return Answer(answer, text, is_no=not found.intact or bool(damage))


@command("audit mend")
def mend(
    call: Call,
    reason: str = option("Why the chain may go on as it is. It stays: no names.", default=...),
) -> Answer:
    """Let a broken audit chain go on: two operators seal what `audit verify` finds, by their keys.

    Asks for both keys. Nothing that was altered or lost comes back; every later verification shows
    the mend. Stop the service first, and keep a copy of the database as it is.
    """
    require_words("a reason", reason, 500)
    deployment = call.open(is_examined=True)
    people = [_ask_operator(deployment, which) for which in ("first", "second")]
    record = mend_chain(deployment.store, reason, *people)
    text = f"[green]Mended[/]: {_describe_mend(record)}."
    return Answer(serializers.audit_entry(record), text)


def _ask_operator(deployment: Deployment, which: str) -> Actor:
    """The principal of the given key; refused unless it is an operator's and in force."""
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


@command("audit certificate")
def check_file(call: Call, file: Path = argument("A certificate, as JSON.", "FILE")) -> Answer:
    """Check a certificate of an erasure or of retention against the audit chain.

    Exit code 1 where it does not hold: altered, of another registry, or from before a restore.
    """
    certificate = read_certificate(file)
    store = call.store
    with call.progress("verifying") as report:
        fault = check_certificate(store, certificate, report)
    text = f"[green]It holds[/]: entry {certificate.audit_number} says the same."
    if fault is not None:
        text = f"[red]It does not hold[/]: {escape(fault)}."
    answer = CertificateCheck(fault is None, fault, certificate.audit_number)
    return Answer(answer, text, is_no=fault is not None)
