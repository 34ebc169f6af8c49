"""Columns of tables, and tables that are made of what their records say."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import date, datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

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
    String,
    Table,
    text,
)
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

from engine.registry.database import Day, Moment
from schema import frozen

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


def required(name: str, kind: Any, *more: SchemaItem, **options: Any) -> Column[Any]:
    """A column that holds a value in every row."""
    return Column(name, kind, *more, nullable=False, **options)


def mac_column() -> Column[bytes]:
    """Authenticates the row; null only until an upgrade has come to it."""
    return Column("mac", LargeBinary)


def one_of(column: str, words: Iterable[str]) -> str:
    """The condition that a column holds one of the words."""
    return f"{column} IN (" + ", ".join(f"'{one}'" for one in words) + ")"


def partial_index(
    name: str, *columns: ColumnElement[Any], where: str, unique: bool = False
) -> None:
    """An index of the rows that a condition holds for. Migrations make it, on both databases: its
    condition by PostgreSQL's name would load that dialect in every process."""
    Index(name, *columns, unique=unique, sqlite_where=text(where))


def sealed_column(name: str, *, nullable: bool = True) -> Column[bytes]:
    """A column of values that the vault seals, under the name `<table>.<column>`."""
    return Column(name, LargeBinary, nullable=nullable, info={"is_sealed": True})


@frozen
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


def table_of(name: str, kind: type[Any], *more: SchemaItem, **given: Column[Any] | None) -> Table:
    """The table whose rows a dataclass describes, with a column for each field, in their order,
    or that which is given for it (None: it is the record's alone), after what is given beside them,
    and the code of the row; a column that a later version adds comes last."""
    hints = get_type_hints(kind, include_extras=True)
    names = [*(one for one in given if one not in hints), *(one.name for one in fields(kind))]
    columns = [given[one] if one in given else _column_of(one, hints[one]) for one in names]
    kept = [one for one in columns if one is not None]
    table = kind.table = Table(name, metadata, *kept, mac_column(), *more)
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
