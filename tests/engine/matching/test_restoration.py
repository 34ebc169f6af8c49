from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from engine.matching.restoration import restore_gallery, save_snapshot
from engine.registry.keyring import KeyRing
from engine.registry.records import Carrier
from engine.registry.store import Store
from engine.registry.vault import Vault


def test_a_gallery_comes_from_the_snapshot_and_from_what_was_committed_after(lab: Any) -> None:
    with lab.registrar() as registrar:
        registrar.enroll([lab.request()])
        save_snapshot(lab.store, registrar.gallery, lab.folder)
        restored = restore_gallery(lab.store, lab.folder)
        assert (restored.loaded, restored.replayed, restored.fault) == (1, 0, None)
        registrar.enroll([lab.request(), lab.request()])
        replayed = restore_gallery(lab.store, lab.folder)
        assert (replayed.loaded, replayed.replayed) == (1, 2)
        np.testing.assert_array_equal(replayed.gallery.ids, registrar.gallery.ids)


def test_a_damaged_snapshot_means_a_rebuild_that_says_why(lab: Any) -> None:
    with lab.registrar() as registrar:
        registrar.enroll([lab.request() for _ in range(3)])
        save_snapshot(lab.store, registrar.gallery, lab.folder)
    data = next(lab.folder.glob("data-*"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    restored = restore_gallery(lab.store, lab.folder)
    assert (restored.loaded, restored.replayed) == (0, 3)
    assert restored.fault is not None
    assert "\n" not in restored.fault


def test_a_snapshot_of_another_history_is_not_believed_however_far_the_store_is(
    lab: Any, sqlite_url: str
) -> None:
    person = lab.people.person()
    with lab.registrar() as registrar:
        registrar.enroll([lab.request(person)])
        save_snapshot(lab.store, registrar.gallery, lab.folder)
    # The same key ring over another database: what a restored backup looks like, once it has
    # overtaken the sequence of the snapshot with other people.
    path = sqlite_url.replace("registry.db", "backup.db")
    with Store.create(path, lab.vault, model_digest=lab.store.model_digest) as backup:
        backup.add_carrier(Carrier("blue", "Blue"), actor="test")
        backup.add_outlet("blue-1", "blue", actor="test")
        lab = replace(lab, store=backup)
        with lab.registrar() as registrar:
            assert len(registrar.gallery) == 0
            for _ in range(3):
                registrar.enroll([lab.request()])
            expected = registrar.gallery
        restored = restore_gallery(backup, lab.folder)
    assert restored.fault is not None
    np.testing.assert_array_equal(restored.gallery.ids, expected.ids)
    np.testing.assert_array_equal(
        restored.gallery.vectors(expected.ids), expected.vectors(expected.ids)
    )
    assert len(restored.gallery.range_search(person[None], 0.6).hits.ids) == 0


def test_a_snapshot_of_another_deployment_is_not_believed(lab: Any, sqlite_url: str) -> None:
    with lab.registrar() as registrar:
        registrar.enroll([lab.request()])
        save_snapshot(lab.store, registrar.gallery, lab.folder)
    other = Vault(KeyRing.generate(), lab.vault.dim)
    path = sqlite_url.replace("registry.db", "other.db")
    with Store.create(path, other, model_digest=lab.store.model_digest) as foreign:
        restored = restore_gallery(foreign, lab.folder)
    assert len(restored.gallery) == 0
    assert restored.fault is not None
