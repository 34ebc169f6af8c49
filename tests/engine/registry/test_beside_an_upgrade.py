"""A process that was opened before an upgrade writes nothing after it; the chain stays whole."""

import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import text

from engine.errors import SchemaMismatch, StorageFailed
from engine.registry import database
from engine.registry.accounts import Carrier
from engine.registry.audit import verify_chain
from engine.registry.backup import make_backup
from engine.registry.database import restructuring, storage_errors, utc_now
from engine.registry.events import Cursor, hold_cursor
from engine.registry.store import Store, every_table
from engine.registry.upgrade import _CODES_SINCE, upgrade
from engine.registry.webhooks import Progress, Webhooks
from engine.registry.writer import Writer
from tests.engine.registry.conftest import ENTRY


class Opened(NamedTuple):
    """What a process has open while another one upgrades the registry."""

    store: Store
    writer: Writer
    webhooks: Webhooks
    hook: str
    folder: Path

    @property
    def cursor(self) -> Cursor:
        return Cursor(self.hook, 0, 0)


WRITES: dict[str, Callable[[Opened], object]] = {
    "carrier add": lambda by: by.store.add_carrier(Carrier("new", "New"), actor="test"),
    "decisions": lambda by: by.writer.commit([ENTRY]),
    "webhook progress": lambda by: by.webhooks.save("w", [Progress(by.cursor, 1)]),
    "backup": lambda by: make_backup(by.store, by.writer, by.folder / "backup", actor="test"),
    "a new writer": lambda by: by.writer.close() or by.store.writer(),  # type: ignore[func-returns-value]
}


@pytest.fixture
def opened(store, writer, tmp_path) -> Opened:
    webhooks = Webhooks(store.engine, store.vault)
    hook, _ = webhooks.create("https://a.example/", (), carrier=None, actor="test")
    hold_cursor(store, hook.id, "w", utc_now(), timedelta(minutes=1))
    return Opened(store, writer, webhooks, hook.id, tmp_path)


def rows_of(store: Store) -> dict[str, list[Any]]:
    with store.engine.connect() as connection:
        return {
            one.name: sorted(map(repr, connection.execute(one.select()))) for one in every_table()
        }


