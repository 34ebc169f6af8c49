from __future__ import annotations

import pytest

from engine.registry.store import Store
from engine.registry.writer import Writer
from tests.engine.sweeps.synthetic_registry import Town


@pytest.fixture
def town(store: Store, writer: Writer) -> Town:
    """An empty one, on SQLite and on PostgreSQL."""
    return Town.of(store, writer)
