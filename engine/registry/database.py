"""Connections to SQLite or PostgreSQL, the schema that they must have, transactions and errors."""

import os
import re
import secrets
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from functools import lru_cache, partial
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlalchemy import (
    URL,
    BindParameter,
    ColumnElement,
    Connection,
    Date,
    Dialect,
    Engine,
    Executable,
    Insert,
    Row,
    Select,
    String,
    Table,
    bindparam,
    create_engine,
    event,
    insert,
    inspect,
    make_url,
)
from sqlalchemy.engine import result_tuple
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.types import TypeDecorator

from engine.errors import (
    RegistryError,
    RegistryMissing,
    RowRefused,
    SchemaMismatch,
    StorageFailed,
    StorageFull,
    advise_extra,
    file_errors,
)
from engine.registry.vault import Vault
from indexes.atomic_files import flush

_ID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def new_untimed_id() -> str:
    """A fresh UUID without a moment, for what must not tell since when it is there: a document has
    a row once somebody looks like who showed it, and a tenant sees its id with an approval."""
    return str(uuid.uuid4())


def new_id() -> str:
    """A fresh UUID, version 7 (RFC 9562): ids made one after another lie together in an index."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | secrets.randbits(80)
    value = value & ~(0xF << 76) | (0x7 << 76)
    return str(uuid.UUID(int=value & ~(0x3 << 62) | (0x2 << 62)))


def is_id(text: str) -> bool:
    """True for a text in the form of `new_id`."""
    return _ID.fullmatch(text) is not None


def utc_now() -> datetime:
    """The moment, timezone-aware."""
    return datetime.now(UTC)


Json = Mapping[str, Any]
AnyRow = Row[Any]
Query = Select[Any]
Condition = ColumnElement[bool]
Progress = Callable[[int, int], object]
"""Hears now and then how much is done, and of how much."""


def untold(_done: int, _total: int) -> None:
    """Progress that nobody hears of."""


REVISIONS = tuple(f"{number:04}" for number in range(1, 29))
"""Every revision this version knows, oldest first; the last is the one it works with."""

BUSY_TIMEOUT_MS = 10_000
PAGE_BYTES, LARGE_PAGE_BYTES = 4_096, 16_384
"""Of SQLite. A commit of 32 decisions among a million holders writes 2.2 MB with small pages, and
6.8 MB with large ones; but on a small one there is room for one template of 512 floats only, and
the other half stays empty."""
LARGE_FROM_DIM = 257
CHUNK_ROWS = 500
"""How many values one IN list holds."""

_FULL = frozenset({"SQLITE_FULL", "53100"})
_OF_A_ROW = ("SQLITE_CONSTRAINT", "SQLITE_TOOBIG", "SQLITE_MISMATCH", "22", "23")
"""How the codes of errors begin that a row is to blame for; the last two are of PostgreSQL."""
_DRIVERS = {("sqlite", "pysqlite"), ("postgresql", "psycopg")}
_Item = TypeVar("_Item")


def connect(url: str, dim: int = 0) -> Engine:
    """An engine for `sqlite:////path/to/file` or `postgresql+psycopg://…`; opens nothing yet.
    `dim`: of the templates of a new registry; one that is there keeps its pages."""
    parsed = parse(url)
    if parsed.get_backend_name() == "sqlite":
        page_bytes = LARGE_PAGE_BYTES if dim >= LARGE_FROM_DIM else PAGE_BYTES
        engine = create_engine(
            parsed, hide_parameters=True, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}, **_JSON
        )
        event.listen(engine, "connect", partial(_prepare_sqlite, page_bytes))
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        from engine.registry import postgresql  # noqa: PLC0415 - an extra

        return postgresql.connect_postgresql(parsed, **_JSON)
    except ModuleNotFoundError:
        raise RegistryError(
            f"the database's driver is not installed: {advise_extra('postgres')} "
            "and use postgresql+psycopg://user@host/database"
        ) from None


@contextmanager
def connected(url: str) -> Iterator[Engine]:
    """`connect`, and no connection is left when the block ends."""
    engine = connect(url)
    try:
        yield engine
    finally:
        engine.dispose()


def parse(url: str) -> URL:
    """The URL, if it names a database that the registry can live in."""
    try:
        parsed = make_url(url)
        dialect = parsed.get_dialect()
        known = (dialect.name, dialect.driver) in _DRIVERS
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
def reading(place: Engine | Connection) -> Iterator[Connection]:
    """A connection for a short read: one of an engine, or the one that is open."""
    opened = open_connection(place) if isinstance(place, Engine) else nullcontext(place)
    with storage_errors(), opened as connection:
        yield connection


@contextmanager
def reading_often(place: Engine | Connection) -> Iterator[Connection]:
    """A connection for many short reads, one after the other, which are not of one state.

    On SQLite there is no transaction around them: nobody who writes waits between two of them. On
    PostgreSQL there is one, which may pause between two reads for as long as a search takes.
    """
    with reading(place) as plain:
        connection = plain.execution_options(begins=None)
        if connection.dialect.name == "postgresql":
            from engine.registry import postgresql  # noqa: PLC0415 - an extra

            postgresql.allow_pauses(connection)
        try:
            yield connection
        finally:
            connection.rollback()


def version(connection: Connection) -> str | None:
    """The revision that the database is at; `None` where there is no registry."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision = connection.exec_driver_sql(_VERSION).scalar()
    return None if revision is None else str(revision)


