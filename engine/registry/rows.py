"""Rows: what tables share, the authentication codes of rows, and rows as records.

Every table whose rows decide has a column `mac`, keyed by the vault over all other columns, which
is computed and compared here alone: a row that was altered without the key ring is not believed. A
sealed value authenticates itself, and a new data key seals it anew: of it the code says only
whether it is there. An older state of a row that is put back whole has the right code, and what was
deleted has none: the audit chain tells (`damage.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cache, partial
from operator import attrgetter
from typing import Any, ClassVar, Self, TypeVar, cast

import msgspec
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Float,
    Table,
    Update,
    bindparam,
    case,
    delete,
    insert,
    literal,
    select,
    true,
    tuple_,
    update,
)

from engine.errors import SealBroken
from engine.registry.database import (
    KEYS,
    UNREADABLE,
    AnyRow,
    Condition,
    Moment,
    Query,
    Source,
    change_one,
    chunks,
    insert_rows,
    plain_value,
)
from engine.registry.vault import Vault
from schema.decoding import prepare
from schema.events import EventType

T = TypeVar("T")

RowValues = Mapping[str, Any]
"""Values by column."""
K = TypeVar("K")
S = TypeVar("S")

# A struct is read back as a mapping: both have one code.
encode_values = msgspec.json.Encoder(order="sorted", enc_hook=plain_value).encode


def in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


def _converter(column: Column[Any]) -> Callable[[Any], Any] | None:
    """The converter of a value to the one that the database gives back, where they may differ."""
    if isinstance(column.type, Moment):
        return in_utc
    # SQLite keeps no sign of zero.
    return (lambda value: float(value) + 0.0) if isinstance(column.type, Float) else None


def without_sealed(table: Table) -> list[ColumnElement[Any]]:
    """A row as its code needs it: without what is sealed, many times as long as the rest."""
    # Null where it is null: nulls at the end of a row are not in its code.
    return [
        (case((one.is_not(None), true())).label(one.name) if one.info.get("is_sealed") else one)
        for one in table.columns
    ]


@cache
def _code_columns(table: Table) -> tuple[list[str], list[tuple[int, Callable[[Any], Any]]]]:
    """The columns that a row's code is of, and by their places what converts a value."""
    columns = [one for one in table.columns if one.name != "mac"]
    converters = [
        (place, convert)
        for place, one in enumerate(columns)
        for convert in (bool if one.info.get("is_sealed") else _converter(one),)
        if convert is not None
    ]
    return [one.name for one in columns], converters


def compute_mac(vault: Vault, table: Table, values: RowValues) -> bytes:
    """The code of a row of these values; a column that is not among them is null.

    Nulls at the end are left out: a column that a later version adds comes last in its table, and
    alters no code.
    """
    find = values.get
    names, converters = _code_columns(table)
    said = [find(name) for name in names]
    for place, convert in converters:
        if (value := said[place]) is not None:
            said[place] = convert(value)
    while said[-1] is None:
        said.pop()
    return vault.authenticate(table.name, encode_values(said))


def with_macs(vault: Vault, table: Table, rows: Sequence[RowValues]) -> list[RowValues]:
    """The rows to be inserted, each with its code."""
    return [{**row, "mac": compute_mac(vault, table, row)} for row in rows]


def is_authentic(vault: Vault, table: Table, values: RowValues) -> bool:
    """True where a row is as it was written; `values` has every column of its table."""
    found: bytes | None = values["mac"]
    try:
        return found is not None and vault.is_equal(compute_mac(vault, table, values), found)
    except (AttributeError, TypeError, ValueError):
        # A value that is none of its column's.
        return False


def values_of(row: AnyRow, prefix: str = "") -> RowValues:
    """A row's values by column, or of the columns whose labels begin so."""
    if not prefix:
        return cast("RowValues", row._mapping)
    start = len(prefix)
    return {name[start:]: value for name, value in row._mapping.items() if name.startswith(prefix)}


