import pytest

from engine.registry.store import Store
from engine.registry.writer import Writer
from tests.engine.sweeps.synthetic_registry import SyntheticRegistry


@pytest.fixture
def registry(store: Store, writer: Writer) -> SyntheticRegistry:
    """An empty registry, on SQLite and on PostgreSQL."""
    return SyntheticRegistry.of(store, writer)