def require_known(connection: Connection) -> str:
    """The revision of a registry; refuses a database without one, or of a newer version."""
    found = version(connection)
    if found is None:
        raise RegistryMissing("this database holds no registry: run sosie init")
    if found not in REVISIONS:
        raise SchemaMismatch(
            f"the registry's schema {found} is newer than this version of Sosie knows "
            f"({REVISIONS[-1]}): install the version that made it"
        )
    return found


def check(connection: Connection) -> None:
    """Refuses a database whose schema is not the one this version works with."""
    found = require_known(connection)
    if found != REVISIONS[-1]:
        raise SchemaMismatch(
            f"the registry's schema {found} is older than {REVISIONS[-1]}: run sosie upgrade"
        )


_VERSION = "SELECT version_num FROM alembic_version"
# On PostgreSQL an upgrade waits until those who write have come to their end, and who comes later
# waits for it, and reads what it has left. On SQLite one transaction writes at a time.
_WRITING = "SELECT version_num, {limit} FROM alembic_version FOR KEY SHARE"


@contextmanager
def changing(place: Engine | Connection) -> Iterator[Connection]:
    """A write transaction, kept when the block ends and undone when it raises; on a connection that
    stays open, or on one of an engine. Whatever is written to a registry is written in one.

    `SchemaMismatch`, with nothing written, where a process of another version has upgraded the
    registry since this one opened it.
    """
    with restructuring(place) as connection:
        query = _VERSION
        if connection.dialect.name == "postgresql":
            from engine.registry import postgresql  # noqa: PLC0415 - an extra

            query = _WRITING.format(limit=postgresql.bounded(postgresql.TRANSACTION_S))
        found = connection.exec_driver_sql(query).scalar()
        if found != REVISIONS[-1]:
            raise SchemaMismatch(
                f"the registry was brought to schema {found} since this process opened it: "
                "start it again, with the version of Sosie that did so"
            )
        yield connection


@contextmanager
def restructuring(place: Engine | Connection) -> Iterator[Connection]:
    """`changing`, for whatever makes a registry or upgrades one: of no schema yet, or of an older.

    On SQLite it takes the write lock at once: a transaction that reads first and writes later
    could not wait for another writer any more.
    """
    keep_journal(place.engine)
    opened = open_connection(place) if isinstance(place, Engine) else nullcontext(place)
    with storage_errors(), opened as plain:
        connection = plain.execution_options(begins="BEGIN IMMEDIATE")
        with connection.begin():
            yield connection