def require_authentic(vault: Vault, table: Table, row: AnyRow, prefix: str = "") -> AnyRow:
    """The row; `SealBroken` where it was altered, or its part of that prefix."""
    if not is_authentic(vault, table, values_of(row, prefix)):
        vault.set_aside.add(table.name, name_row(table, row, prefix))
        raise SealBroken(
            f"a row of {table.name} was altered in the database: "
            "run sosie audit verify, put back a backup"
        )
    return row


def name_row(table: Table, row: AnyRow, prefix: str = "") -> str:
    """A row by its key: ids and codes, and no value of it."""
    keys = (row._mapping[prefix + column.name] for column in table.primary_key)
    return "row " + " ".join(key.hex()[:12] if isinstance(key, bytes) else str(key) for key in keys)


def open_each(rows: Iterable[S], open_row: Callable[[S], T]) -> Iterator[T]:
    """Opens each of many rows that have nothing to do with one another: one that is damaged is set
    aside, and the others are as if it were not there."""
    for row in rows:
        try:
            opened = open_row(row)
        except SealBroken:
            continue
        yield opened


def open_some(
    source: Source, query: Query, most: int, open_row: Callable[[AnyRow], T], **values: object
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


def pages_of(
    read: Callable[[Query], Sequence[AnyRow]],
    table: Table,
    *conditions: Condition,
    page: int = 2_000,
    by: Sequence[Column[Any]] = (),
) -> Iterator[Sequence[AnyRow]]:
    """The rows of a table that conditions hold for, in the order of its key, or of a key that is
    given, each page a short read; a row whose key is damaged comes with those before it."""
    key = list(by or table.primary_key)
    more = query = select(table).where(*conditions).order_by(*key).limit(page)
    while rows := read(more):
        yield rows
        keys = [tuple(row._mapping[column] for column in key) for row in rows]
        readable = [one for one in keys if UNREADABLE not in one]
        if not readable:
            return
        last = [literal(one, column.type) for one, column in zip(readable[-1], key, strict=True)]
        more = query.where(tuple_(*key) > tuple_(*last))


def authentic_rows(vault: Vault, table: Table, rows: Iterable[AnyRow]) -> Iterator[AnyRow]:
    """The rows; `SealBroken` at one that was altered."""
    return (require_authentic(vault, table, row) for row in rows)


def sound_rows(vault: Vault, table: Table, rows: Iterable[AnyRow]) -> Iterator[AnyRow]:
    """The rows that are as they were written."""
    return open_each(rows, partial(require_authentic, vault, table))


def read_apart(keys: Sequence[K], read: Callable[[Sequence[K]], Mapping[K, T]]) -> dict[K, T]:
    """Reads keys that have nothing to do with one another; where a row is damaged, each half by
    itself, so that only the key that needs it is left out."""
    try:
        return dict(read(keys))
    except SealBroken:
        if len(keys) <= 1:
            return {}
    half = len(keys) // 2
    return read_apart(keys[:half], read) | read_apart(keys[half:], read)


@contextmanager
def changing_rows(
    connection: Connection, vault: Vault, table: Table, keys: Collection[Any]
) -> Iterator[None]:
    """Rows of a table, by their keys, that the block updates: they get a new code after. One that
    was damaged before is changed with the others, and set aside: its code stays as wrong as it is,
    so that nothing is ever vouched for that was altered."""
    before = sound_rows(vault, table, rows_of(connection, table, keys))
    sound = {_key_of(table, row) for row in before}
    yield
    after = rows_of(connection, table, keys)
    write_macs(connection, vault, table, [row for row in after if _key_of(table, row) in sound])


def _key_of(table: Table, row: AnyRow) -> tuple[Any, ...]:
    return tuple(row._mapping[column.name] for column in table.primary_key)


def write_macs(connection: Connection, vault: Vault, table: Table, rows: Sequence[AnyRow]) -> None:
    """Gives rows that are there the code of what they hold."""
    key = list(table.primary_key)
    stored = [
        {f"key_{column.name}": row._mapping[column.name] for column in key}
        | {"new_mac": compute_mac(vault, table, values_of(row))}
        for row in rows
    ]
    if stored:
        connection.execute(_store_mac(table), stored)


@cache
def _store_mac(table: Table) -> Update:
    is_row = (column == bindparam(f"key_{column.name}") for column in table.primary_key)
    return update(table).where(*is_row).values(mac=bindparam("new_mac"))


@cache
def _select_rows(table: Table) -> Query:
    return select(*without_sealed(table)).where(next(iter(table.primary_key)).in_(KEYS))


def rows_of(connection: Connection, table: Table, keys: Collection[Any]) -> list[AnyRow]:
    return [
        row
        for part in chunks(list(dict.fromkeys(keys)))
        for row in connection.execute(_select_rows(table), {"keys": part})
    ]


def update_one(table: Table, *conditions: Condition) -> Update:
    """An update of the row `key`, where it is as the change expects."""
    return update(table).where(next(iter(table.primary_key)) == bindparam("key"), *conditions)


@dataclass(slots=True)
class NewEvent:
    """An event to be written. With a `line_id` it is two, the second that this line was opened by
    it: a decision pays for each row. `document_id`: None where the subject is the document."""

    type: EventType
    subject: str
    carrier: str | None
    data: dict[str, Any]
    document_id: str | None = None
    line_id: str | None = None


@dataclass(slots=True)
class Transaction:
    """The transaction that stores writes; `audit_number` is that of its last audit entry. What it
    `is_erasing` leaves the database's journal with it."""

    connection: Connection
    vault: Vault
    model_digest: str
    at: datetime
    audit_number: int = 0
    is_erasing: bool = False
    events: list[NewEvent] = field(default_factory=list)
    """Written once everything else is."""

    def insert(self, table: Table, rows: Sequence[RowValues]) -> None:
        """Inserts rows, each with its code."""
        insert_rows(self.connection, table, with_macs(self.vault, table, rows))

    def add(self, written: Sequence[Write]) -> None:
        """Inserts the rows of writes of one class."""
        self.insert(written[0].table, [one.row(self) for one in written])

    def put(self, table: Table, row: RowValues) -> None:
        """Writes a row in place of the one of its key, or beside all."""
        (values,), (key,) = with_macs(self.vault, table, [row]), table.primary_key
        changed = update(table).where(key == values[key.name]).values(values)
        if not self.connection.execute(changed).rowcount:
            self.connection.execute(insert(table), values)

    def delete(self, column: Column[Any], keys: Sequence[Any]) -> None:
        """Deletes the rows that have one of these keys in a column."""
        for part in chunks(keys):
            self.connection.execute(delete(column.table).where(column.in_(part)))

    def remove(self, written: Sequence[Write]) -> None:
        """Deletes the rows of the keys of writes of one class."""
        key = list(written[0].table.primary_key)
        find_key = attrgetter(*(column.name for column in key))
        place: ColumnElement[Any] = tuple_(*key) if len(key) > 1 else key[0]
        for part in chunks(written):
            is_there = place.in_(list(map(find_key, part)))
            self.connection.execute(delete(written[0].table).where(is_there))

    def changing(self, table: Table, keys: Collection[Any]) -> AbstractContextManager[None]:
        """Gives the rows that the block updates new codes, as `changing_rows`."""
        return changing_rows(self.connection, self.vault, table, keys)

    def change(self, table: Table, statement: Update, changes: Sequence[RowValues]) -> None:
        """Updates rows, each by its `key`, and gives them new codes; `RowRefused` where one is not
        as the statement expects."""
        with self.changing(table, [one["key"] for one in changes]):
            for values in changes:
                change_one(self.connection, statement, values)


class Write:
    """A value that a transaction stores, at once with all others of its class: a row to be added
    to `table`, or a change.

    Rows come first, each after those that it refers to, then changes, then erasures.
    """

    __slots__ = ()
    table: ClassVar[Table]
    step: ClassVar[int] = 0

    @classmethod
    def store(cls, to: Transaction, written: Sequence[Self]) -> None:
        """Writes them, and adds their events."""
        to.add(written)
        for one in written:
            one.follow(to)

    def follow(self, to: Transaction) -> None:
        """Does what comes with its row, once all rows of its class are there."""

    def row(self, _to: Transaction) -> RowValues:
        """Its columns, without the code."""
        return self.columns()

    def columns(self, **converted: Any) -> RowValues:
        """Its fields that are columns of its table, and what is converted."""
        kind: Any = type(self)
        return {name: getattr(self, name) for name in _shared_names(kind)} | converted


@cache
def _shared_names(kind: type[Any]) -> list[str]:
    names = (one.name for one in fields(kind))
    return [name for name in names if name in kind.table.c]


class Put(Write):
    """A row in place of the one of its key, or beside all."""

    __slots__ = ()

    @classmethod
    def store(cls, to: Transaction, written: Sequence[Self]) -> None:
        to.remove(written)
        to.add(written)


class Single(Write):
    """A change that each makes by itself, by `follow`."""

    __slots__ = ()

    @classmethod
    def store(cls, to: Transaction, written: Sequence[Self]) -> None:
        for one in written:
            one.follow(to)


class Deleted(Write):
    """The key of a row that goes."""

    __slots__ = ()

    @classmethod
    def store(cls, to: Transaction, written: Sequence[Self]) -> None:
        to.remove(written)


class Change(Write):
    """A change of a row that is there, by an update whose parameters are `row`, `key` among
    them."""

    __slots__ = ()
    step = 1
    update: ClassVar[Update]

    @classmethod
    def store(cls, to: Transaction, written: Sequence[Self]) -> None:
        to.change(cls.table, cls.update, [one.row(to) for one in written])


W = TypeVar("W", bound=Write)


def choose(writes: Iterable[Write], kind: type[W]) -> list[W]:
    """The writes of a class."""
    return [one for one in writes if isinstance(one, kind)]


DAMAGED = "a row in the database is damaged: run sosie doctor, put back a backup"


def read_as(kind: type[T], row: AnyRow, /, **converted: Any) -> T:
    """A record of this dataclass or struct from the columns of the same names, but for what is
    converted; `SealBroken` where one of them is none of its kind."""
    names = _names_of(cast("Any", kind))
    values = {name: getattr(row, name) for name in names if name not in converted}
    try:
        return msgspec.convert(values | converted, prepare(kind))
    except msgspec.ValidationError:
        raise SealBroken(DAMAGED) from None


@cache
def _names_of(kind: type[Any]) -> Sequence[str]:
    return getattr(kind, "__struct_fields__", None) or [one.name for one in fields(kind)]


@cache
def select_by(column: Column[Any]) -> Query:
    """The rows that have one of the keys in a column."""
    return select(column.table).where(column.in_(KEYS))


class RecordSource(Source):
    """A source of rows as they were written, else `SealBroken`, and of records of them."""

    def _found(self, column: Column[Any], keys: Sequence[object]) -> Iterator[AnyRow]:
        """The rows that have one of these keys in a column."""
        return authentic_rows(self.vault, column.table, self._rows_of(select_by(column), keys))

    def _by(
        self, column: Column[Any], kind: type[T], keys: Sequence[object], **converted: Any
    ) -> dict[Any, T]:
        """Their records, by the key."""
        rows = self._found(column, keys)
        return {row._mapping[column.name]: read_as(kind, row, **converted) for row in rows}

    def _one(self, column: Column[Any], kind: type[T], key: object, **converted: Any) -> T | None:
        """The record of a key; `None` where there is none."""
        return self._by(column, kind, [key], **converted).get(key)

    def _read(self, kind: type[T], row: AnyRow, **converted: Any) -> T:
        """The record of a row of its class's table."""
        of_row: Any = kind
        return read_as(kind, require_authentic(self.vault, of_row.table, row), **converted)

    def _sound(self, kind: type[T], query: Query, **values: object) -> list[T]:
        """The records of the rows that a query finds and that are sound."""
        return list(open_each(self.rows(query, **values), partial(self._read, kind)))


def columns_of(record: Any, **converted: Any) -> RowValues:
    """The reverse: the fields of a record as the columns of the same names."""
    return {one.name: getattr(record, one.name) for one in fields(record)} | converted
