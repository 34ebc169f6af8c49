"""Rows that a test has altered by SQL, vouched for again as if they had been written so."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import Engine, select

from engine.registry.database import changing
from engine.registry.rows import write_macs
from engine.registry.store import authenticated_tables
from engine.registry.vault import Vault


def vouch(engine: Engine, vault: Vault) -> None:
    """Gives every row the code of what it holds now."""
    with changing(engine) as connection:
        for table in authenticated_tables():
            write_macs(connection, vault, table, connection.execute(select(table)).all())


def alter(home: Path, *statements: str) -> None:
    """Changes the database of a home behind its back."""
    with closing(sqlite3.connect(home / "registry.sqlite")) as database, database:
        for statement in statements:
            assert database.execute(statement).rowcount > 0
