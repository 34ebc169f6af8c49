"""Settings for every test, and real databases."""

import ctypes
import gc
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from sqlalchemy import Connection, Engine, event
from sqlalchemy.util import LRUCache

# Before numpy and faiss are loaded, and for the processes that tests start as well: threads that
# spin while they wait take the cores from the tests beside them, and training an index then takes
# twenty times as long. Where tests share the cores, one thread of each multiplies.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# CI asks the same questions each time, so that a landing does not depend on chance; a developer's
# runs go on looking for new ones.
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("local", deadline=None, max_examples=50)
settings.load_profile("ci" if os.environ.get("CI") else "local")


LONGEST = "tests/serving/webhooks/test_delivery.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest comes first: beside others, where tests share the cores."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


def pytest_collection_finish() -> None:
    """What was collected stays to the end: no collection of garbage looks at it again."""
    gc.freeze()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL server of this session's own, on a socket only; stopped and gone at the end."""
    from bench.standby import start_server

    # Not pytest's own folder: as root the server runs as another user, who must reach it. In memory
    # where there is room: a database is 300 files.
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > 4 * 2**30
    with start_server(memory if has_room else None) as server:
        # Tests kill its clients and never the machine, which is all that these are for.
        for setting in ("fsync", "full_page_writes", "autovacuum"):
            server.psql(f"ALTER SYSTEM SET {setting} = off;")
        server.psql("SELECT pg_reload_conf();")
        yield server


@pytest.fixture(scope="session")
def databases(postgres, migrate) -> Any:
    from tests.databases import EmptyDatabases

    return EmptyDatabases(postgres, migrate)


@pytest.fixture
def postgres_url(databases) -> Iterator[str]:
    """An empty PostgreSQL database for this test."""
    with databases.lend() as url:
        yield url


JOBS = ("anchor", "audit-export", "erasures", "lifecycle", "line-steps", "retention", "webhooks")
SHARED = ("asyncio", "decoder", "extract", "readiness", "reseal", "scan", "PythonGC", "ray_", *JOBS)
"""Pools of a process, and pools and jobs of a service or a cluster that tests share: their threads
come when there is work, or when it is ready."""


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """What a test starts has come to its end with it."""
    before = set(threading.enumerate())
    yield
    left = [one for one in threading.enumerate() if one not in before]
    # One that is only about to start belongs to what is shared, and cannot be joined.
    left = [one for one in left if one.is_alive() and not one.name.startswith(SHARED)]
    for thread in left:
        thread.join(60)
    assert not [one.name for one in left if one.is_alive()]


LIBC = ctypes.CDLL(None)


@pytest.fixture(scope="module", autouse=True)
def freed_memory_is_given_back() -> Iterator[None]:
    """glibc keeps what was freed: after some hundred services a worker of tests held gigabytes."""
    yield
    getattr(LIBC, "malloc_trim", int)(0)


class Statements(LRUCache[Any, Any]):
    """Compiled statements by the kind of their database: the engines of a kind are made alike."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get((type(key[0]), *key[1:]), default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__((type(key[0]), *key[1:]), value)


STATEMENTS = Statements(2000)


@event.listens_for(Engine, "engine_connect")
def share_statements(connection: Connection) -> None:
    """Each test has engines of its own; compiling anew for each took a third of their time."""
    connection.execution_options(compiled_cache=STATEMENTS)


@pytest.fixture(scope="session", autouse=True)
def migrate() -> Iterator[Any]:
    """`migrate(connection)`: the migrations themselves. Wherever else a registry is made, it gets
    what they left in the first one: there are hundreds."""
    from engine.registry import store
    from tests.migrations import NotedMigrations

    upgrade = store.upgrade_schema
    store.upgrade_schema = NotedMigrations(upgrade)
    yield upgrade
    store.upgrade_schema = upgrade
