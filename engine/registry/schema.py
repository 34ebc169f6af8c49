"""The schema's version: made, checked and upgraded through the migrations beside this file."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from engine.errors import RegistryMissing, SchemaMismatch

REVISIONS = ("0001", "0002", "0003", "0004", "0005")
"""Every revision this version knows, oldest first; the last is the one it works with."""

_MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(connection: Connection) -> None:
    """Brings an empty or older database to the newest schema, inside the caller's transaction."""
    # Alembic is slow to import, and only this function needs it.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def version(connection: Connection) -> str | None:
    """The revision that the database is at; `None` where there is no registry."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return None if revision is None else str(revision)


def check(connection: Connection) -> None:
    """Refuses a database whose schema is not the one this version works with."""
    found = version(connection)
    if found is None:
        raise RegistryMissing("this database holds no registry: run sosie init")
    if found not in REVISIONS:
        raise SchemaMismatch(
            f"the registry's schema {found} is newer than this version of Sosie knows "
            f"({REVISIONS[-1]}): install the version that made it"
        )
    if found != REVISIONS[-1]:
        raise SchemaMismatch(
            f"the registry's schema {found} is older than {REVISIONS[-1]}: run sosie upgrade"
        )
