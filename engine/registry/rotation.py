"""Rotation of the data key: seals every value anew, in batches that may stop anywhere.

The order that loses nothing: `ring.with_new_data_key().save(path)`, open the store with that
ring, `reseal` (again after any interruption), `retire`, save the ring that it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Row,
    Table,
    and_,
    bindparam,
    func,
    literal,
    select,
    update,
)

from engine.errors import KeyRingError
from engine.registry import deployment
from engine.registry.audit import AuditEntry
from engine.registry.database import UNREADABLE
from engine.registry.keyring import KeyRing
from engine.registry.references import REFERENCES, name_sealed
from engine.registry.rows import open_each
from engine.registry.store import sealed_columns
from engine.registry.vault import KEY_HEADER_BYTES, Vault, key_header, key_version
from engine.registry.writer import Writer

ROWS_PER_BATCH = 2_000


def reseal(
    writer: Writer,
    rows_per_batch: int = ROWS_PER_BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Seals every value of an older key with the active data key; returns rows by table. A damaged
    one is set aside, and stays as it is.

    `progress(done, total)` is called after each batch. Each batch is a fenced, audited transaction:
    a stop between or inside batches leaves every value sealed with a key of the ring, and the
    next call goes on with the rows that are left.
    """
    done = dict.fromkeys((table.name for table, _ in sealed_columns()), 0)
    total = sum(_count_left(writer, column) for _, column in sealed_columns())
    for table, column in sealed_columns():
        for rows in _reseal_table(writer, table, column, rows_per_batch):
            done[table.name] += rows
            if progress is not None:
                progress(sum(done.values()), total)
    return done


def retire(writer: Writer) -> KeyRing:
    """The writer's ring with its active data key alone, once no value opens with another. Keys of
    damaged values are kept, and open nothing.

    Save it to finish; snapshots of an index that the old keys sealed must be written again.
    """
    ring, needed = writer.vault.ring, set[int]()
    for table, column in sealed_columns():
        for rows in _pages(writer, table, column, ROWS_PER_BATCH):
            if _seal_again(writer.vault, table, column, rows):
                raise KeyRingError(
                    f"an old data key still seals rows of {table.name}: reseal, then retire it"
                )
            needed |= {key_version(row.sealed) for row in rows}
    known = {key.version for key in (*ring.kept, *ring.data)}
    if not needed <= known:
        # The header itself is damaged, which says the key.
        needed = known
    old = [key.version for key in ring.data[:-1]]
    entries = [AuditEntry("sosie", "datakey.retired", str(version)) for version in old]
    with writer.changing(*entries) as connection:
        for version in old:
            deployment.drop_data_key(connection, version)
    return ring.with_active_alone(needed)


def _reseal_table(writer: Writer, table: Table, column: Column[Any], limit: int) -> Iterator[int]:
    store = (
        update(table)
        .where(table.c.id == bindparam("key"))
        .values({column.name: bindparam("sealed")})
    )
    for rows in _pages(writer, table, column, limit):
        sealed = _seal_again(writer.vault, table, column, rows)
        if sealed:
            entry = AuditEntry("sosie", "values.resealed", table.name, {"rows": len(sealed)})
            with writer.changing(entry) as connection:
                connection.execute(store, sealed)
        yield len(sealed)


def _pages(
    writer: Writer, table: Table, column: Column[Any], limit: int
) -> Iterator[Sequence[Row[Any]]]:
    """The rows whose value is not sealed with the active key."""
    owner = [REFERENCES.c.document_id] if table is REFERENCES else []
    page = (
        select(table.c.id, *owner, column.label("sealed"))
        .where(_is_left(column, writer.vault))
        .order_by(table.c.id)
        .limit(limit)
    )
    rows = writer.rows(page)
    while rows:
        yield rows
        readable = [row.id for row in rows if row.id is not UNREADABLE]
        rows = writer.rows(page.where(table.c.id > literal(readable[-1]))) if readable else []


def _count_left(writer: Writer, column: Column[Any]) -> int:
    query = select(func.count()).where(_is_left(column, writer.vault))
    return int(writer.rows(query)[0][0])


def _is_left(column: Column[Any], vault: Vault) -> ColumnElement[bool]:
    active = key_header(vault.active_data_version)
    return and_(column.is_not(None), header_of(column) != active)


def _seal_again(
    vault: Vault, table: Table, column: Column[Any], rows: Sequence[Row[Any]]
) -> list[dict[str, Any]]:
    place = f"{table.name}.{column.name}"

    def seal(row: Row[Any]) -> dict[str, Any]:
        name = name_sealed(table, row)
        return {
            "key": row.id,
            "sealed": vault.seal(place, name, vault.open(place, name, row.sealed)),
        }

    return list(open_each(rows, seal))


def header_of(column: Column[Any]) -> Any:
    """The first bytes of a sealed column's values, which say the data key."""
    return func.substr(column, 1, KEY_HEADER_BYTES, type_=column.type)
