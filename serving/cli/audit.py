"""The audit chain: `audit show`, `audit verify`, `audit mend`, `audit certificate`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serving.cli.inputs import HomeOption, open_deployment, require_words
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
    from engine.registry.records import AuditRecord
    from schema.actors import Actor
    from serving.deployment.deployment import Deployment

MOST_ENTRIES = 100_000


def register(app: typer.Typer) -> None:
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
    from engine.registry.audit import find_anchor_faults, read_anchors, verify_chain
    from engine.registry.damage import MOST_SHOWN, find_damage
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
    from schema.actors import Actor
    from serving.access.authentication import Authenticator
    from serving.access.authorization import Role
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
