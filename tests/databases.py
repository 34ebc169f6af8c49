"""Empty PostgreSQL databases; one that a test leaves as the migrations made it is emptied."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from tests.migrations import PREPARED, prepare_postgres

_SHAPE = """
    SELECT md5(string_agg(part, ',' ORDER BY part)) FROM (
        SELECT concat_ws(' ', c.relkind, c.relname, c.reloptions, a.attnum, a.attname,
                         a.atttypid::regtype, a.attnotnull) AS part
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE a.attnum > 0 AND c.relnamespace = %(schema)s::regnamespace
        UNION ALL
        SELECT conname FROM pg_constraint WHERE connamespace = %(schema)s::regnamespace
        UNION ALL
        SELECT proname FROM pg_proc WHERE pronamespace = %(schema)s::regnamespace
        UNION ALL
        SELECT tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        WHERE NOT tgisinternal AND c.relnamespace = %(schema)s::regnamespace) AS parts
"""
_FULL = """
    SELECT string_agg(oid::regclass::text, ', ') FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND pg_relation_size(oid) > 0
"""
_END_OTHERS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


class EmptyDatabases:
    """Databases of a server that are lent to one test after another.

    To make one and to drop it costs many times what a test's rows do: 300 files.
    """

    def __init__(self, server: Any, migrate: Any) -> None:
        self._server = server
        self._free: list[str] = []
        with self._connect() as connection:
            connection.execute("CREATE DATABASE model STRATEGY file_copy")
        prepare_postgres(server.get_uri(database="model", driver="psycopg"), migrate)
        with self._connect("model") as connection:
            self._shape = connection.execute(_SHAPE, {"schema": PREPARED}).fetchone()
            version = connection.execute(f"SELECT * FROM {PREPARED}.alembic_version")
            self._version = version.fetchone()

    @contextmanager
    def lend(self) -> Iterator[str]:
        """The URL of an empty database."""
        name = self._free.pop() if self._free else self._make()
        yield self._server.get_uri(database=name, driver="psycopg")
        try:
            is_empty = self._empty(name)
        except psycopg.OperationalError:
            is_empty = False
        if is_empty:
            self._free.append(name)
        else:
            with self._connect() as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _make(self) -> str:
        name = f"sosie_{uuid.uuid4().hex}"
        with self._connect() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE model STRATEGY file_copy")
        return name

    def _empty(self, name: str) -> bool:
        """False where that is no registry of this version."""
        with self._connect(name) as connection:
            connection.execute(_END_OTHERS)
            made = "SELECT to_regnamespace(%s) IS NULL"
            if connection.execute(made, [PREPARED]).fetchone() != (True,):
                connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
                return True
            if connection.execute(_SHAPE, {"schema": "public"}).fetchone() != self._shape:
                return False
            (full,) = connection.execute(_FULL).fetchone()
            connection.execute(f"TRUNCATE {full} RESTART IDENTITY CASCADE")
            connection.execute("INSERT INTO alembic_version VALUES (%s)", self._version)
            connection.execute(f"ALTER SCHEMA public RENAME TO {PREPARED}; CREATE SCHEMA public")
        return True

    def _connect(self, database: str | None = None) -> Any:
        given = {} if database is None else {"database": database}
        return psycopg.connect(self._server.get_uri(**given), autocommit=True)
