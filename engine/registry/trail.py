"""The audit trail for whoever looks into it, read by filter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Select, select

from engine.registry import tables
from engine.registry.audit import record_of
from engine.registry.reader import Reader
from engine.registry.records import AuditRecord

WINDOW_ENTRIES = 20_000
"""So many numbers one query looks through: a longer read would keep SQLite's writer waiting."""

_audit = tables.audit


def read_audit(
    reader: Reader,
    after: int | None,
    limit: int,
    action: str | None = None,
    actor: str | None = None,
    subject: str | None = None,
) -> list[AuditRecord]:
    """The first `limit` entries above a number that match exactly, in the order of the chain.

    Without a number the newest that match, in the same order. A page that is not full is the
    last one.
    """
    assert limit > 0
    asked = ((_audit.c.action, action), (_audit.c.actor, actor), (_audit.c.subject, subject))
    wanted = select(_audit).where(*(column == text for column, text in asked if text is not None))
    head, _ = reader.audit_head()
    is_newest = after is None
    place = _audit.c.number.desc() if is_newest else _audit.c.number
    found: list[AuditRecord] = []
    for window in _windows(wanted, after, head):
        page = window.order_by(place).limit(limit - len(found))
        found += [record_of(row) for row in reader.rows(page)]
        if len(found) == limit:
            break
    return found[::-1] if is_newest else found


def _windows(wanted: Select[Any], after: int | None, head: int) -> Iterator[Select[Any]]:
    """The query cut into bounded pieces: upwards from a number, or downwards from the head."""
    starts = range(after or 0, head, WINDOW_ENTRIES)
    for start in starts if after is not None else reversed(starts):
        number = _audit.c.number
        yield wanted.where(number > start, number <= start + WINDOW_ENTRIES)
