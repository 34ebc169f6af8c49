"""Saving: unchanged files are kept, and files that no verified manifest names are not used."""

import shutil

import numpy as np
import pytest

from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault
from indexes.base import Vectors
from indexes.errors import SnapshotMissing
from indexes.exact.codes import CodedQueries
from indexes.gallery import Gallery
from indexes.snapshots import snapshot
from indexes.snapshots.files import MappedRows
from indexes.snapshots.manifest import SnapshotManifest
from tests.indexes.snapshots.conftest import (
    DIM,
    MAPPED,
    OPENING,
    ORIGIN,
    RING,
    SEALER,
    add,
    assert_same,
    load,
    named,
)


def test_a_save_writes_the_state_and_what_was_sealed_since(folder, gallery) -> None:
    segments, states = named(folder, "segment"), named(folder, "state")
    times = {path: path.stat().st_mtime_ns for path in folder.glob("segment-*")}
    add(gallery, 100, 3)
    gallery.remove(np.array([5]), gallery.sequence + 1)
    snapshot.save(folder, gallery, ORIGIN, SEALER)
    assert named(folder, "segment") == segments
    assert {path: path.stat().st_mtime_ns for path in folder.glob("segment-*")} == times
    assert len(named(folder, "state")) == 1
    assert named(folder, "state") != states
    assert_same(load(folder), gallery)
    add(gallery, 200, 16)
    gallery.settle()
    snapshot.save(folder, gallery, ORIGIN, SEALER)
    assert len(named(folder, "segment") - segments) == 1
    assert segments < named(folder, "segment")
    assert_same(load(folder), gallery)


