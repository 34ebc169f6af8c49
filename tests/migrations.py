"""Migrations recorded on the first empty database and replayed on the next ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, event

from engine.registry import store

Upgrade = Callable[[Connection], None]


class NotedMigrations:
    """Does what `upgrade` does, and on an empty database says what that said to the first one.

    The database does the same work as before; what Alembic needs besides is several times that.
    """

    def __init__(self, upgrade: Upgrade) -> None:
        self._upgrade = upgrade
        self._said: dict[str, list[tuple[str, Any]]] = {}

    def __call__(self, connection: Connection) -> None:
        dialect = connection.dialect.name
        if store.version(connection) is not None:
            self._upgrade(connection)
        elif dialect in self._said:
            for statement, parameters in self._said[dialect]:
                connection.exec_driver_sql(statement, parameters)
        else:
            self._said[dialect] = self._listen(connection)

    def _listen(self, connection: Connection) -> list[tuple[str, Any]]:
        said: list[tuple[str, Any]] = []

        def note(_: object, __: object, statement: str, parameters: Any, *___: object) -> None:
            if statement.split(maxsplit=1)[0] not in ("SELECT", "PRAGMA"):
                said.append((statement, parameters))

        event.listen(connection, "before_cursor_execute", note)
        try:
            self._upgrade(connection)
        finally:
            event.remove(connection, "before_cursor_execute", note)
        return said
