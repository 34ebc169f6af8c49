"""Authentication codes of rows: a row that was altered without the key ring is not believed.

Every table whose rows decide has a column `mac`, keyed by the vault over all other columns, which
is computed and compared here alone. A sealed value authenticates itself, and a new data key seals
it anew: of it the code says only whether it is there. An older state of a row that is put back
whole has the right code, and what was deleted has none: the audit chain tells (`damage.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar, cast

import msgspec
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Float,
    Row,
    Select,
    Table,
    bindparam,
    case,
    select,
    true,
    update,
)

from engine.errors import SealBroken
from engine.registry import tables
from engine.registry.database import KEYS, Moment, Source, chunks, plain_value
from engine.registry.records import ApiKey, Session
from engine.registry.tables import metadata
from engine.registry.vault import Vault

RowValues = Mapping[str, Any]
"""Values by column."""
K = TypeVar("K")
S = TypeVar("S")
T = TypeVar("T")


_encode = msgspec.json.Encoder(order="deterministic", enc_hook=plain_value).encode


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


def _as_stored(value: float) -> float:
    # SQLite keeps no sign of zero.
    return float(value) + 0.0


def _converter(column: Column[Any]) -> Callable[[Any], Any] | None:
    """What makes a value the one that the database gives back, where that may differ."""
    if isinstance(column.type, Moment):
        return _in_utc
    return _as_stored if isinstance(column.type, Float) else None


_SEALED = {(table.name, column.name) for table, column in tables.SEALED}
AUTHENTICATED = tuple(table for table in metadata.sorted_tables if "mac" in table.columns)
"""Tables whose rows decide."""
_NAMES = {
    table: [one.name for one in table.columns if one.name != "mac"] for table in AUTHENTICATED
}
_CONVERTERS = {
    table: [
        (names.index(one.name), convert)
        for one in table.columns
        for convert in (bool if (table.name, one.name) in _SEALED else _converter(one),)
        if convert is not None
    ]
    for table, names in _NAMES.items()
}


def _without_sealed(table: Table) -> list[ColumnElement[Any]]:
    # Null where it is null: nulls at the end of a row are not in its code.
    return [
        (case((one.is_not(None), true())) if (table.name, one.name) in _SEALED else one).label(
            one.name
        )
        for one in table.columns
    ]


REFERENCE_COLUMNS = _without_sealed(tables.references)
"""A reference as its code needs it: without its templates, ten times as long as the rest."""
CROP_COLUMNS = _without_sealed(tables.crops)
"""The same of a crop, without its image."""
_KEY_COLUMNS = ("id", "role", "carrier", "outlet", "person", "rate_limit", "expires_at")
_SESSION_COLUMNS = ("id", "person", "role", "carrier", "outlet", "created_at", "expires_at")


def compute_mac(vault: Vault, table: Table, values: RowValues) -> bytes:
    """The code of a row of these values; a column that is not among them is null.

    Nulls at the end are left out: a column that a later version adds comes last in its table, and
    alters no code.
    """
    find = values.get
    said = [find(name) for name in _NAMES[table]]
    for place, convert in _CONVERTERS[table]:
        if (value := said[place]) is not None:
            said[place] = convert(value)
    while said[-1] is None:
        said.pop()
    return vault.authenticate(table.name, _encode(said))


def with_macs(vault: Vault, table: Table, rows: Sequence[RowValues]) -> list[RowValues]:
    """The rows to be inserted, each with its code."""
    return [{**row, "mac": compute_mac(vault, table, row)} for row in rows]


def is_authentic(vault: Vault, table: Table, values: RowValues) -> bool:
    """Whether a row is as it was written; `values` has every column of its table."""
    found: bytes | None = values["mac"]
    try:
        return found is not None and vault.is_equal(compute_mac(vault, table, values), found)
    except (AttributeError, TypeError, ValueError):
        # A value that is none of its column's.
        return False


def values_of(row: Row[Any], prefix: str = "") -> RowValues:
    """A row's values by column, or of the columns whose labels begin so."""
    if not prefix:
        return cast("RowValues", row._mapping)
    start = len(prefix)
    return {name[start:]: value for name, value in row._mapping.items() if name.startswith(prefix)}


def require_authentic(vault: Vault, table: Table, row: Row[Any], prefix: str = "") -> Row[Any]:
    """The row; `SealBroken` where it was altered, or its part of that prefix."""
    if not is_authentic(vault, table, values_of(row, prefix)):
        vault.set_aside.add(table.name, name_row(table, row, prefix))
        raise SealBroken(
            f"a row of {table.name} was altered in the database: "
            "run sosie audit verify, put back a backup"
        )
    return row