def test_a_new_key_seals_every_file_anew(folder, gallery) -> None:
    before = {path.name for path in folder.iterdir()}
    ring = RING.with_new_data_key()
    for opening in (OPENING, MAPPED):
        loaded = load(folder, opening)
        snapshot.save(folder, loaded, ORIGIN, Vault(ring, DIM).sealer(), mapped=opening.mapped)
        assert {path.name for path in folder.iterdir()} & before == {"manifest"}
        assert_same(loaded, gallery)
        retired = Vault(ring.with_active_alone(()), DIM)
        assert_same(load(folder, sealer=retired.sealer()), gallery)
        # Back under the old key for the next round.
        snapshot.save(folder, gallery, ORIGIN, SEALER)
        before = {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("spoil", ["foreign", "damaged", "missing", "short"])
def test_only_files_of_a_verified_manifest_are_named_again(folder, gallery, spoil: str) -> None:
    segments = named(folder, "segment")
    if spoil == "foreign":
        manifest = SnapshotManifest.decode((folder / "manifest").read_bytes())
        forged = manifest.encode(Vault(KeyRing.generate(), DIM).sealer())
        (folder / "manifest").write_bytes(forged)
    elif spoil == "damaged":
        (folder / "manifest").write_bytes((folder / "manifest").read_bytes()[:-1])
    elif spoil == "missing":
        next(folder.glob("segment-*")).unlink()
    else:
        path = next(folder.glob("segment-*"))
        path.write_bytes(path.read_bytes()[:-1])
    snapshot.save(folder, gallery, ORIGIN, SEALER)
    kept = len(named(folder, "segment") & segments)
    assert kept == (3 if spoil in ("missing", "short") else 0)
    assert_same(load(folder), gallery)
    assert len(named(folder, "segment")) == 4


def test_what_was_removed_is_dead_and_its_row_zero_once_loaded(folder, gallery) -> None:
    """The file has the row until its segment is compacted, for it is written once."""
    gallery.remove(np.array([5, 20]), gallery.sequence + 1)
    snapshot.save(folder, gallery, ORIGIN, SEALER)
    loaded = load(folder)
    assert 5 not in loaded
    for segment in loaded.pin().segments[:4]:
        dead = np.flatnonzero(~segment.alive_rows)
        assert not segment.rows.take(dead).any()
        assert (segment.codes.bytes[dead] == 128).all()
    assert loaded.pin().removed_since == gallery.pin().removed_since


def test_a_withdrawn_snapshot_keeps_the_files_of_what_did_not_change(folder, gallery) -> None:
    segments = {segment.name: segment for segment in gallery.pin().segments[:4]}
    keep = [name for name, segment in segments.items() if 20 not in segment]
    before = named(folder, "segment")
    trusted = snapshot.withdraw(folder, ORIGIN, SEALER, keep)
    # A crash here costs a rebuild, and keeps no file of the segment that had it.
    assert {entry.segment for entry in trusted} == set(keep)
    kept = named(folder, "segment")
    assert {path.name for path in folder.iterdir()} == kept
    assert len(before - kept) == 1
    with pytest.raises(SnapshotMissing):
        load(folder)
    gallery.remove(np.array([20]), gallery.sequence + 1)
    gallery.compact()
    snapshot.save(folder, gallery, ORIGIN, SEALER, trusted=trusted)
    assert kept < named(folder, "segment")
    assert not named(folder, "segment") & (before - kept)
    assert_same(load(folder), gallery)


def test_what_a_withdrawal_left_is_swept_where_no_save_came(folder) -> None:
    snapshot.withdraw(folder, ORIGIN, SEALER, [])
    assert list(folder.iterdir()) == []
    assert snapshot.withdraw(folder / "none", ORIGIN, SEALER, []) == ()


def test_files_swept_after_a_withdrawal_are_written_again(folder, gallery) -> None:
    names = [segment.name for segment in gallery.pin().segments]
    trusted = snapshot.withdraw(folder, ORIGIN, SEALER, names)
    assert len(trusted) == 4
    snapshot.sweep(folder)
    snapshot.save(folder, gallery, ORIGIN, SEALER, trusted=trusted)
    assert_same(load(folder), gallery)


def is_mapped(gallery: Gallery) -> list[bool]:
    pinned = gallery.pin()
    sealed = pinned.segments[: len(pinned.segments) - pinned.head]
    return [isinstance(segment.rows, MappedRows) for segment in sealed]


def test_segments_are_served_from_their_files_once_these_are_written(
    tmp_path, gallery, unit_rows
) -> None:
    queries = unit_rows(9, seed=3)
    before = gallery.search(queries, 5).hits
    snapshot.save(tmp_path, gallery, ORIGIN, SEALER, mapped=True)
    assert is_mapped(gallery) == [True] * 4
    assert gallery.account().rows == 0
    for found in (gallery.search(queries, 5).hits, load(tmp_path, MAPPED).search(queries, 5).hits):
        assert np.array_equal(found.ids, before.ids)
        assert np.array_equal(found.scores, before.scores)


def test_a_mapped_gallery_outlives_its_folder_and_is_written_whole_again(folder, gallery) -> None:
    loaded = load(folder, MAPPED)
    shutil.rmtree(folder)
    assert_same(loaded, gallery)
    snapshot.save(folder, loaded, ORIGIN, SEALER, mapped=True)
    assert_same(load(folder), gallery)
    assert is_mapped(loaded) == [True] * 4


def test_what_is_removed_is_zeros_in_a_mapped_pin_though_its_file_lives_as_long(
    folder, gallery, unit_rows
) -> None:
    loaded = load(folder, MAPPED)
    pinned = loaded.pin()
    files = named(folder, "segment")
    gone, whole = np.array([5, 20]), loaded.vectors(np.array([6]))
    loaded.remove(gone, loaded.sequence + 1)
    loaded.compact()
    snapshot.save(folder, loaded, ORIGIN, SEALER, mapped=True)
    assert len(files - named(folder, "segment")) == 2
    read = dict[int, Vectors]()
    for segment in pinned.segments[:4]:
        assert isinstance(segment.rows, MappedRows)
        at = np.flatnonzero(np.isin(segment.row_ids, [*gone, 6]))
        read |= dict(zip(segment.row_ids[at].tolist(), segment.rows.take(at), strict=True))
        wiped = at[segment.row_ids[at] != 6]
        assert (segment.codes.bytes[wiped] == 128).all()
        # By its flags of now and by those of the pin, the scan that would find it.
        for alive in (None, np.ones(len(segment.alive), np.bool_)):
            coded = CodedQueries.of_vectors(unit_rows(30)[gone])
            found, _ = segment.at_or_above(unit_rows(30)[gone], coded, np.full(2, 0.9), alive)
            assert not np.isin(segment.row_ids[found.row_of], gone).any()
    assert not read[5].any()
    assert not read[20].any()
    assert np.array_equal(read[6], whole[0])
