import pytest

from tests.engine.sweeps.synthetic_registry import SyntheticRegistry


@pytest.fixture
def registry(store, writer) -> SyntheticRegistry:
    """An empty registry, on SQLite and on PostgreSQL."""
    return SyntheticRegistry.of(store, writer)
