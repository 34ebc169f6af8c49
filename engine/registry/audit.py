"""The audit chain: each entry's keyed hash covers the one before it."""

import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence, Set
from dataclasses import field
from datetime import UTC, datetime
from functools import cache, partial
from itertools import takewhile

from sqlalchemy import (
    Column,
    Connection,
    LargeBinary,
    String,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    func,
    not_,
    or_,
    select,
)

from engine.errors import ChainBroken, SchemaMismatch
from engine.registry.columns import Code, JsonValue, RowNumber, metadata, required
from engine.registry.database import (
    UNREADABLE,
    AnyRow,
    Condition,
    Json,
    Moment,
    Progress,
    Query,
    Source,
    insert_rows,
    is_id,
    prepare,
    reading,
    untold,
)
from engine.registry.deployment import DEPLOYMENT
from engine.registry.rows import Write, columns_of
from engine.registry.vault import Vault
from schema import frozen
from schema.actors import CREDENTIAL_ID_LENGTH, CREDENTIALS

AUDIT = Table(
    "audit",
    metadata,
    Column("number", RowNumber, primary_key=True, autoincrement=False),
    required("at", Moment),
    required("actor", String(200)),
    required("action", Code),
    required("subject", String(200)),
    required("detail", JsonValue),
    required("hash", LargeBinary),
)


@frozen
class AuditEntry(Write):
    """An action for the audit trail; `detail` holds ids, codes, counts and scores, never a name.
    Every transaction has one."""

    table = AUDIT

    actor: str
    action: str
    subject: str
    detail: Json = field(default_factory=dict)


@frozen
class AuditRecord:
    """An audit entry in its place in the chain."""

    number: int
    at: datetime
    entry: AuditEntry
    hash: bytes


GENESIS = bytes(32)
"""What the first entry's hash stands on."""

_PAGE = (
    select(AUDIT)
    .where(AUDIT.c.number > bindparam("after"))
    .order_by(AUDIT.c.number)
    .limit(bindparam("page"))
)
_PAGE_ROWS = 5_000
_HASH = select(AUDIT.c.hash).where(AUDIT.c.number == bindparam("number"))

MENDED = "audit.mended"
"""Action of the entry by which two people have sealed what was broken before it."""


@frozen
class AuditReport:
    """`entries`: the number of the last entry that was looked at; `first_bad`: the first whose
    entry is altered, missing or out of place, but for those that `mends` have sealed."""

    entries: int
    first_bad: int | None = None
    mends: tuple[AuditRecord, ...] = ()

    @property
    def intact(self) -> bool:
        return self.first_bad is None


@frozen
class Break:
    """An entry that does not follow the one before it, of which `expected` was to be the number;
    `made` is the hash that it had to have there, which only the key ring gives."""

    expected: int
    made: bytes
    record: AuditRecord

    def describe(self) -> list[int | str]:
        """As a mend names it: so the place and what stands there stay as they were sealed."""
        return [self.record.number, self.made.hex(), self.record.hash.hex()]


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
    return _encode(content).encode()


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def append(connection: Connection, records: Sequence[AuditRecord]) -> None:
    """Writes chained entries inside the caller's transaction."""
    rows = [
        columns_of(
            record.entry,
            number=record.number,
            at=record.at,
            detail=dict(record.entry.detail),
            hash=record.hash,
        )
        for record in records
    ]
    insert_rows(connection, AUDIT, rows)


def hash_at(connection: Connection, number: int) -> bytes | None:
    """The hash of one entry; `None` where there is no such entry."""
    found: bytes | None = connection.scalar(_HASH, {"number": number})
    return found


_LAST = select(func.max(AUDIT.c.number)).scalar_subquery()
_LAST_HASH = (
    select(AUDIT.c.hash).where(AUDIT.c.number == DEPLOYMENT.c.audit_number).scalar_subquery()
)
# One statement: on PostgreSQL two would see two states.
_HEAD = select(DEPLOYMENT, _LAST.label("last_number"), _LAST_HASH.label("last_hash"))


