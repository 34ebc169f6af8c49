"""Statements in the words of a driver, and batched reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    Dialect,
    Engine,
    Insert,
    Row,
    Select,
    Table,
    bindparam,
    insert,
)
from sqlalchemy.engine import result_tuple
from sqlalchemy.engine.interfaces import DBAPICursor

from engine.registry.database import UNREADABLE, chunks, reading, translate
from engine.registry.vault import Vault

KEYS: BindParameter[Any] = bindparam("keys", expanding=True)
"""Stands in a query for the keys that `Source._rows_of` asks it for."""


class Prepared:
    """A statement in the words of a driver, made once and executed by it alone: for the few rows of
    a decision SQLAlchemy's way there takes longer than the database."""

    def __init__(self, statement: Any, dialect: Dialect, values: Mapping[str, Any]) -> None:
        """For lists as long as those among these values."""
        compiled = statement.compile(dialect=dialect, column_keys=list(values))
        state = compiled.construct_expanded_state(values)
        lists = state.parameter_expansion
        self._lists = [(name, keys) for name, keys in lists.items() if name in values]
        encoders = {
            key: bind.type.dialect_impl(dialect).bind_processor(dialect)
            for name, bind in compiled.binds.items()
            for key in lists.get(name, [name])
        }
        self._text, self._is_positional = state.statement, compiled.positional
        # Some stand in the statement itself.
        self._given = {key: one for key, one in state.parameters.items() if key not in values}
        self._encoders = [(one, encoders[one]) for one in state.positiontup or state.parameters]
        self._types = [one.type.dialect_impl(dialect) for one in statement.exported_columns]
        self._make: Callable[[Any], Row[Any]] | None = None
        self._decoders: list[Callable[[Any], Any] | None] = []

    def change(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        """Executes it for each of the rows; how many it has changed."""
        given = [self._encode(row) for row in rows]
        assert connection.in_transaction(), "whatever is written is written in `changing`"
        with driving(connection) as cursor:
            # After a pipeline, which psycopg makes of many, the server keeps the locks of a
            # connection that falls silent: the last statement of a commit is one alone.
            if len(given) == 1:
                cursor.execute(self._text, given[0])
            else:
                cursor.executemany(self._text, given)
            return cursor.rowcount

    def find(self, connection: Connection, values: Mapping[str, Any]) -> list[Row[Any]]:
        """The rows that it finds."""
        for name, keys in self._lists:
            values = {**values, **dict(zip(keys, values[name], strict=True))}
        with driving(connection) as cursor:
            cursor.execute(self._text, self._encode(values))
            found = cursor.fetchall()
            if self._make is None:
                told = cursor.description
                self._decoders = [
                    one.result_processor(connection.dialect, column[1])
                    for one, column in zip(self._types, told, strict=True)
                ]
                self._make = result_tuple([column[0] for column in told])
        decoders, make = self._decoders, self._make
        return [
            make([it if read is None else read(it) for read, it in zip(decoders, row, strict=True)])
            for row in found
        ]

    def _encode(self, values: Mapping[str, Any]) -> Any:
        given = {**self._given, **values}
        told = [given[key] if put is None else put(given[key]) for key, put in self._encoders]
        if self._is_positional:
            return told
        return {key: one for (key, _), one in zip(self._encoders, told, strict=True)}


@contextmanager
def driving(connection: Connection) -> Iterator[DBAPICursor]:
    """A cursor of the driver's own, in the connection's transaction."""
    if not connection.in_transaction():
        connection.begin()
    cursor = connection.connection.cursor()
    try:
        yield cursor
    except connection.dialect.loaded_dbapi.Error as error:
        if connection.dialect.is_disconnect(error, connection.connection, cursor):
            # As SQLAlchemy does: those beside it in the pool would each be waited for.
            connection.engine.pool._invalidate(connection.connection, error)
            connection.invalidate(error)
        raise translate(error) from None
    finally:
        cursor.close()


@lru_cache(1_024)
def _prepare(statement: Any, dialect: Dialect, shape: tuple[tuple[str, int], ...]) -> Prepared:
    values = {name: None if size < 0 else [None] * size for name, size in shape}
    return Prepared(statement, dialect, values)


def prepare(statement: Any, connection: Connection, values: Mapping[str, Any]) -> Prepared:
    """A statement that stays, of a module, for values of these names and lists of these lengths."""
    shape = [(key, len(one) if isinstance(one, list) else -1) for key, one in values.items()]
    return _prepare(statement, connection.dialect, tuple(shape))


@lru_cache
def _insertion(table: Table) -> Insert:
    return insert(table).inline()


def insert_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Inserts rows as they are."""
    prepare(_insertion(table), connection, rows[0]).change(connection, rows)


class Source:
    """One registry to read from, each read a short transaction; safe to use from any thread, but
    for one over a connection that is open."""

    def __init__(self, place: Engine | Connection, vault: Vault) -> None:
        self._place = place
        self._engine = place.engine
        self.vault = vault

    @property
    def engine(self) -> Engine:
        return self._engine

    def rows(self, query: Select[Any], **values: object) -> Sequence[Row[Any]]:
        """The rows that the query finds, for these values of its parameters."""
        with reading(self._place) as connection:
            return connection.execute(query, values).all()

    def _columns(self, query: Select[Any], **values: object) -> list[tuple[Any, ...]]:
        """The same by column, as the driver has the values and without a row object for each: of
        numbers, texts and bytes. Empty where nothing is found."""
        with reading(self._place) as connection:
            cursor = connection.execute(query, values).cursor
            assert cursor is not None, "a query has rows"
            try:
                found = cursor.fetchall()
            except self._engine.dialect.loaded_dbapi.Error as error:
                raise translate(error) from None
            return list(zip(*found, strict=True))

    def _first(self, query: Select[Any], **values: object) -> Row[Any] | None:
        return next(iter(self.rows(query, **values)), None)

    def _rows_of(
        self, statement: Select[Any], keys: Sequence[object], **values: object
    ) -> Iterator[Row[Any]]:
        wanted = dict.fromkeys(one for one in keys if one is not UNREADABLE)
        for chunk in map(list, chunks(list(wanted))):
            # Of few lengths: the last is asked for again.
            more = (1 << (len(chunk) - 1).bit_length()) - len(chunk)
            given = {"keys": chunk + chunk[-1:] * more, **values}
            with reading(self._place) as connection:
                found = prepare(statement, connection, given).find(connection, given)
            yield from found
