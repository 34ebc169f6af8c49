"""What the migrations make of an empty database, kept and made again without them."""

from collections.abc import Callable

from sqlalchemy import Connection, create_engine

from engine.registry.database import version

Upgrade = Callable[..., None]

PREPARED = "prepared"
"""Schema of a PostgreSQL database that is copied: what the migrations leave behind."""


class NotedMigrations:
    """Does what `upgrade` does, and on an empty database what that left on the first one.

    Every step since the first costs many times what they leave. SQLite is told the tables that
    there are at last; on PostgreSQL a schema that was copied with the database gets its name.
    """

    def __init__(self, upgrade: Upgrade) -> None:
        self._upgrade = upgrade
        self._dump: list[str] = []

    def __call__(self, connection: Connection, *last: str) -> None:
        is_sqlite = connection.dialect.name == "sqlite"
        if last or version(connection) is not None:
            self._upgrade(connection, *last)
        elif is_sqlite and self._dump:
            for statement in self._dump:
                connection.connection.execute(statement)
        elif is_sqlite:
            self._upgrade(connection)
            database = connection.connection.driver_connection
            # Without BEGIN and COMMIT around it.
            self._dump = list(database.iterdump())[1:-1]
        elif _has_prepared(connection):
            connection.exec_driver_sql("DROP SCHEMA public")
            connection.exec_driver_sql(f"ALTER SCHEMA {PREPARED} RENAME TO public")
        else:
            self._upgrade(connection)


def prepare_postgres(url: str, upgrade: Upgrade) -> None:
    """Leaves an empty schema `public` and, beside it, what the migrations make of one."""
    engine = create_engine(url)
    with engine.begin() as connection:
        upgrade(connection)
        connection.exec_driver_sql(f"ALTER SCHEMA public RENAME TO {PREPARED}")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()


def _has_prepared(connection: Connection) -> bool:
    found = connection.exec_driver_sql(f"SELECT to_regnamespace('{PREPARED}') IS NOT NULL")
    return bool(found.scalar())
