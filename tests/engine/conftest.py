"""An empty registry for every test below, on SQLite and, where it asks of databases, PostgreSQL."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.registry.accounts import Carrier
from engine.registry.keyring import KeyRing
from engine.registry.store import Store
from engine.registry.vault import Vault
from engine.registry.writer import Writer

HERE = Path(__file__).parent
ON_SQLITE = frozenset(
    {
        *("cases/test_decided.py", "cases/test_opening.py", "cases/test_steps.py"),
        *("cases/test_sweep_cases.py", "imports/test_import_run.py", "imports/test_resumption.py"),
        *("imports/test_row_faces.py", "lifecycle/test_reverification.py"),
        *("matching/test_authority.py", "matching/test_bulk_enrollment.py"),
        *("retention/test_attempts.py", "retention/test_certificates.py", "retention/test_job.py"),
        *("matching/test_frames.py", "matching/test_holders.py", "matching/test_judge.py"),
        *("matching/test_lines.py", "matching/test_recovery.py", "matching/test_requests.py"),
        *("matching/test_registrar_queue.py", "matching/test_searching_ahead.py"),
        *("matching/test_shard_recovery.py", "matching/test_verification.py"),
        *("sweeps/test_reload.py", "sweeps/test_sweep_run.py"),
    }
)
"""Files that ask what is decided: every statement of theirs goes to both databases in others, but
for those of tests that say so: `@pytest.mark.both_databases`."""
DIM = 32
MODEL = "sha256:model-of-the-tests"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    again = {one for one in items if is_asked_twice(one)}
    config.hook.pytest_deselected(items=[*again])
    items[:] = [one for one in items if one not in again]


def is_asked_twice(item: pytest.Item) -> bool:
    if not (item.path.is_relative_to(HERE) and isinstance(item, pytest.Function)):
        return False
    chosen = item.callspec.params if hasattr(item, "callspec") else {}
    if chosen.get("database_url") != "postgres":
        return False
    is_named = item.path.relative_to(HERE).as_posix() in ON_SQLITE
    return is_named and item.get_closest_marker("both_databases") is None


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
