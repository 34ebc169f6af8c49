from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from engine.registry.audit import verify_chain

MODEL = "sha256:model-of-the-tests"

ADD_DOCUMENTS = """
import sys
from pathlib import Path
from engine.registry.keyring import KeyRing
from engine.registry.records import AuditEntry, Changes, NewDocument, new_id
from engine.registry.store import Store
from engine.registry.vault import Vault

url, ring, dim, model = sys.argv[1:]
vault = Vault(KeyRing.load(Path(ring)), int(dim))
with Store.open(url, vault, model_digest=model).writer() as writer:
    while True:
        made = [new_id() for _ in range(4)]
        documents = [
            NewDocument(key, "passport", vault.look_up("document:passport", key),
                        vault.look_up("name", "n"), key, "n")
            for key in made
        ]
        entries = [AuditEntry("child", "document.added", key) for key in made]
        writer.commit(
            Changes(sequence=writer.sequence + 4, audit=entries, documents=documents)
        )
        print(*made, flush=True)
"""


def test_acknowledged_commits_survive_sigkill_whole(
    store, database_url, key_ring, in_child, tmp_path: Path
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