def read_head(connection: Connection) -> AnyRow:
    """The deployment's row, with the last entry that is there and the hash of the head's."""
    return prepare(_HEAD, connection, {}).find(connection, {})[0]


def authenticate_head(vault: Vault, number: int, head: bytes, sequence: int) -> bytes:
    """The code that only the key ring gives: that the chain ends here, at this sequence."""
    return vault.authenticate("audit head", f"{number}:{sequence}:".encode() + head)


def require_head(vault: Vault, row: AnyRow, least: int = 0) -> None:
    """`ChainBroken` unless the chain ends at the head, which the key ring has authenticated, and
    has the `least` number that was seen before."""
    if row.audit_mac is None:
        raise SchemaMismatch("this registry's upgrade has not come to its end: run sosie upgrade")
    code = authenticate_head(vault, row.audit_number, row.chain_head, row.sequence)
    if not vault.is_equal(code, row.audit_mac) or row.audit_number < least:
        fault = "its head was set by somebody without the key ring, or set back"
    elif row.last_number != row.audit_number:
        fault = f"entry {row.last_number} is the last, and the head is {row.audit_number}"
    elif row.last_hash != row.chain_head:
        fault = "its last entry is another than its head says"
    else:
        return
    raise ChainBroken(
        f"the audit chain was altered in the database ({fault}): run sosie audit verify"
    )


class AuditReader(Source):
    """The audit chain of one registry."""

    def check_head(self) -> tuple[int, bytes]:
        """The number and hash of the newest entry; `ChainBroken` where entries at the end were cut
        off or added without the key ring."""
        with reading(self._engine) as connection:
            head = read_head(connection)
        require_head(self.vault, head)
        return head.audit_number, head.chain_head

    def audit_entries(self, after: int = 0) -> Iterator[AuditRecord]:
        """The audit trail after a number, oldest first."""
        while True:
            page = list(map(record_of, self.rows(_PAGE, after=after, page=_PAGE_ROWS)))
            if not page:
                return
            yield from page
            after = page[-1].number

    def audit_head(self) -> tuple[int, bytes]:
        """The number and hash of the newest audit entry, as the deployment's row has them."""
        row = self.rows(select(DEPLOYMENT))[0]
        return row.audit_number, row.chain_head

    def audit_hash_at(self, number: int) -> bytes | None:
        """The hash of one audit entry as the trail has it; `None` where there is no such entry."""
        with reading(self._engine) as connection:
            return hash_at(connection, number)


def verify_chain(
    reader: AuditReader,
    after: int = 0,
    most: int | None = None,
    progress: Progress = untold,
    *,
    trusts_head: bool = False,
) -> AuditReport:
    """Recomputes the chain with the deployment's key, up to the head on record: all of it, or
    at most so many entries after one that is believed, to verify a long chain in parts.

    It finds an entry that was altered, removed, inserted or reordered, a tail that was cut off, and
    an entry beyond the head. A database set back as a whole to an older state is consistent in
    itself: an anchor outside tells (`find_anchor_faults`). `progress(done, total)` is called now
    and then. `trusts_head`: a registry of an older version, whose head is not authenticated.
    """
    last, recorded_head = reader.audit_head()
    end = last if most is None else min(after + most, last)
    seen, head = after, reader.audit_hash_at(after) if after else GENESIS
    if head is None:
        return AuditReport(after, first_bad=after)
    mends: list[AuditRecord] = []
    read_sealed = cache(partial(_read_mends, reader))
    for record, broken in _follow(reader, after, head, last):
        if broken is not None and broken.describe() not in read_sealed():
            return AuditReport(broken.expected, first_bad=broken.expected)
        if record.entry.action == MENDED:
            mends.append(record)
        seen, head = record.number, record.hash
        if seen % _PAGE_ROWS == 0:
            progress(seen - after, end - after)
        if seen >= end:
            break
    if seen < end or (seen == last and not _ends_at(reader, head, recorded_head, trusts_head)):
        return AuditReport(seen, first_bad=seen + 1)
    return AuditReport(seen, mends=tuple(mends))


