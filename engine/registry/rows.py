"""Rows: what tables share, the authentication codes of rows, and rows as records.

Every table whose rows decide has a column `mac`, keyed by the vault over all other columns, which
is computed and compared here alone: a row that was altered without the key ring is not believed. A
sealed value authenticates itself, and a new data key seals it anew: of it the code says only
whether it is there. An older state of a row that is put back whole has the right code, and what was
deleted has none: the audit chain tells (`damage.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from functools import cache, partial
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Self,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    Select,
    String,
    Table,
    Update,
    bindparam,
    case,
    literal,
    select,
    text,
    true,
    tuple_,
    update,
)
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

from engine.errors import SealBroken
from engine.registry.database import UNREADABLE, Day, Moment, Source, plain_value
from engine.registry.vault import Vault
from schema.decoding import prepare

if TYPE_CHECKING:
    from engine.registry.transactions import Transaction

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# SQLite makes a column its row id only under the exact name INTEGER.
RowNumber = BigInteger().with_variant(Integer(), "sqlite")
UuidText = String(36)
Code = String(64)
JsonValue = JSON(none_as_null=True)


@dataclass(frozen=True, slots=True)
class Of:
    """Marks a field whose values are those of another table's column."""

    column: str


KEY, INDEXED, UNIQUE, SEALED = "primary_key", "index", "unique", "sealed"
"""Marks of fields: options of their columns, and that the vault seals what is in them."""
Id = Annotated[str, UuidText]
DocumentId = Annotated[Id, Of("documents.id")]
EnrollmentId = Annotated[Id, Of("enrollments.id")]
LineId = Annotated[Id, Of("lines.id")]
CaseId = Annotated[Id, Of("cases.id")]
SweepId = Annotated[Id, Of("sweeps.id")]
CarrierCode = Annotated[str, Code, Of("carriers.code")]
OutletCode = Annotated[str, Code, Of("outlets.code")]
ActorName = Annotated[str, String(200)]
SealedText = Annotated[str, SEALED]
_TYPES: Mapping[Any, Any] = {
    datetime: Moment,
    date: Day,
    bytes: LargeBinary,
    float: Float(53),
    int: Integer,
    bool: Boolean,
}
"""Types of columns by those of fields, where no mark says another; of all others JSON."""


def table_of(name: str, kind: type[Any], *more: SchemaItem, **given: Column[Any]) -> Table:
    """The table whose rows a dataclass describes, with a column for each field, in their order,
    or that which is given for it, and the code of the row; a column that a later version adds
    comes last."""
    hints = get_type_hints(kind, include_extras=True)
    names = [one.name for one in fields(kind)]
    columns = [given[one] if one in given else _column_of(one, hints[one]) for one in names]
    table = kind.table = Table(name, metadata, *columns, mac_column(), *more)
    return table


def _column_of(name: str, hint: Any) -> Column[Any]:
    """The column of a field, nullable where that may be None."""
    kind, marks = _read_hint(hint)
    if SEALED in marks:
        return sealed_column(name, nullable=None in marks)
    types = [one for one in marks if isinstance(one, TypeEngine)]
    foreign = [ForeignKey(one.column) for one in marks if isinstance(one, Of)]
    options: Any = {one: True for one in marks if isinstance(one, str)}
    stored = types[0] if types else _TYPES.get(kind, JsonValue)
    return Column(name, stored, *foreign, nullable=None in marks, **options)


def _read_hint(hint: Any) -> tuple[Any, list[Any]]:
    """The type of a field and its marks; None is one."""
    if get_origin(hint) is Annotated:
        inner, *marks = get_args(hint)
    elif get_origin(hint) in (Union, UnionType):
        (inner,), marks = [one for one in get_args(hint) if one is not NoneType], [None]
    else:
        return hint, []
    kind, more = _read_hint(inner)
    return kind, [*marks, *more]


def mac_column() -> Column[bytes]:
    """Authenticates the row; null only until an upgrade has come to it."""
    return Column("mac", LargeBinary)


def one_of(column: str, words: Iterable[str]) -> str:
    """The condition that a column holds one of the words."""
    return f"{column} IN (" + ", ".join(f"'{one}'" for one in words) + ")"


def partial_index(
    name: str, *columns: ColumnElement[Any], where: str, unique: bool = False
) -> None:
    """An index of the rows that a condition holds for, on both databases."""
    condition = text(where)
    Index(name, *columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


T = TypeVar("T")

RowValues = Mapping[str, Any]
"""Values by column."""
K = TypeVar("K")
S = TypeVar("S")

# A struct is read back as a mapping: both have one code.
encode_values = msgspec.json.Encoder(order="sorted", enc_hook=plain_value).encode


def in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


def _as_stored(value: float) -> float:
    # SQLite keeps no sign of zero.
    return float(value) + 0.0


def _converter(column: Column[Any]) -> Callable[[Any], Any] | None:
    """The converter of a value to the one that the database gives back, where they may differ."""
    if isinstance(column.type, Moment):
        return in_utc
    return _as_stored if isinstance(column.type, Float) else None


def without_sealed(table: Table) -> list[ColumnElement[Any]]:
    """A row as its code needs it: without what is sealed, many times as long as the rest."""
    # Null where it is null: nulls at the end of a row are not in its code.
    return [
        (case((one.is_not(None), true())).label(one.name) if one.info.get("is_sealed") else one)
        for one in table.columns
    ]


def sealed_column(name: str, *, nullable: bool = True) -> Column[bytes]:
    """A column of values that the vault seals, under the name `<table>.<column>`."""
    return Column(name, LargeBinary, nullable=nullable, info={"is_sealed": True})


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
    """Opens each of many rows that have nothing to do with one another: one that is damaged is set
    aside, and the others are as if it were not there."""
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


def pages_of(
    read: Callable[[Select[Any]], Sequence[Row[Any]]],
    table: Table,
    *conditions: ColumnElement[bool],
    page: int = 2_000,
) -> Iterator[Sequence[Row[Any]]]:
    """The rows of a table that conditions hold for, in the order of its key, each page a short
    read; a row whose key is damaged comes with those before it."""
    key = list(table.primary_key)
    query = select(table).where(*conditions).order_by(*key).limit(page)
    rows = read(query)
    while rows:
        yield rows
        keys = [tuple(row._mapping[column] for column in key) for row in rows]
        readable = [one for one in keys if UNREADABLE not in one]
        if not readable:
            return
        last = [literal(one, column.type) for one, column in zip(readable[-1], key, strict=True)]
        rows = read(query.where(tuple_(*key) > tuple_(*last)))


def authentic_rows(vault: Vault, table: Table, rows: Iterable[Row[Any]]) -> Iterator[Row[Any]]:
    """The rows; `SealBroken` at one that was altered."""
    return (require_authentic(vault, table, row) for row in rows)


def sound_rows(vault: Vault, table: Table, rows: Iterable[Row[Any]]) -> Iterator[Row[Any]]:
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


def update_one(table: Table, *conditions: ColumnElement[bool]) -> Update:
    """An update of the row `key`, where it is as the change expects."""
    return update(table).where(next(iter(table.primary_key)) == bindparam("key"), *conditions)


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

    def row(self, to: Transaction) -> RowValues:
        """Its columns, without the code."""
        del to
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


def read_as(kind: type[T], row: Row[Any], /, **converted: Any) -> T:
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


def columns_of(record: Any, **converted: Any) -> RowValues:
    """The reverse: the fields of a record as the columns of the same names."""
    return {one.name: getattr(record, one.name) for one in fields(record)} | converted
