"""An empty registry for every test below, on SQLite and PostgreSQL alike."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.registry.accounts import Carrier
from engine.registry.keyring import KeyRing
from engine.registry.store import Store
from engine.registry.vault import Vault
from engine.registry.writer import Writer

DIM = 32
MODEL = "sha256:model-of-the-tests"


@pytest.fixture
def sqlite_url(tmp_path) -> str:
    """Where a new SQLite registry may be made."""
    return f"sqlite:///{tmp_path}/registry.db"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request) -> str:
    """An empty database of each kind in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def key_ring() -> KeyRing:
    return KeyRing.generate()


@pytest.fixture
def vault(key_ring) -> Vault:
    return Vault(key_ring, DIM)


@pytest.fixture
def store(database_url, vault) -> Iterator[Store]:
    """A registry with two carriers: `red` with the outlets r1 and r2, `blue` with b1."""
    with Store.create(database_url, vault, model_digest=MODEL) as made:
        made.add_carrier(Carrier("red", "Red Mobile"), actor="test")
        made.add_carrier(Carrier("blue", "Blue Mobile", line_limit=2), actor="test")
        for code, carrier in (("r1", "red"), ("r2", "red"), ("b1", "blue")):
            made.add_outlet(code, carrier, actor="test")
        yield made


@pytest.fixture
def writer(store) -> Iterator[Writer]:
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
