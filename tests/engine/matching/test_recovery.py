import errno
import logging
import os
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.matching import recovery
from engine.matching.holders import erase_holder
from engine.matching.recovery import (
    restore_gallery,
    restore_shards,
    save_snapshot,
    withdraw_snapshot,
)
from indexes.gallery import Gallery
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from indexes.sharding.shards import ShardPlan
from indexes.snapshots import snapshot
from indexes.snapshots.files import MappedRows
from indexes.snapshots.snapshot import Opening
from tests.engine.matching.conftest import DIM, MODEL_DIGEST, Lab
from tests.indexes.freed_memory import PAUSING, watch
from tests.indexes.sharding.local_shards import open_local
from tests.indexes.snapshots.conftest import assert_same

SMALL = Opening(segments=SegmentsConfig(head_rows=2, fan=100))


def enroll(lab: Lab, count: int, person: Any = None, *, saves: bool = False) -> Gallery:
    """The gallery after so many more; whoever is named, or strangers."""
    with lab.registrar() as registrar:
        registrar.enroll([lab.request(person) for _ in range(count)])
        if saves:
            save_snapshot(lab.store, registrar.gallery, lab.folder)
        return registrar.gallery


def test_a_gallery_comes_from_the_snapshot_and_from_what_was_committed_after(lab) -> None:
    with lab.registrar() as registrar:
        registrar.enroll([lab.request()])
        save_snapshot(lab.store, registrar.gallery, lab.folder)
        restored = restore_gallery(lab.store, lab.folder)
        assert (restored.loaded, restored.replayed, restored.fault) == (1, 0, None)
        registrar.enroll([lab.request(), lab.request()])
        replayed = restore_gallery(lab.store, lab.folder)
        assert (replayed.loaded, replayed.replayed) == (1, 2)
        np.testing.assert_array_equal(replayed.gallery.ids, registrar.gallery.ids)


