"""The writer's lease: one process at a time may write the gallery's registry."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from engine.errors import RegistryError, WriterBusy
from engine.registry.database import open_connection, sqlite_file, storage_errors

# Advisory locks live in one database, so a constant names the lease of its only registry.
_ADVISORY_KEY = 0x736F736965


class Lease(Protocol):
    """Held until it is released or its process dies."""

    def release(self) -> None: ...


def take_lease(engine: Engine) -> Lease:
    """Takes the lease, or raises `WriterBusy` at once."""
    path = sqlite_file(engine)
    if path is not None:
        return FileLease(path.with_name(path.name + ".lease"))
    return AdvisoryLease(engine)


class FileLease:
    """`flock` on a file beside an SQLite database, which stays there when it is released."""

    def __init__(self, path: Path) -> None:
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise RegistryError(f"{path} cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._handle, 20, 0).decode(errors="replace").strip()
            os.close(self._handle)
            raise WriterBusy(
                f"another process{f' ({holder})' if holder else ''} writes to this registry: "
                "stop it first, or send the request to it"
            ) from None
        os.truncate(self._handle, 0)
        os.pwrite(self._handle, f"pid {os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._handle)


class AdvisoryLease:
    """A session-level advisory lock of PostgreSQL, on a connection of its own."""

    def __init__(self, engine: Engine) -> None:
        with storage_errors():
            self._connection: Connection = open_connection(engine).execution_options(
                isolation_level="AUTOCOMMIT"
            )
            taken = self._connection.scalar(
                text("SELECT pg_try_advisory_lock(:key)"), {"key": _ADVISORY_KEY}
            )
        if not taken:
            self._connection.close()
            raise WriterBusy(
                "another process writes to this registry: stop it first, or send the request to it"
            )

    def release(self) -> None:
        # The server frees the lock of a session that ends, but some time later: unlocking first
        # lets the next writer in at once. Where the session is lost already, so is the lock.
        with contextlib.suppress(DBAPIError):
            self._connection.execute(
                text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_KEY}
            )
        self._connection.invalidate()
        self._connection.close()