def name_row(table: Table, row: Row[Any], prefix: str = "") -> str:
    """A row by its key: ids and codes, and no value of it."""
    keys = (row._mapping[prefix + column.name] for column in table.primary_key)
    return "row " + " ".join(key.hex()[:12] if isinstance(key, bytes) else str(key) for key in keys)


def open_each(rows: Iterable[S], open_row: Callable[[S], T]) -> Iterator[T]:
    """What each row holds, for who reads many that have nothing to do with one another: one that
    is damaged is set aside, and the others are as if it were not there."""
    for row in rows:
        try:
            opened = open_row(row)
        except SealBroken:
            continue
        yield opened


def open_some(
    source: Source,
    query: Select[Any],
    most: int,
    open_row: Callable[[Row[Any]], T],
    **values: object,
) -> list[T]:
    """The same of the first `most` rows that a query finds and that are sound: whoever is given
    fewer has been given all."""
    found: list[T] = []
    place = 0
    while True:
        rows = source.rows(query.limit(most).offset(place), **values)
        found += open_each(rows, open_row)
        if len(rows) < most or len(found) >= most:
            return found[:most]
        place += most


def sound_rows(vault: Vault, table: Table, rows: Iterable[Row[Any]]) -> Iterator[Row[Any]]:
    """The rows that are as they were written."""
    return open_each(rows, partial(require_authentic, vault, table))


def read_apart(keys: Sequence[K], read: Callable[[Sequence[K]], Mapping[K, T]]) -> dict[K, T]:
    """What is read of keys that have nothing to do with one another; where a row is damaged, of
    each half by itself, so that only the key that needs it is left out."""
    try:
        return dict(read(keys))
    except SealBroken:
        if len(keys) <= 1:
            return {}
    half = len(keys) // 2
    return read_apart(keys[:half], read) | read_apart(keys[half:], read)


@contextmanager
def changing_rows(
    connection: Connection, vault: Vault, changed: Mapping[Table, Collection[Any]]
) -> Iterator[None]:
    """Rows, by their keys, that the block updates: they get a new code after. One that was damaged
    before is changed with the others, and set aside: its code stays as wrong as it is, so that
    nothing is ever vouched for that was altered."""
    sound = {
        (table, _key_of(table, row))
        for table, keys in changed.items()
        for row in sound_rows(vault, table, _rows_of(connection, table, keys))
    }
    yield
    for table, keys in changed.items():
        rows = _rows_of(connection, table, keys)
        write_macs(
            connection, vault, table, [row for row in rows if (table, _key_of(table, row)) in sound]
        )


def _key_of(table: Table, row: Row[Any]) -> tuple[Any, ...]:
    return tuple(row._mapping[column.name] for column in table.primary_key)


def write_macs(
    connection: Connection, vault: Vault, table: Table, rows: Sequence[Row[Any]]
) -> None:
    """Gives rows that are there the code of what they hold."""
    key = list(table.primary_key)
    stored = [
        {f"key_{column.name}": row._mapping[column.name] for column in key}
        | {"new_mac": compute_mac(vault, table, values_of(row))}
        for row in rows
    ]
    if stored:
        connection.execute(_STORE[table], stored)


_STORE = {
    table: update(table)
    .where(*(column == bindparam(f"key_{column.name}") for column in table.primary_key))
    .values(mac=bindparam("new_mac"))
    for table in AUTHENTICATED
}
_ROWS = {
    table: select(*(CROP_COLUMNS if table is tables.crops else table.columns)).where(
        next(iter(table.primary_key)).in_(KEYS)
    )
    for table in AUTHENTICATED
}


def _rows_of(connection: Connection, table: Table, keys: Collection[Any]) -> list[Row[Any]]:
    return [
        row
        for part in chunks(list(dict.fromkeys(keys)))
        for row in connection.execute(_ROWS[table], {"keys": part})
    ]


def bind_key(vault: Vault, key: ApiKey, secret_digest: bytes) -> bytes:
    """What a key's row keeps: over the digest of the key itself and all that it may do, so that
    whoever alters the row only makes it useless."""
    return _bind(vault, "api_keys", key, _KEY_COLUMNS, secret_digest)


def bind_session(vault: Vault, session: Session, secret_digest: bytes) -> bytes:
    """The same of a session; when it was seen last is not bound, so an altered row lives no longer
    than `expires_at`."""
    return _bind(vault, "sessions", session, _SESSION_COLUMNS, secret_digest)


def _bind(
    vault: Vault, what: str, row: object, columns: Sequence[str], secret_digest: bytes
) -> bytes:
    said = {name: getattr(row, name) for name in columns}
    moments = {name: _in_utc(value) for name, value in said.items() if isinstance(value, datetime)}
    return vault.authenticate(what, _encode([said | moments, secret_digest]))