def test_a_damaged_snapshot_means_a_rebuild_that_says_why(lab, caplog) -> None:
    enroll(lab, 3, saves=True)
    data = next(lab.folder.glob("state-*"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        restored = restore_gallery(lab.store, lab.folder)
    (record,) = caplog.records
    assert "rebuilt from the store" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert (restored.loaded, restored.replayed) == (0, 3)
    assert restored.fault is not None
    assert "\n" not in restored.fault


def test_a_snapshot_of_another_history_is_not_believed_however_far_the_store_is(
    lab, make_lab, sqlite_url
) -> None:
    person = lab.people.person()
    enroll(lab, 1, person, saves=True)
    # The same key ring over another database: what a restored backup looks like, once it has
    # overtaken the sequence of the snapshot with other people.
    backup = make_lab(sqlite_url.replace("registry.db", "backup.db"), lab.vault)
    expected = enroll(backup, 3)
    restored = restore_gallery(backup.store, lab.folder)
    backup.store.close()
    assert restored.fault is not None
    assert_same(restored.gallery, expected)
    assert len(restored.gallery.range_search(person[None], 0.6).hits.ids) == 0


def test_a_gallery_comes_back_from_its_own_snapshot_and_from_that_of_no_other_kind(
    lab, monkeypatch
) -> None:
    enroll(lab, 3)
    built = restore_gallery(lab.store, lab.folder).gallery
    save_snapshot(lab.store, built, lab.folder)
    restored = restore_gallery(lab.store, lab.folder)
    assert (restored.loaded, restored.fault) == (3, None)
    assert_same(restored.gallery, built)
    narrow = Opening(SegmentsConfig(rows="float16"))
    with monkeypatch.context() as earlier:
        earlier.setattr(SegmentedIndex, "kind", "flat")
        save_snapshot(lab.store, built, lab.folder / "flat")
    for folder, config, fault in (
        (lab.folder, narrow, "precision"),
        (lab.folder / "flat", Opening(), "index_kind"),
    ):
        fallen_back = restore_gallery(lab.store, folder, config)
        assert (fallen_back.loaded, fallen_back.replayed) == (0, 3)
        assert fallen_back.fault is not None
        assert fault in fallen_back.fault


STARTING = f"""{PAUSING}
import numpy as np
from pathlib import Path
from engine.matching import recovery
from engine.registry import references
from engine.registry.keyring import KeyRing
from engine.registry.store import Store
from engine.registry.vault import Vault

references.TEMPLATES_PER_CHUNK, recovery.BULK_BYTES = 70, 30_000
vault = Vault(KeyRing.load(Path("KEYS")), {DIM})
with Store.open("URL", vault, model_digest="{MODEL_DIGEST}") as store:
    gallery = recovery.restore_gallery(store, Path("FOLDER")).gallery
pause("started")
gallery.remove(gallery.ids[::5], gallery.sequence + 1)
pause("removed")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc of another process")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("is_saved", [False, True])
def test_a_start_leaves_no_copy_of_a_face_that_is_removed_later(
    lab, registrar, tmp_path, database_url, is_saved: bool
) -> None:
    for _ in range(10):
        registrar.enroll([lab.request() for _ in range(40)])
    if is_saved:
        save_snapshot(lab.store, registrar.gallery, lab.folder)
    rows = registrar.gallery.vectors(registrar.gallery.ids[::5])
    program = STARTING.replace("KEYS", f"{tmp_path / 'keyring.json'}").replace("URL", database_url)
    seen = watch(
        program.replace("FOLDER", f"{lab.folder}"), {"vectors": rows[:, 4:8].copy().view(np.uint8)}
    )
    assert seen == {"started": {"vectors": len(rows)}, "removed": {"vectors": 0}}


def test_a_rebuild_in_pieces_is_the_rebuild_in_one(lab, monkeypatch) -> None:
    for size in (1, 5, 2, 3, 1, 4):
        expected = enroll(lab, size)
    monkeypatch.setattr("engine.registry.references.TEMPLATES_PER_CHUNK", 2)
    for bulk_bytes in (1, 1000, 2000, 1 << 20):
        monkeypatch.setattr(recovery, "BULK_BYTES", bulk_bytes)
        restored = restore_gallery(lab.store, lab.folder, SMALL)
        assert restored.replayed == 16
        assert_same(restored.gallery, expected)


def test_a_rebuild_on_shards_is_the_gallery_of_the_store(lab) -> None:
    requests = [lab.request() for _ in range(9)]
    with lab.registrar() as registrar:
        registrar.enroll(requests)
        erase_holder(registrar, lab.store, requests[4].document, "test")
        expected = registrar.gallery
    with open_local(ShardPlan(lab.vault.dim, threads=1), 2) as index:
        restored = restore_shards(lab.store, index)
        assert_same(restored.gallery, expected)
        assert all(shard.count().result() for shard in index.shards)
    assert (restored.loaded, restored.replayed, restored.fault) == (0, 8, None)


def test_a_long_rebuild_says_in_the_log_how_far_it_is(lab, monkeypatch, caplog) -> None:
    enroll(lab, 5)
    monkeypatch.setattr("engine.registry.references.TEMPLATES_PER_CHUNK", 2)
    monkeypatch.setattr(recovery, "_LOG_EVERY_S", 0.0)
    with caplog.at_level(logging.INFO, "engine.matching.recovery"):
        restore_gallery(lab.store, lab.folder)
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        f"{read} references read" for read in (2, 4, 5)
    ]


def test_a_rebuild_makes_one_segment_of_many_references(lab) -> None:
    for _ in range(3):
        enroll(lab, 8)
    (segment,) = restore_gallery(lab.store, lab.folder, SMALL).gallery.segments
    assert len(segment) == 24


@pytest.mark.parametrize("bulk_bytes", [1, 1 << 20])
def test_removals_and_additions_are_replayed_whichever_came_last(
    lab, monkeypatch, bulk_bytes: int
) -> None:
    monkeypatch.setattr(recovery, "BULK_BYTES", bulk_bytes)
    requests = [lab.request() for _ in range(4)]
    with lab.registrar() as registrar:
        registrar.enroll(requests[:2])
        save_snapshot(lab.store, registrar.gallery, lab.folder)
        for turn in range(2):
            registrar.enroll([requests[2 + turn]])
            erase_holder(registrar, lab.store, requests[turn].document, "test")
            restored = restore_gallery(lab.store, lab.folder)
            assert (restored.loaded, restored.replayed) == (2, 2 * (turn + 1))
            assert_same(restored.gallery, registrar.gallery)


def test_a_withdrawal_keeps_only_files_that_hold_no_erased_face(lab) -> None:
    gallery = restore_gallery(lab.store, lab.folder, SMALL).gallery
    with lab.registrar(gallery=gallery) as registrar:
        for _ in range(3):
            registrar.enroll([lab.request() for _ in range(2)])
            gallery.settle()
    save_snapshot(lab.store, gallery, lab.folder, SMALL)
    first, second, _ = gallery.segments
    # One has the reference that goes now, another has lost one already.
    gallery.remove(second.ids[:1], gallery.sequence + 1)
    trusted = withdraw_snapshot(lab.store, gallery, lab.folder, first.ids[:1].tolist(), SMALL)
    assert len(trusted) == 1
    assert [path.name for path in lab.folder.iterdir()] == [f"segment-{trusted[0].file.name}"]
    assert restore_gallery(lab.store, lab.folder, SMALL).loaded == 0
    save_snapshot(lab.store, gallery, lab.folder, SMALL, trusted)
    assert (lab.folder / f"segment-{trusted[0].file.name}").exists()
    assert len(list(lab.folder.glob("segment-*"))) == 3


def test_a_mapped_gallery_is_that_of_the_store(lab) -> None:
    mapped = replace(SMALL, mapped=True)
    expected = enroll(lab, 12)
    gallery = restore_gallery(lab.store, lab.folder, mapped).gallery
    save_snapshot(lab.store, gallery, lab.folder, mapped)
    restored = restore_gallery(lab.store, lab.folder, mapped)
    assert (restored.loaded, restored.fault) == (12, None)
    for each in (gallery, restored.gallery):
        assert all(isinstance(one.rows, MappedRows) for one in each.segments)
        assert_same(each, expected)


def test_a_snapshot_that_the_disk_does_not_give_means_a_rebuild(lab, monkeypatch) -> None:
    enroll(lab, 3, saves=True)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "a path")

    monkeypatch.setattr(snapshot, "load", fail)
    restored = restore_gallery(lab.store, lab.folder)
    assert (restored.loaded, restored.replayed) == (0, 3)
    assert restored.fault == "the snapshot cannot be read (Input/output error)"
