"""Commits survive SIGKILL, and reads and administration beside them."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np

from engine.registry.audit import verify_chain
from tests.engine.registry.conftest import MODEL

ADD_DOCUMENTS = """
import sys
from pathlib import Path
from engine.registry.keyring import KeyRing
from engine.registry.audit import AuditEntry
from engine.registry.database import new_id
from engine.registry.documents import DocumentRecord, Identity
from engine.registry.store import Store
from engine.registry.vault import Vault

url, ring, dim, model = sys.argv[1:]
vault = Vault(KeyRing.load(Path(ring)), int(dim))
with Store.open(url, vault, model_digest=model).writer() as writer:
    while True:
        made = [new_id() for _ in range(4)]
        documents = [
            DocumentRecord(id=key, kind="passport", lookup=vault.look_up("document:passport", key),
                           name_lookup=vault.look_up("name", "n"), identity=Identity(key, "n"))
            for key in made
        ]
        entries = [AuditEntry("child", "document.added", key) for key in made]
        writer.commit([*entries, *documents])
        print(*made, flush=True)
"""


def test_acknowledged_commits_survive_sigkill_whole(
    store, database_url, key_ring, in_child, tmp_path
) -> None:
    path = tmp_path / "keys.json"
    key_ring.save(path)
    random = np.random.default_rng(3)
    acknowledged: list[str] = []
    for _ in range(3):
        with in_child(ADD_DOCUMENTS, database_url, str(path), str(store.vault.dim), MODEL) as child:
            acknowledged += child.stdout.readline().split()
            time.sleep(random.uniform(0.0, 0.2))
            child.kill()
            acknowledged += child.stdout.read().split()
            assert child.stderr.read() == ""
        found = store.documents_by_id(acknowledged)
        assert found.keys() == set(acknowledged)
        # A batch of four is there whole or not at all, and each document has its audit entry.
        kept = store.counts()
        assert kept["documents"] % 4 == 0
        assert 0 <= kept["documents"] - len(acknowledged) <= 4 * 5
        assert kept["audit"] == 6 + kept["documents"]
        assert verify_chain(store).intact
    assert len(acknowledged) >= 12


def test_reads_beside_commits_see_whole_batches_and_neither_fails(store, writer, enroll) -> None:
    finished = Event()

    def read() -> int:
        reads = 0
        while not finished.is_set():
            counts = store.counts()
            assert counts["documents"] % 4 == 0
            assert counts["documents"] == counts["references"] == counts["lines"]
            for chunk in store.references():
                known = store.documents_of(chunk.ids.tolist())
                assert known.keys() == set(chunk.ids.tolist())
            assert verify_chain(store).intact
            reads += 1
        return reads

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for number in range(40):
                writer.commit(enroll(writer, 4, first=4 * number))
        finally:
            finished.set()
        assert all(reader.result(timeout=120) > 0 for reader in readers)
    assert store.counts()["live_references"] == 160


def test_administration_at_the_same_time_as_commits_keeps_one_chain(store, writer, enroll) -> None:
    def administrate(name: str) -> None:
        for number in range(20):
            store.add_outlet(f"{name}{number}", "red", actor=name)

    with ThreadPoolExecutor(2) as pool:
        clerks = [pool.submit(administrate, name) for name in ("ann", "ben")]
        for number in range(20):
            writer.commit(enroll(writer, 1, first=number))
        for clerk in clerks:
            clerk.result(timeout=120)
    counts = store.counts()
    assert (counts["outlets"], counts["live_references"]) == (3 + 40, 20)
    report = verify_chain(store)
    assert report.intact
    assert report.entries == counts["audit"] == 6 + 40 + 20
