"""Connections to SQLite or PostgreSQL, their transactions and errors, and batched reads."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    URL,
    BindParameter,
    Connection,
    Dialect,
    Engine,
    Row,
    Select,
    String,
    bindparam,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.types import TypeDecorator

from engine.errors import RegistryError, StorageFailed, StorageFull, advise_extra
from engine.registry.vault import Vault

BUSY_TIMEOUT_MS = 10_000
CHUNK_ROWS = 500
"""How many values one IN list holds."""

_FULL = frozenset({"SQLITE_FULL", "53100"})
_Item = TypeVar("_Item")


def connect(url: str) -> Engine:
    """An engine for `sqlite:////path/to/file` or `postgresql+psycopg://…`; opens nothing yet."""
    parsed = parse(url)
    if parsed.get_backend_name() == "sqlite":
        return _connect_sqlite(parsed)
    try:
        engine = create_engine(parsed, hide_parameters=True, pool_pre_ping=True)
    except ModuleNotFoundError:
        raise RegistryError(
            f"the database's driver is not installed: {advise_extra('postgres')} "
            "and use postgresql+psycopg://user@host/database"
        ) from None
    event.listen(engine, "connect", _prepare_postgresql)
    return engine


def parse(url: str) -> URL:
    """The URL, if it names a database that the registry can live in."""
    try:
        parsed = make_url(url)
        known = parsed.get_dialect().name in {"sqlite", "postgresql"}
    except (ArgumentError, NoSuchModuleError, ImportError):
        known = False
    if not known:
        raise RegistryError(
            "not a database URL: use sqlite:////folder/registry.db or "
            "postgresql+psycopg://user@host/database"
        )
    if parsed.get_backend_name() == "sqlite" and parsed.database in {None, "", ":memory:"}:
        raise RegistryError("a registry is a file: use sqlite:////folder/registry.db")
    return parsed


def sqlite_file(engine: Engine) -> Path | None:
    """The file of an SQLite database; `None` on PostgreSQL."""
    if engine.dialect.name != "sqlite":
        return None
    assert engine.url.database is not None
    return Path(engine.url.database)


def open_connection(engine: Engine) -> Connection:
    """A connection that works, or `StorageFailed` with what to check."""
    with storage_errors():
        try:
            return engine.connect()
        except DBAPIError as error:
            raise StorageFailed(
                f"the database cannot be opened ({_error_name(error.orig)}): "
                "check its URL and that it runs"
            ) from None


@contextmanager
def reading(engine: Engine, *, locking: bool = False) -> Iterator[Connection]:
    """A connection for a short read; `locking` reads behind SQLite's write lock."""
    with storage_errors(), open_connection(engine) as connection:
        yield connection.execution_options(immediate=locking)


@contextmanager
def changing(engine: Engine) -> Iterator[Connection]:
    """A write transaction, kept when the block ends and undone when it raises.

    On SQLite it takes the write lock at once: a transaction that reads first and writes later
    could not wait for another writer any more.
    """
    with storage_errors(), open_connection(engine) as plain:
        connection = plain.execution_options(immediate=True)
        with connection.begin():
            yield connection


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turns what the driver raises into the engine's errors, without values of any row."""
    try:
        yield
    except DBAPIError as error:
        raise _translate(error.orig) from None
    except PoolTimeout:
        raise StorageFailed("every database connection is taken: try again later") from None


def chunks(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """The items in runs that fit an IN list."""
    for start in range(0, len(items), CHUNK_ROWS):
        yield items[start : start + CHUNK_ROWS]


def _connect_sqlite(url: URL) -> Engine:
    engine = create_engine(
        url, hide_parameters=True, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver must begin nothing of its own accord: it would begin late, and not immediately.
    connection.isolation_level = None
    for pragma in (
        "journal_mode = DELETE",
        "synchronous = EXTRA",
        "foreign_keys = ON",
        "secure_delete = ON",
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _prepare_postgresql(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = on")
        cursor.execute(f"SET lock_timeout = {BUSY_TIMEOUT_MS}")
    connection.commit()


def _translate(cause: BaseException | None) -> StorageFailed:
    # A driver's own message may quote the row; its code and the constraint's name do not.
    name = _error_name(cause)
    if name in _FULL:
        return StorageFull(
            f"the database has no room left ({name}): free space, then send the request again"
        )
    constraint = getattr(getattr(cause, "diag", None), "constraint_name", None)
    if constraint is None and name.startswith("SQLITE_CONSTRAINT"):
        constraint = str(cause).partition(": ")[2]
    broken = f", {constraint}" if constraint else ""
    return StorageFailed(
        f"the database refused the transaction ({name}{broken}); nothing of it was kept"
    )


def _error_name(cause: BaseException | None) -> str:
    state = getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None)
    return str(state or type(cause).__name__)


class Moment(TypeDecorator[datetime]):
    """An aware datetime as UTC text of one width, so that both databases keep it to the
    microsecond and sort it by time."""

    impl = String(27)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _: Dialect) -> str | None:
        if value is None:
            return None
        assert value.tzinfo is not None, "moments are timezone-aware"
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def process_result_value(self, value: str | None, _: Dialect) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value)


KEYS: BindParameter[Any] = bindparam("keys", expanding=True)
"""Stands in a query for the keys that `Source._rows_of` asks it for."""


class Source:
    """One registry to read from, each read a short transaction; safe to use from any thread."""

    def __init__(self, engine: Engine, vault: Vault) -> None:
        self._engine = engine
        self.vault = vault

    def rows(self, query: Select[Any], **values: object) -> Sequence[Row[Any]]:
        """What the query finds, for these values of its parameters."""
        with reading(self._engine) as connection:
            return connection.execute(query, values).all()

    def _first(self, query: Select[Any], **values: object) -> Row[Any] | None:
        return next(iter(self.rows(query, **values)), None)

    def _rows_of(
        self, statement: Select[Any], keys: Sequence[object], **values: object
    ) -> Iterator[Row[Any]]:
        for chunk in chunks(list(dict.fromkeys(keys))):
            yield from self.rows(statement, keys=chunk, **values)
