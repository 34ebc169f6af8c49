"""The audit chain: each entry's keyed hash covers the one before it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, bindparam, insert, select

from engine.registry import tables
from engine.registry.records import AuditEntry, AuditRecord
from engine.registry.vault import Vault

if TYPE_CHECKING:
    from engine.registry.reader import Reader

GENESIS = bytes(32)
"""What the first entry's hash stands on."""

_INSERT = insert(tables.audit)
_PAGE = (
    select(tables.audit)
    .where(tables.audit.c.number > bindparam("after"))
    .order_by(tables.audit.c.number)
    .limit(bindparam("page"))
)
_PAGE_ROWS = 5_000
_HASH = select(tables.audit.c.hash).where(tables.audit.c.number == bindparam("number"))


@dataclass(frozen=True, slots=True)
class AuditReport:
    """`entries`: the number of the last entry that was looked at; `first_bad`: the first whose
    entry is altered, missing or out of place."""

    entries: int
    intact: bool
    first_bad: int | None


def extend(
    vault: Vault, number: int, head: bytes, at: datetime, entries: Sequence[AuditEntry]
) -> list[AuditRecord]:
    """The entries as they follow after the entry `number`, whose hash is `head`."""
    chained = []
    for entry in entries:
        number += 1
        head = vault.chain(head, canonical(number, at, entry))
        chained.append(AuditRecord(number, at, entry, head))
    return chained


def canonical(number: int, at: datetime, entry: AuditEntry) -> bytes:
    """The bytes that are hashed: JSON with sorted keys, no spaces, ASCII."""
    content = {
        "number": number,
        "at": at.astimezone(UTC).isoformat(timespec="microseconds"),
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "detail": entry.detail,
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def append(connection: Connection, records: Sequence[AuditRecord]) -> None:
    """Writes chained entries inside the caller's transaction."""
    connection.execute(
        _INSERT,
        [
            {
                "number": record.number,
                "at": record.at,
                "actor": record.entry.actor,
                "action": record.entry.action,
                "subject": record.entry.subject,
                "detail": dict(record.entry.detail),
                "hash": record.hash,
            }
            for record in records
        ],
    )


def read_page(connection: Connection, after: int) -> list[AuditRecord]:
    """The next entries after a number, oldest first; none at the end."""
    rows = connection.execute(_PAGE, {"after": after, "page": _PAGE_ROWS})
    return [record_of(row) for row in rows]


def hash_at(connection: Connection, number: int) -> bytes | None:
    """The hash of one entry; `None` where there is no such entry."""
    found: bytes | None = connection.scalar(_HASH, {"number": number})
    return found


def verify_chain(
    reader: Reader,
    after: int = 0,
    most: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AuditReport:
    """Recomputes the chain with the deployment's key, up to the head on record: all of it, or
    at most so many entries after one that is believed, to verify a long chain in parts.

    It finds an entry that was altered, removed, inserted or reordered, and a missing tail. A
    database set back as a whole to an older state is consistent in itself: compare the head
    with one kept elsewhere to find that. `progress(done, total)` is told now and then.
    """
    last, recorded_head = reader.audit_head()
    end = last if most is None else min(after + most, last)
    expected = after + 1
    head = reader.audit_hash_at(after) if after else GENESIS
    if head is None:
        return AuditReport(after, intact=False, first_bad=after)
    for record in _until(reader.audit_entries(after), end):
        head = reader.vault.chain(head, canonical(record.number, record.at, record.entry))
        if record.number != expected or record.hash != head:
            return AuditReport(expected, intact=False, first_bad=expected)
        if progress is not None and expected % _PAGE_ROWS == 0:
            progress(expected - after, end - after)
        expected += 1
    if expected != end + 1 or (end == last and head != recorded_head):
        return AuditReport(expected - 1, intact=False, first_bad=expected)
    return AuditReport(end, intact=True, first_bad=None)


def _until(records: Iterator[AuditRecord], last: int) -> Iterator[AuditRecord]:
    # Entries that a writer adds while we read lie beyond the head that we compare with.
    for record in records:
        if record.number > last:
            return
        yield record


def record_of(row: Row[Any]) -> AuditRecord:
    """A row of the trail as a record."""
    entry = AuditEntry(row.actor, row.action, row.subject, row.detail)
    return AuditRecord(row.number, row.at, entry, row.hash)
