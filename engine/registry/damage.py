"""Damage of a registry: in the database's structure, in any row, or beside the audit chain; and
the mend by which two people let a broken chain go on."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Table, func, select

from engine.errors import FourEyes, RequestError, SosieError, StorageFailed, file_errors
from engine.registry.accounts import API_KEYS, CARRIERS, OUTLETS
from engine.registry.audit import (
    AUDIT,
    MENDED,
    AuditEntry,
    AuditReader,
    AuditRecord,
    find_breaks,
    read_head,
    verify_chain,
)
from engine.registry.cases import CASE_DOCUMENTS, CASES
from engine.registry.database import (
    CHUNK_ROWS,
    AnyRow,
    Progress,
    chunks,
    long_statements,
    reading,
    sqlite_file,
    untold,
    utc_now,
)
from engine.registry.deployment import DEPLOYMENT
from engine.registry.documents import (
    CONSENT_RENEWED,
    CONSENT_WITHDRAWN,
    DOCUMENT_ERASED,
    DOCUMENTS,
    ERASURE_ASKED,
)
from engine.registry.enrollments import ENROLLMENTS
from engine.registry.lines import LINES
from engine.registry.references import REFERENCES, name_sealed
from engine.registry.rows import is_authentic, name_row, pages_of, values_of
from engine.registry.store import every_table
from engine.registry.transactions import chained, take_lease
from engine.registry.vault import Vault
from engine.registry.watchlist import WATCHLIST
from schema import frozen
from schema.actors import Actor


@frozen
class AnchoredHead:
    """The newest entry of the chain at a moment, as it was told outside."""

    at: str
    number: int
    hash: bytes


def find_anchor_faults(
    reader: AuditReader, anchors: Iterable[AnchoredHead]
) -> tuple[int, list[str]]:
    """Compares anchored heads with the chain: their number, and each fault in a line: it was cut
    off, or set back as a whole and continued."""
    compared, faults = 0, []
    entries = AUDIT.c
    given = iter(anchors)
    while page := list(islice(given, CHUNK_ROWS)):
        numbers = {one.number for one in page}
        query = select(entries.number, entries.hash).where(entries.number.in_(numbers))
        found = {row.number: row.hash for row in reader.rows(query)}
        compared += len(page)
        faults += [
            f"entry {one.number}, anchored at {one.at}, is "
            + ("another now" if one.number in found else "not there")
            for one in page
            if found.get(one.number) != one.hash
        ]
    return compared, faults


def write_anchor(deployment_id: str, number: int, head: bytes, at: datetime | None = None) -> str:
    """A head as the line that is sent, told at a moment: now, where none is given."""
    values = {
        "deployment_id": deployment_id,
        "at": (at or utc_now()).isoformat(timespec="seconds"),
        "audit_number": number,
        "audit_head": head.hex(),
    }
    return json.dumps(values)


def read_anchors(file: Path, deployment_id: str) -> Iterator[AnchoredHead]:
    """The heads of one deployment in a file of such lines, with whatever syslog put before each;
    `RequestError` where a line of it cannot be read, or there is none."""
    found = False
    with (
        file_errors(f"{file} cannot be read"),
        file.open(encoding="utf-8", errors="replace") as lines,
    ):
        for place, line in enumerate(lines, 1):
            if '"audit_head"' not in line:
                continue
            try:
                values, _ = json.JSONDecoder().raw_decode(line, line.index("{"))
                one = AnchoredHead(
                    str(values["at"]),
                    int(values["audit_number"]),
                    bytes.fromhex(values["audit_head"]),
                )
                is_own = values["deployment_id"] == deployment_id
            except (ValueError, TypeError, KeyError):
                raise RequestError(f"line {place} of {file} is no anchor: mend it") from None
            if is_own:
                found = True
                yield one
    if not found:
        raise RequestError(f"{file} holds no anchor of this deployment: name another file")


MOST_SHOWN = 20
"""So many findings tell what to do: put back a backup."""
BESIDE_A_WRITER_BYTES = 64 * 2**20
"""A larger SQLite file is not checked as a whole beside a writer, who would have to wait."""
_ROWS_AT_ONCE = 2_000
_TREE = "database: "
_OF_ROWS = f"{_TREE}CHECK constraint failed"
"""The tree is whole, and a row in it is not."""
_COUNTED = {
    "enrollment.decided": ENROLLMENTS,
    "carrier.added": CARRIERS,
    "outlet.added": OUTLETS,
    "apikey.added": API_KEYS,
    "watchlist.added": WATCHLIST,
}
"""Tables that have exactly one row for each entry of an action."""
_STATES: dict[str, tuple[Table, Callable[[AnyRow], bool]]] = {
    "document.blocked": (DOCUMENTS, lambda row: row.blocked_at is not None),
    "document.unblocked": (DOCUMENTS, lambda row: row.blocked_at is None),
    DOCUMENT_ERASED: (DOCUMENTS, lambda row: row.status == "erased"),
    ERASURE_ASKED: (
        DOCUMENTS,
        lambda row: row.status == "erased" or row.erasure_due_at is not None,
    ),
    CONSENT_WITHDRAWN: (DOCUMENTS, lambda row: row.status == "erased" or bool(row.withdrawn)),
    CONSENT_RENEWED: (DOCUMENTS, lambda _: True),
    "line.closed": (LINES, lambda row: row.status == "closed"),
    # An erasure closes lines without entries of their own.
    "line.disputed": (LINES, lambda row: row.status in ("disputed", "closed")),
    "line.restored": (LINES, lambda row: row.status in ("active", "closed")),
    "outlet.suspended": (OUTLETS, lambda row: row.restriction == "suspended"),
    "outlet.barred": (OUTLETS, lambda row: row.restriction == "barred"),
    "outlet.lifted": (OUTLETS, lambda row: row.restriction is None),
    # What is opened may be closed or merged since; a merged one has no other entry to be known by.
    "case.opened": (CASES, lambda _: True),
    "case.merged": (CASES, lambda _: True),
    "case.closed": (CASES, lambda row: row.state == "closed"),
    "case.reopened": (CASES, lambda row: row.state != "closed"),
    "apikey.revoked": (API_KEYS, lambda row: row.revoked_at is not None and not row.digest),
}
"""What the last of these entries about a row says of it: an older state has its code too."""


def find_damage(
    reader: AuditReader, *, is_alone: bool = True, progress: Progress = untold
) -> list[str]:
    """What is damaged, a line each, without a value of any row: the first `MOST_SHOWN` of it, and
    how much more there is. Damaged rows are set aside.

    It reads everything once: that the database's structure is whole, that every row can be read
    and every sealed value opened and found by its look-up, and that the rows that the audit chain
    tells of are there, each decision as it was made. Whether the chain itself is whole is
    `verify_chain`'s to say. What is in the clear and in no entry of the chain may have changed.
    """
    found = _find(reader, is_alone, progress)
    shown = list(islice(found, MOST_SHOWN))
    more = sum(1 for _ in found)
    return [*shown, f"{more:,} more of such findings"] if more else shown


def is_torn(found: Sequence[str]) -> bool:
    """True where the structure of the database itself is damaged, and not rows alone."""
    return any(one.startswith(_TREE) and not one.startswith(_OF_ROWS) for one in found)


def _find(reader: AuditReader, is_alone: bool, progress: Progress) -> Iterator[str]:
    is_whole = True
    for fault in _check_structure(reader, is_alone):
        is_whole &= not is_torn([fault])
        yield fault
    if not is_whole:
        # What a broken tree leads to says nothing more.
        return
    for place, table in enumerate(every_table()):
        try:
            for rows in pages_of(reader.rows, table):
                yield from _check_rows(reader.vault, table, rows)
                if table is REFERENCES:
                    yield from _check_origins(reader, rows)
                if table is CASES:
                    yield from _check_named(reader, rows)
                progress(place, len(every_table()))
        except (StorageFailed, ValueError, TypeError) as error:
            yield f"rows of {table.name} cannot be read ({type(error).__name__})"
    try:
        yield from _check_chain(reader)
    except (StorageFailed, ValueError, TypeError) as error:
        yield f"the audit chain cannot be read ({type(error).__name__})"


def is_checked_whole(reader: AuditReader, *, is_alone: bool) -> bool:
    """True where the structure of the database is looked at, too."""
    path = sqlite_file(reader.engine)
    return path is None or is_alone or path.stat().st_size <= BESIDE_A_WRITER_BYTES


def _check_structure(reader: AuditReader, is_alone: bool) -> Iterator[str]:
    if sqlite_file(reader.engine) is None or not is_checked_whole(reader, is_alone=is_alone):
        return
    try:
        with reading(reader.engine) as connection:
            found = connection.exec_driver_sql(f"PRAGMA integrity_check({MOST_SHOWN})").scalars()
            # A message may name a row, by its number, and never a value.
            yield from (f"{_TREE}{one}" for one in found if one != "ok")
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
            for table, count in Counter(row[0] for row in broken).items():
                yield f"{table}: {count} rows belong to rows that are not there"
    except StorageFailed as error:
        yield f"{_TREE}{error}"


def _check_rows(vault: Vault, table: Table, rows: Sequence[AnyRow]) -> Iterator[str]:
    if "mac" in table.columns:
        for row in rows:
            if not is_authentic(vault, table, values_of(row)):
                vault.set_aside.add(table.name, name_row(table, row))
                yield f"{table.name}: {name_row(table, row)} was altered"
    for column in (one for one in table.columns if one.info.get("is_sealed")):
        place = f"{table.name}.{column.name}"
        for row in rows:
            sealed = row._mapping[column]
            if sealed is None:
                continue
            try:
                opened = vault.open(place, name_sealed(table, row), sealed)
            except SosieError:
                yield f"{place} of {name_row(table, row)} does not open"
            else:
                if not _is_found(vault, table, row, opened):
                    name = name_row(table, row)
                    yield f"{table.name}: {name} is not under the look-up of what it holds"


def _check_origins(reader: AuditReader, rows: Sequence[AnyRow]) -> Iterator[str]:
    (deployment,) = reader.rows(select(DEPLOYMENT))
    for row in rows:
        if (row.model_digest, row.rotation_id) != (deployment.model_digest, deployment.rotation_id):
            yield f"references: row {row.id} is of another model or rotation"
        if max(row.added_sequence, row.removed_sequence or 0) > deployment.sequence:
            yield f"references: row {row.id} is of a sequence that was never reached"


def _check_named(reader: AuditReader, rows: Sequence[AnyRow]) -> Iterator[str]:
    """Checks that `case_documents` says of these cases what their own rows do, which have a code:
    else a decision would not see that a document is in an open case."""
    for keys in chunks([row.id for row in rows]):
        # In one statement: a writer may go on meanwhile.
        query = select(CASES.c.id, CASES.c.document_ids, CASE_DOCUMENTS.c.document_id)
        joined = query.outerjoin(CASE_DOCUMENTS, CASE_DOCUMENTS.c.case_id == CASES.c.id)
        told: dict[str, tuple[set[str], set[str]]] = {}
        for row in reader.rows(joined.where(CASES.c.id.in_(keys))):
            _, found = told.setdefault(row.id, (set(row.document_ids), set()))
            found.update(() if row.document_id is None else [row.document_id])
        for key, (own, found) in told.items():
            if own != found:
                yield (
                    f"case_documents: of row {key} of cases {len(own - found):,} documents are "
                    f"not there, and {len(found - own):,} are that it does not name"
                )


def _is_found(vault: Vault, table: Table, row: AnyRow, opened: bytes) -> bool:
    """True where the keyed look-ups of a row are of the value that is sealed in it."""
    if table is LINES:
        return bool(row.msisdn_lookup == vault.look_up("msisdn", opened.decode()))
    if table is not DOCUMENTS:
        return True
    number = json.loads(opened)[0]
    return bool(row.lookup == vault.look_up(f"document:{row.kind}", number))


def _check_chain(reader: AuditReader) -> Iterator[str]:
    with reading(reader.engine) as plain, long_statements(plain):
        # The head of the chain and the rows at one moment.
        counted = [
            select(func.count()).select_from(table).scalar_subquery().label(table.name)
            for table in _COUNTED.values()
        ]
        row = plain.execute(select(DEPLOYMENT.c.audit_number, *counted)).one()
        head = row.audit_number
        counts = {table.name: row._mapping[table.name] for table in _COUNTED.values()}
    entries: Counter[str] = Counter()
    decided: dict[str, Any] = {}
    last: dict[tuple[str, str, bool], str] = {}
    erasing = (DOCUMENT_ERASED, ERASURE_ASKED)
    for record in reader.audit_entries():
        if record.number > head:
            break
        entry = record.entry
        entries[entry.action] += 1
        if entry.action == "enrollment.decided":
            decided[entry.subject] = entry.detail
        elif entry.action in _STATES:
            # A document's erasure says nothing of its block, or of consent.
            about = entry.action.partition(".")[0]
            last[entry.subject, about, entry.action in erasing] = entry.action
        if len(decided) >= _ROWS_AT_ONCE:
            yield from _check_decisions(reader, decided)
            decided = {}
    yield from _check_decisions(reader, decided)
    yield from _check_states(reader, [(key, one) for (key, *_), one in last.items()], head)
    for action, table in _COUNTED.items():
        if counts[table.name] != entries[action]:
            yield (
                f"{table.name}: {counts[table.name]:,} rows, and {entries[action]:,} entries "
                f"{action} in the audit chain"
            )


def _check_decisions(reader: AuditReader, decided: dict[str, Any]) -> Iterator[str]:
    columns = ENROLLMENTS.c
    for keys in chunks(list(decided)):
        query = select(columns.id, columns.decision, columns.reasons).where(columns.id.in_(keys))
        found = {row.id: row for row in reader.rows(query)}
        for key in keys:
            row, said = found.get(key), decided[key]
            if row is None:
                yield f"enrollments: row {key} is not there, and the audit chain has its decision"
            elif "decision" in said and (row.decision, row.reasons) != (
                said["decision"],
                said.get("reasons"),
            ):
                yield f"enrollments: row {key} has another decision than the audit chain"


def _check_states(reader: AuditReader, last: list[tuple[str, str]], head: int) -> Iterator[str]:
    """Rows that are not as the last entry about them says."""
    subjects: dict[Table, dict[str, list[str]]] = {}
    for subject, action in last:
        table, _ = _STATES[action]
        subjects.setdefault(table, {}).setdefault(subject, []).append(action)
    for table, told in subjects.items():
        for keys in chunks(list(told)):
            (name,) = table.primary_key
            found = {
                row._mapping[name]: row for row in reader.rows(select(table).where(name.in_(keys)))
            }
            for key in keys:
                row = found.get(key)
                wrong = [one for one in told[key] if row is None or not _STATES[one][1](row)]
                if wrong and not _has_moved(reader, key, head):
                    yield f"{table.name}: row {key} is not as {wrong[0]} in the audit chain says"


def _has_moved(reader: AuditReader, subject: str, head: int) -> bool:
    """True where a writer has gone on with it meanwhile."""
    entries = AUDIT.c
    query = select(entries.number).where(entries.number > head, entries.subject == subject)
    return bool(reader.rows(query.limit(1)))


MOST_BREAKS = 100
"""So many broken places one mend seals; where there are more, a backup is the better chain."""


def mend_chain(reader: AuditReader, reason: str, first: Actor, second: Actor) -> AuditRecord:
    """Seals a broken chain as it was found, and lets it go on; the entry that says so.

    Nothing of what was altered or lost comes back, and nothing hides it: verification shows every
    mend, and finds what is altered after it. `FourEyes` for one person, `RequestError` where the
    chain is whole, or broken at more than `MOST_BREAKS` places; `WriterBusy` beside a writer.
    """
    if first.is_person(second.person):
        raise FourEyes("a mend takes two people: the second key is the first person's, too")
    with closing(take_lease(reader.engine)):
        found = verify_chain(reader)
        if found.intact:
            raise RequestError("the audit chain is whole: there is nothing to mend")
        with reading(reader.engine) as connection:
            head, reached = read_head(connection), connection.scalar(_REACHED)
        last = head.last_number or 0
        breaks = list(islice(find_breaks(reader, last), MOST_BREAKS + 1))
        if len(breaks) > MOST_BREAKS:
            raise RequestError(
                f"the audit chain is broken at more than {MOST_BREAKS} places: put back a backup"
            )
        detail = {
            "second": second.name,
            "reason": reason,
            "first_bad": found.first_bad,
            "after": last,
            "breaks": [one.describe() for one in breaks],
        }
        entry = AuditEntry(first.name, MENDED, f"entry {found.first_bad}", detail)
        sequence = max(head.sequence, reached or 0)
        trusting = chained(
            reader.engine, reader.vault, [entry], utc_now(), sequence=sequence, trusts_head=True
        )
        with trusting as (_, record):
            return record


_references = REFERENCES.c
_REACHED = select(func.max(func.coalesce(_references.removed_sequence, _references.added_sequence)))
