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
        *("cases/test_decided.py", "cases/test_opening.py", "cases/test_sweep_cases.py"),
        *("imports/test_resumption.py", "imports/test_row_faces.py", "matching/test_authority.py"),
        *("lifecycle/test_sim_changes.py", "matching/test_bulk_enrollment.py"),
        *("matching/test_frames.py", "matching/test_holders.py", "matching/test_judge.py"),
        *("matching/test_lines.py", "matching/test_recovery.py", "matching/test_requests.py"),
        *("matching/test_registrar_queue.py", "matching/test_searching_ahead.py"),
        *("matching/test_shard_recovery.py", "matching/test_verification.py"),
        *("sweeps/test_reload.py", "sweeps/test_sweep_run.py"),
    }
)
"""Files that ask what is decided: every statement of theirs goes to both databases in others."""
ON_BOTH = {
    "cases/test_steps.py": "assigned_reassigned decided_fraud_is_in_the_queue what_people_do",
    "imports/test_import_run.py": "damaged_rows a_blocked_document an_erasure_leaves held_for_a",
    "lifecycle/test_reverification.py": "ported_out cannot_be_is_refused ends_a_suspension",
    "retention/test_attempts.py": "without_a_case of_either_kind a_block_outlives went_into",
    "retention/test_certificates.py": "that_is_back under_a_broken_chain",
    "retention/test_job.py": "a_preview an_open_case_keeps at_its_moment what_an_open_case",
}
"""Of other such files the tests, by a part of their names, that send statements of their own."""
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
    file = item.path.relative_to(HERE).as_posix()
    own = ON_BOTH.get(file, "").split()
    return file in ON_SQLITE or (bool(own) and not any(one in item.name for one in own))


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