def _ends_at(reader: AuditReader, head: bytes, recorded: bytes, trusts_head: bool) -> bool:
    if head != recorded or trusts_head:
        return head == recorded
    try:
        reader.check_head()
    except ChainBroken:
        return False
    return True


def find_breaks(reader: AuditReader, last: int) -> Iterator[Break]:
    """Every entry up to the `last` that does not follow the one before it, sealed or not."""
    found = _follow(reader, 0, GENESIS, last)
    return (broken for _, broken in found if broken is not None)


def _follow(
    reader: AuditReader, after: int, head: bytes, last: int
) -> Iterator[tuple[AuditRecord, Break | None]]:
    """The entries after one with this hash, each with what is wrong with its place. Those that a
    writer adds while we read lie beyond the `last`."""
    for record in takewhile(lambda one: one.number <= last, reader.audit_entries(after)):
        made = reader.vault.chain(head, canonical(record.number, record.at, record.entry))
        # A mend says itself that entries are lost between that one and it.
        is_mend = record.entry.action == MENDED and record.entry.detail.get("after") == after
        follows = record.hash == made and (record.number == after + 1 or is_mend)
        yield record, None if follows else Break(after + 1, made, record)
        after, head = record.number, record.hash


def _read_mends(reader: AuditReader) -> list[object]:
    """The breaks that people have sealed. Nobody without the key ring can add one: each names the
    hash that its entry had to have."""
    wanted = select(AUDIT.c.detail).where(AUDIT.c.action == MENDED)
    details = (
        row.detail
        for window in split(wanted, AUDIT.c.number, 0, reader.audit_head()[0])
        for row in reader.rows(window)
    )
    # A row that somebody else has added may hold anything.
    found = (one.get("breaks") for one in details if isinstance(one, dict))
    return [broken for breaks in found if isinstance(breaks, list) for broken in breaks]


def find_end(connection: Connection, head: AnyRow) -> tuple[int, bytes]:
    """The end of the trail, whatever the head says: the highest number, and the last hash."""
    last = head.last_number or 0
    return max(last, head.audit_number), hash_at(connection, last) or GENESIS


_EPOCH, _DAMAGED = datetime.fromtimestamp(0, UTC), "damaged"


def record_of(row: AnyRow) -> AuditRecord:
    """A row of the trail as a record; one that cannot be read says so, and breaks the chain."""
    if UNREADABLE in row:
        return AuditRecord(row.number, _EPOCH, AuditEntry(_DAMAGED, _DAMAGED, "", {}), b"")
    entry = AuditEntry(row.actor, row.action, row.subject, row.detail)
    return AuditRecord(row.number, row.at, entry, row.hash)


def newest_of(reader: AuditReader, actions: Sequence[str]) -> AuditRecord | None:
    """The newest entry with one of these actions."""
    head, _ = reader.audit_head()
    wanted = select(AUDIT).where(AUDIT.c.action.in_(actions))
    for window in split(wanted, AUDIT.c.number, None, head):
        for row in reader.rows(window.order_by(AUDIT.c.number.desc()).limit(1)):
            return record_of(row)
    return None


def read_moments(reader: AuditReader, after: int) -> Iterator[tuple[int, datetime]]:
    """Number and moment of each entry after a number, in order."""
    head, _ = reader.audit_head()
    for window in split(select(AUDIT.c.number, AUDIT.c.at), AUDIT.c.number, after, head):
        rows = reader.rows(window.order_by(AUDIT.c.number))
        yield from ((row.number, row.at) for row in rows if row.at is not UNREADABLE)


WINDOW_ENTRIES = 20_000
"""So many numbers one query looks through: a longer read would keep SQLite's writer waiting."""