def hold_schema(connection: Connection) -> str:
    """The revision of a registry that is to be upgraded, which nobody writes to until the caller's
    transaction ends."""
    found = require_known(connection)
    if connection.dialect.name != "sqlite":
        found = str(connection.exec_driver_sql(f"{_VERSION} FOR UPDATE").scalar())
    return found


def change_one(connection: Connection, statement: Executable, values: Mapping[str, Any]) -> None:
    """Executes what must change one row; `RowRefused` where it changes another number of them."""
    if connection.execute(statement, values).rowcount != 1:
        raise RowRefused(
            "a row to be changed is not there or was changed before; nothing was kept: "
            "read it again"
        )


@contextmanager
def long_statements(connection: Connection) -> Iterator[None]:
    """Meanwhile statements over whole tables may take their time: PostgreSQL ends others soon."""
    if connection.dialect.name == "sqlite":
        yield
        return
    from engine.registry import postgresql  # noqa: PLC0415 - an extra

    with postgresql.long_statements(connection):
        yield


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turns what the driver raises into the engine's errors, without values of any row."""
    try:
        yield
    except DBAPIError as error:
        raise translate(error.orig) from None
    except PoolTimeout:
        raise StorageFailed("every database connection is taken: try again later") from None


def chunks(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """The items in runs that fit an IN list."""
    for start in range(0, len(items), CHUNK_ROWS):
        yield items[start : start + CHUNK_ROWS]


def plain_value(value: Any) -> Any:
    """A value of a kind made of the encoder's own, such as a number of numpy's, as one of those."""
    if isinstance(value, datetime):
        return datetime.combine(value.date(), value.timetz())
    for kind, plain in ((Integral, int), (float, float), (str, str)):
        if isinstance(value, kind):
            return plain(value)
    raise TypeError(f"a row cannot hold a {type(value).__name__}")


class Unreadable(Enum):
    """The value read in place of a stored value that damage has made none of its column's: an error
    would stop the reading of all other rows. No row with one authenticates."""

    UNREADABLE = "unreadable"


UNREADABLE = Unreadable.UNREADABLE
AHEAD = timedelta(hours=1)
"""A stored moment that lies further ahead is of a clock that was."""


def _read_text(stored: bytes) -> str | Unreadable:
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return UNREADABLE


def _read_json(stored: str | bytes | Unreadable) -> Any:
    try:
        return msgspec.json.decode(stored)  # type: ignore[arg-type]
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError):
        return UNREADABLE


_encode_json = msgspec.json.Encoder(enc_hook=plain_value).encode
_JSON = {
    # Five times as quick as the json module, which would be a tenth of a decision's time.
    "json_serializer": lambda value: _encode_json(value).decode(),
    "json_deserializer": _read_json,
}


def _prepare_sqlite(page_bytes: int, connection: sqlite3.Connection, _record: object) -> None:
    # The driver must begin nothing of its own accord: it would begin late, and not immediately.
    connection.isolation_level = None
    for pragma in (
        # Of a new database; one that is there keeps its own.
        f"page_size = {page_bytes}",
        "journal_mode = PERSIST",
        "synchronous = EXTRA",
        "foreign_keys = ON",
        "secure_delete = ON",
        # What would spill into temporary files is in no file that we can overwrite.
        "temp_store = MEMORY",
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
    ):
        try:
            connection.execute(f"PRAGMA {pragma}")
        except UnicodeDecodeError:
            # What SQLite says of a damaged schema quotes it.
            raise sqlite3.DatabaseError("the schema is damaged") from None
    connection.text_factory = _read_text


_flushed_journals: dict[Path, int] = {}
"""Rollback journals whose place in their folder is on the disk, with their inodes."""
_JOURNAL_BYTES = 2**20
"""So much of a journal stays after it was overwritten: all of it is written each time."""


