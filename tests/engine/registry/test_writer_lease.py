import os
import signal
import subprocess
from collections.abc import Callable

import pytest
from sqlalchemy import text

from engine.errors import LeaseLost, WriterBusy
from engine.registry import audit
from engine.registry.store import Store
from tests.engine.registry.conftest import ENTRY, MODEL, take_when_free

TAKE_THE_LEASE = """
import sys, time
from pathlib import Path
from engine.errors import WriterBusy
from engine.registry.keyring import KeyRing
from engine.registry.store import Store
from engine.registry.vault import Vault

url, ring, dim, model = sys.argv[1:]
store = Store.open(url, Vault(KeyRing.load(Path(ring)), int(dim)), model_digest=model)
try:
    writer = store.writer()
    print("taken")
    time.sleep(60)
except WriterBusy as error:
    print("busy:", error)
"""

Child = subprocess.Popen[str]


@pytest.fixture
def rival(
    in_child: Callable[..., Child], database_url, key_ring, vault, tmp_path
) -> Callable[[], Child]:
    """Starts another process that wants to write to the same registry."""
    path = tmp_path / "keys.json"
    key_ring.save(path)
    return lambda: in_child(TAKE_THE_LEASE, database_url, str(path), str(vault.dim), MODEL)


def depose(store: Store) -> None:
    """Takes the lease away behind its holder's back: the file, or the server's session."""
    if store._engine.dialect.name == "sqlite":
        os.unlink(f"{store._engine.url.database}.lease")
        return
    with store._engine.connect() as connection:
        # Until it has ended, for 60 s at most: told alone, it may hold the lock a moment longer.
        end = "SELECT pg_terminate_backend(pid, 60000) FROM pg_locks WHERE locktype = 'advisory'"
        assert all(row[0] for row in connection.execute(text(end)).all() or [(False,)])


def test_second_writer_in_another_process_is_refused_at_once(store, writer, rival) -> None:
    with rival() as child:
        answer = child.communicate(timeout=120)[0]
    assert answer.startswith("busy: another process")
    assert answer.count("\n") == 1
    writer.commit([ENTRY])


def test_second_writer_in_the_same_process_is_refused(store, writer, database_url) -> None:
    with pytest.raises(WriterBusy):
        store.writer()
    with (
        Store.open(database_url, store.vault, model_digest=MODEL) as again,
        pytest.raises(WriterBusy),
    ):
        again.writer()


def test_writer_of_a_killed_process_is_replaced(store, rival) -> None:
    with rival() as child:
        assert child.stdout.readline() == "taken\n"
        with pytest.raises(WriterBusy):
            store.writer()
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=120)
    writer = take_when_free(store)
    writer.commit([ENTRY])
    writer.close()


def test_closed_writer_gives_the_lease_back(store) -> None:
    for _ in range(3):
        with store.writer() as writer:
            writer.close()
        assert writer.sequence == 0


def test_deposed_writer_cannot_commit(store, database_url, enroll) -> None:
    old = store.writer()
    old.commit(enroll(old, 2))
    depose(store)
    with Store.open(database_url, store.vault, model_digest=MODEL) as other, other.writer() as new:
        assert new.sequence == 2
        new.commit(enroll(new, 1, first=2))
        before = store.counts(), store.audit_head()
        for _ in range(2):
            with pytest.raises(LeaseLost, match="another writer"):
                old.commit(enroll(old, 1, first=9))
        assert (store.counts(), store.audit_head()) == before
        new.commit(enroll(new, 1, first=3))
    old.close()
    assert store.counts()["live_references"] == 4
    assert audit.verify_chain(store).intact