def read_audit(
    reader: AuditReader,
    after: int | None,
    limit: int,
    action: str | None = None,
    actor: str | None = None,
    subject: str | None = None,
) -> list[AuditRecord]:
    """The first `limit` entries above a number that match exactly, in the order of the chain. The
    actor may be a person's name as well: all that they did, by whichever key or session. What is
    about a subject may name it in its detail alone.

    Without a number the newest that match, in the same order. A page that is not full is the
    last one.
    """
    assert limit > 0
    wanted = select(AUDIT)
    if action is not None:
        wanted = wanted.where(AUDIT.c.action == action)
    if subject is not None:
        wanted = wanted.where(or_(AUDIT.c.subject == subject, _is_named(subject)))
    if actor is not None:
        column, any_id = AUDIT.c.actor, "_" * CREDENTIAL_ID_LENGTH
        name = actor.replace("/", "//").replace("%", "/%").replace("_", "/_")
        of_person = (column.like(f"{name} ({what}:{any_id})", escape="/") for what in CREDENTIALS)
        wanted = wanted.where(or_(column == actor, *of_person))
    head, _ = reader.audit_head()
    is_newest = after is None
    place = AUDIT.c.number.desc() if is_newest else AUDIT.c.number
    found: list[AuditRecord] = []
    for window in split(wanted, AUDIT.c.number, after, head):
        page = window.order_by(place).limit(limit - len(found))
        found += [record_of(row) for row in reader.rows(page)]
        if len(found) == limit:
            break
    return found[::-1] if is_newest else found


def _is_named(subject: str) -> Condition:
    """True where the detail names it: an id anywhere, as in `case:<id>`, else a whole text."""
    text = subject if is_id(subject) else json.dumps(subject, ensure_ascii=False)
    return cast(AUDIT.c.detail, Text).contains(text, autoescape=True)


_AT = select(AUDIT.c.at).where(AUDIT.c.number == bindparam("number"))
_READS_OF_LISTS = ("audit.read", "cases.read", "enrollments.read")
"""Actions whose detail names whatever stood in a list, or was asked for."""


def read_about(
    reader: AuditReader,
    subjects: Sequence[str],
    named: Sequence[str],
    since: datetime,
    most: int,
    listed: Set[str] = frozenset(),
) -> tuple[list[AuditRecord], int]:
    """The first `most` entries from a moment on that are about one of these subjects, or whose
    detail has one of these ids, in the order of the chain; and how many there are besides.

    Lists that people looked through count where one of the ids `listed` stood in them.
    """
    head, _ = reader.audit_head()
    first = bisect_left(range(1, head + 1), since, key=lambda one: _moment_of(reader, one))
    about = or_(AUDIT.c.subject.in_(subjects), *map(_is_named, named))
    is_list = AUDIT.c.action.in_(_READS_OF_LISTS)
    wanted = select(AUDIT).where(or_(is_list, about) if listed else and_(not_(is_list), about))
    found = [
        one
        for window in split(wanted, AUDIT.c.number, first, head)
        for one in map(record_of, reader.rows(window.order_by(AUDIT.c.number)))
        if one.entry.action not in _READS_OF_LISTS or listed & _list_texts(one.entry.detail)
    ]
    return found[:most], max(len(found) - most, 0)


def _list_texts(detail: Json) -> set[str]:
    values = (value if isinstance(value, list) else [value] for value in detail.values())
    return {one for some in values for one in some if isinstance(one, str)}


def _moment_of(reader: AuditReader, number: int) -> datetime:
    at = reader.rows(_AT, number=number)[0].at
    if at is UNREADABLE:
        # In the order of the chain it is not before the one before.
        return _moment_of(reader, number - 1) if number > 1 else _EPOCH
    found: datetime = at
    return found


def split(wanted: Query, number: Column[int], after: int | None, head: int) -> Iterator[Query]:
    """The query cut into bounded pieces: upwards from a number, or downwards from the head."""
    starts = range(after or 0, head, WINDOW_ENTRIES)
    for start in starts if after is not None else reversed(starts):
        yield wanted.where(number > start, number <= start + WINDOW_ENTRIES)


def write_mark(number: int, digest: bytes) -> str:
    """A text for the history of a store up to an audit entry."""
    return f"{number}:{digest.hex()}"