def test_whatever_writes_looks_at_the_schema_in_its_own_transaction(opened) -> None:
    store = opened.store
    before = rows_of(store)
    with restructuring(store.engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    refused = []
    for name, write in WRITES.items():
        with pytest.raises(SchemaMismatch, match="schema 9999"):
            write(opened)
        refused.append(name)
    assert refused == list(WRITES)
    assert rows_of(store) == before
    assert not (opened.folder / "backup").exists()


def test_nothing_but_changing_and_making_a_registry_begins_a_transaction() -> None:
    """So that whatever else writes does it by `changing`, which looks."""

    texts = {
        one.name: one.read_text("utf-8") for one in Path(database.__file__).parent.glob("*.py")
    }
    del texts["postgresql.py"]

    def count(*calls: str) -> dict[str, int]:
        found = {name: sum(map(text.count, calls)) for name, text in texts.items()}
        return {name: times for name, times in found.items() if times}

    # The transaction itself and the one of a read, and a backup's reading of PostgreSQL.
    assert count(".begin(", ".commit()") == {"database.py": 2, "backup.py": 1}
    # Itself, `changing` and the overwriting of a journal; the question whether a commit was kept;
    # and registries that are made, restored or upgraded.
    made = {"store.py": 1, "backup.py": 2, "upgrade.py": 1}
    assert count("restructuring(") == {"database.py": 3, "transactions.py": 1, **made}


LATER = """
import sys
from pathlib import Path
from alembic import op
from engine.errors import RegistryError
from engine.registry import database, upgrade
from engine.registry.keyring import KeyRing
from engine.registry.migrations import from_0012
from engine.registry.vault import Vault

url, ring, dim = sys.argv[1:]
vault = Vault(KeyRing.load(Path(ring)), int(dim))
print("ready", flush=True)
for line in sys.stdin:
    newest = line.strip()

    def migrate(after: str = newest) -> None:
        op.execute(f"CREATE TABLE ended_{after} AS SELECT max(number) AS number FROM audit")
        op.execute(f"ALTER TABLE carriers ADD COLUMN later_{after} INTEGER")

    from_0012.MIGRATIONS[newest] = migrate
    database.REVISIONS = upgrade.REVISIONS = (*database.REVISIONS, newest)
    while True:
        try:
            upgrade.upgrade(url, vault)
            break
        except RegistryError as error:
            # Others write without a pause: whoever runs it runs it again.
            if "SQLITE_BUSY" not in str(error):
                raise
    print(newest, flush=True)
"""
"""A later version of Sosie, which upgrades when it is told to which schema."""
ROUNDS = 20


def test_of_twenty_upgrades_beside_processes_that_write_none_breaks_the_chain(
    store, database_url, key_ring, tmp_path, monkeypatch
) -> None:
    key_ring.save(ring := tmp_path / "keys.json")
    given = (database_url, str(ring), str(store.vault.dim))
    with subprocess.Popen(
        [sys.executable, "-c", LATER, *given],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as later:
        assert later.stdout.readline() == "ready\n"
        for number in range(ROUNDS):
            after = str(1000 + number)
            upgrade_beside_writers(store, later, after)
            newest = store.rows(text(f"SELECT number FROM ended_{after}"))[0].number  # type: ignore[arg-type]
            assert store.audit_head()[0] == newest
            # The same processes, installed anew.
            monkeypatch.setattr(database, "REVISIONS", (*database.REVISIONS, after))
    assert later.returncode == 0
    assert verify_chain(store).intact


def upgrade_beside_writers(store: Store, later: Any, newest: str) -> None:
    """Has the registry upgraded while two threads write, each until it is refused."""
    begun = threading.Barrier(3)
    refused: list[str] = []

    def write(place: int) -> None:
        begun.wait()
        for number in range(100_000):
            code = f"{newest}-{place}-{number}"
            try:
                if place == 0:
                    store.add_carrier(Carrier(code, "x"), actor="test")
                else:
                    store.note(ENTRY)
            except SchemaMismatch as error:
                refused.append(str(error))
                return
            except StorageFailed:
                # Busy: nothing was kept.
                continue

    threads = [threading.Thread(target=write, args=(place,)) for place in range(2)]
    for one in threads:
        one.start()
    begun.wait()
    later.stdin.write(f"{newest}\n")
    later.stdin.flush()
    assert later.stdout.readline() == f"{newest}\n"
    for one in threads:
        one.join()
    assert len(refused) == 2


# As the versions themselves sent it, before 0007 and at 0023.
OLD_WRITES = (
    "SELECT singleton, writer_epoch, sequence, audit_number, audit_head FROM deployment",
    "UPDATE deployment SET sequence = 1, audit_number = audit_number + 1, audit_head = key_check",
    "UPDATE deployment SET sequence = 1, audit_number = audit_number + 1, audit_head = key_check, "
    "audit_mac = key_check WHERE deployment.audit_number = 1",
    "UPDATE cursors SET holder = 'w', held_until = NULL WHERE cursors.name = 'a'",
    "UPDATE cursors SET number = 9 WHERE cursors.name = 'a' AND cursors.holder = 'w'",
)


@pytest.fixture
def of_0023(store) -> Store:
    """A registry as the last version left it that does not look."""
    with restructuring(store.engine) as connection:
        for statement in (
            "ALTER TABLE deployment RENAME COLUMN chain_head TO audit_head",
            "ALTER TABLE cursors RENAME COLUMN held_by TO holder",
            *(f"ALTER TABLE {table.name} DROP COLUMN mac" for table in _CODES_SINCE["0026"]),
            "DROP INDEX ix_liveness_proofs",
            "ALTER TABLE documents DROP COLUMN erasure_scope",
            "ALTER TABLE documents DROP COLUMN withdrawn",
            "ALTER TABLE enrollments DROP COLUMN consent",
            "UPDATE alembic_version SET version_num = '0023'",
        ):
            connection.execute(text(statement))
    return store


def test_nor_does_a_process_of_a_version_that_does_not_look(of_0023, database_url) -> None:
    def write(statement: str) -> None:
        with storage_errors(), of_0023.engine.connect() as connection:
            connection.execute(text(statement)).close()

    for statement in OLD_WRITES:
        write(statement)
    assert upgrade(database_url, of_0023.vault).before == "0023"
    before = rows_of(of_0023)
    for statement in OLD_WRITES:
        with pytest.raises(StorageFailed):
            write(statement)
    assert rows_of(of_0023) == before
    assert verify_chain(of_0023).intact
    of_0023.note(ENTRY)