def keep_journal(engine: Engine) -> None:
    """Makes SQLite's rollback journal where there is none, and flushes its folder.

    SQLite does the same, but does not look whether the flush has failed: a power cut would then
    find a half-written database without its journal. Made once, the journal stays, so that no
    commit depends on the folder.
    """
    path = journal_of(engine)
    if path is None:
        return
    try:
        try:
            inode = path.stat().st_ino
        except FileNotFoundError:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            # A file system gives the number of one that was deleted to the next.
            _flushed_journals.pop(path, None)
            inode = path.stat().st_ino
        if _flushed_journals.get(path) != inode:
            flush(path.parent)
            _flushed_journals[path] = inode
    except OSError as error:
        raise StorageFailed(
            f"{path} cannot be kept ({error.strerror}); nothing was stored: check the disk"
        ) from None


def overwrite_journal(engine: Engine) -> None:
    """Overwrites what SQLite's rollback journal still has of pages as they were before."""
    path = journal_of(engine)
    if path is None:
        return
    # Nobody else writes while the write lock is held, and this transaction has no use for it.
    with (
        restructuring(engine),
        file_errors(f"{path} cannot be overwritten", StorageFailed),
        os.fdopen(os.open(path, os.O_WRONLY), "wb", 0) as file,
    ):
        size = os.fstat(file.fileno()).st_size
        for start in range(0, size, _JOURNAL_BYTES):
            os.pwrite(file.fileno(), bytes(min(_JOURNAL_BYTES, size - start)), start)
        os.fsync(file.fileno())
        if size > _JOURNAL_BYTES:
            file.truncate(_JOURNAL_BYTES)


def journal_of(engine: Engine) -> Path | None:
    """The file of SQLite's rollback journal; `None` on PostgreSQL."""
    path = sqlite_file(engine)
    return None if path is None else path.with_name(f"{path.name}-journal")


def write_something(connection: Connection) -> None:
    """Makes a transaction one that SQLite has to write.

    After a commit that failed, what SQLite reads may be in the page cache alone. A later commit
    that passes stands on it: the database was flushed before the journal was given up, and the
    journal is then written and flushed anew.
    """
    # Written whether or not it changes, unlike a row.
    connection.exec_driver_sql("PRAGMA user_version = 0")


def _begin_sqlite(connection: Connection) -> None:
    begins = connection.get_execution_options().get("begins", "BEGIN")
    if begins is not None:
        connection.exec_driver_sql(begins)


def translate(cause: BaseException | None) -> StorageFailed:
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
    kind = RowRefused if name.startswith(_OF_A_ROW) else StorageFailed
    return kind(f"the database refused the transaction ({name}{broken}); nothing of it was kept")


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
        return value.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"

    def process_result_value(self, value: Any, _: Dialect) -> Any:
        try:
            return None if value is None else datetime.fromisoformat(value)
        except (ValueError, TypeError):
            return UNREADABLE


class Day(TypeDecorator[date]):
    """A date."""

    impl = Date
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        read = super().result_processor(dialect, coltype)
        if read is None:
            return None

        def attempt(value: Any) -> Any:
            try:
                return read(value)
            except (ValueError, TypeError):
                return UNREADABLE

        return attempt


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
        self._make: Callable[[Any], AnyRow] | None = None
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

    def find(self, connection: Connection, values: Mapping[str, Any]) -> list[AnyRow]:
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

    def rows(self, query: Query, **values: object) -> Sequence[AnyRow]:
        """The rows that the query finds, for these values of its parameters."""
        with reading(self._place) as connection:
            return connection.execute(query, values).all()

    def _columns(self, query: Query, **values: object) -> list[tuple[Any, ...]]:
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

    def _first(self, query: Query, **values: object) -> AnyRow | None:
        return next(iter(self.rows(query, **values)), None)

    def _rows_of(
        self, statement: Query, keys: Sequence[object], **values: object
    ) -> Iterator[AnyRow]:
        wanted = dict.fromkeys(one for one in keys if one is not UNREADABLE)
        for chunk in map(list, chunks(list(wanted))):
            # Of few lengths: the last is asked for again.
            more = (1 << (len(chunk) - 1).bit_length()) - len(chunk)
            given = {"keys": chunk + chunk[-1:] * more, **values}
            with reading(self._place) as connection:
                found = prepare(statement, connection, given).find(connection, given)
            yield from found
