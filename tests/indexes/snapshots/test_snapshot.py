"""Snapshots: a saved gallery is restored; altered and foreign snapshots are refused."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault
from indexes.base import Vectors
from indexes.errors import SnapshotDamaged, SnapshotForeign, SnapshotMissing
from indexes.gallery import Gallery
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from indexes.snapshots import snapshot
from indexes.snapshots.manifest import FileEntry, Origin, Sealer, SnapshotManifest
from indexes.snapshots.snapshot import Opening
from tests.indexes.snapshots import conftest
from tests.indexes.snapshots.conftest import DIM, ORIGIN, SCANNER, named
from tests.indexes.snapshots.unsealed import Unsealed

CONFIG = SegmentsConfig(head_rows=16, fan=2)
OPENING = Opening(CONFIG, SCANNER)
VAULT = Vault(KeyRing.generate(), DIM).sealer()
FLIPPED = 250


def another_key() -> Sealer:
    return Vault(KeyRing.generate(), DIM).sealer()


@pytest.fixture(params=[Unsealed(), VAULT], ids=["unsealed", "vault"])
def sealer(request) -> Sealer:
    return request.param


def build_gallery(rows: Vectors, config: SegmentsConfig = CONFIG) -> Gallery:
    """90 references less 10: segments with tombstones, and a head."""
    gallery = Gallery(SegmentedIndex(DIM, config, scanner=SCANNER))
    for start in range(0, 90, 15):
        part = slice(start, start + 15)
        gallery.add(np.arange(90)[part] * 3, rows[part], sequence=gallery.sequence + 1)
        gallery.settle()
    gallery.remove(np.arange(30, 60, 3), sequence=17)
    return gallery


@pytest.fixture
def gallery(unit_rows) -> Gallery:
    return build_gallery(unit_rows(90))


@pytest.fixture
def folder(tmp_path, gallery, sealer) -> Path:
    snapshot.save(tmp_path / "gallery", gallery, ORIGIN, sealer)
    return tmp_path / "gallery"


def load(folder: Path, sealer: Sealer, origin: Origin = ORIGIN, opening: Opening = OPENING):
    return snapshot.load(folder, origin, sealer, opening=opening)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same(loaded: Gallery, gallery: Gallery) -> None:
    conftest.assert_same(loaded, gallery)
    if len(gallery):
        queries = gallery.vectors(gallery.ids)[:5]
        for asked in ("search", "range_search"):
            found, expected = (
                getattr(each, asked)(queries, 3 if asked == "search" else 0.3).hits
                for each in (loaded, gallery)
            )
            assert np.array_equal(found.ids, expected.ids)
            assert np.array_equal(found.scores, expected.scores)


def test_what_is_saved_comes_back(folder, gallery, sealer) -> None:
    assert len(named(folder, "segment")) > 1
    loaded = load(folder, sealer)
    assert_same(loaded, gallery)
    one, other = loaded.pin(), gallery.pin()
    assert [s.name for s in one.segments[: -one.head]] == [
        s.name for s in other.segments[: -other.head]
    ]
    assert one.removed_since == other.removed_since


def test_a_snapshot_whose_mark_is_declined_is_foreign(tmp_path, gallery, sealer) -> None:
    snapshot.save(tmp_path, gallery, ORIGIN, sealer, read_mark=lambda _: "here")
    loaded = snapshot.load(tmp_path, ORIGIN, sealer, lambda header: header.mark == "here", OPENING)
    assert_same(loaded, gallery)
    with pytest.raises(SnapshotForeign, match="another history"):
        snapshot.load(tmp_path, ORIGIN, sealer, lambda header: header.mark == "there")


def test_an_empty_gallery_keeps_its_watermark(tmp_path, sealer) -> None:
    empty = Gallery(SegmentedIndex(DIM, CONFIG, scanner=SCANNER), sequence=3)
    snapshot.save(tmp_path, empty, ORIGIN, sealer)
    loaded = load(tmp_path, sealer)
    assert (len(loaded), loaded.sequence) == (0, 3)


def test_only_the_owner_reads_the_files(tmp_path, gallery, sealer) -> None:
    before = os.umask(0)
    try:
        snapshot.save(tmp_path / "new", gallery, ORIGIN, sealer)
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
    assert modes == {0o600}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_sealed_files_do_not_show_the_vectors(tmp_path, gallery) -> None:
    rows = [row.tobytes() for row in gallery.vectors(gallery.ids)]
    rows += [row[:DIM].tobytes() for row in gallery.segments[0].codes.bytes[:5]]
    for sealer, shown in ((Unsealed(), True), (VAULT, False)):
        snapshot.save(tmp_path, gallery, ORIGIN, sealer)
        whole = b"".join(contents(tmp_path).values())
        assert [row in whole for row in rows] == [shown] * len(rows)


def test_no_folder_and_an_empty_folder_hold_no_snapshot(tmp_path, sealer) -> None:
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(SnapshotMissing):
            load(folder, sealer)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("mapped", [False, True])
def test_every_flipped_bit_is_found(folder, sealer, mapped: bool) -> None:
    opening = replace(OPENING, mapped=mapped)
    files = contents(folder)
    ends = np.cumsum([len(content) for content in files.values()])
    random, names = np.random.default_rng(0), list(files)
    for bit in random.choice(8 * int(ends[-1]), FLIPPED, replace=False).tolist():
        place = int(np.searchsorted(ends, bit // 8, side="right"))
        whole = files[names[place]]
        spoilt = bytearray(whole)
        spoilt[bit // 8 - int(ends[place])] ^= 1 << bit % 8
        (folder / names[place]).write_bytes(spoilt)
        with pytest.raises(SnapshotDamaged):
            load(folder, sealer, opening=opening)
        (folder / names[place]).write_bytes(whole)
    assert len(load(folder, sealer)) == 80


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("kind", ["manifest", "state", "segment"])
def test_every_truncation_and_extension_is_found(folder, sealer, kind: str, mapped: bool) -> None:
    path = next(folder.glob(f"{kind}*"))
    whole, random = path.read_bytes(), np.random.default_rng(0)
    lengths = {0, len(whole) - 1, *random.integers(0, len(whole), 100).tolist()}
    for spoilt in [*(whole[:length] for length in sorted(lengths)), whole + b"\0", whole * 2]:
        path.write_bytes(spoilt)
        with pytest.raises(SnapshotDamaged):
            load(folder, sealer, opening=replace(OPENING, mapped=mapped))


@pytest.mark.parametrize("kind", ["state", "segment"])
def test_a_missing_file_is_damage(folder, sealer, kind: str) -> None:
    next(folder.glob(f"{kind}-*")).unlink()
    with pytest.raises(SnapshotDamaged):
        load(folder, sealer)


@pytest.mark.parametrize("kind", ["state", "segment"])
def test_a_file_of_another_snapshot_does_not_fit(kind: str, tmp_path, gallery) -> None:
    """The same gallery saved twice under the same key: all equal but the names of the files."""
    sealer, folder = VAULT, tmp_path / "gallery"
    for each in (folder, tmp_path / "twin"):
        snapshot.save(each, gallery, ORIGIN, sealer)
    sizes = {path.stat().st_size: path for path in (tmp_path / "twin").glob(f"{kind}-*")}
    path = next(folder.glob(f"{kind}-*"))
    shutil.copy(sizes[path.stat().st_size], path)
    with pytest.raises(SnapshotDamaged):
        load(folder, sealer)


def test_a_forgers_manifest_is_found_though_every_digest_in_it_is_right(
    folder, gallery, tmp_path
) -> None:
    """A forger without the key, who knows the format and our names for everything."""
    forger = another_key()
    snapshot.save(tmp_path / "forged", gallery, ORIGIN, forger)
    for path in (tmp_path / "forged").iterdir():
        shutil.copy(path, folder)
    for sealer in (VAULT, Unsealed()):
        with pytest.raises(SnapshotDamaged):
            load(folder, sealer)


@pytest.mark.parametrize(
    "other",
    [
        {"dim": 17},
        {"index_kind": "flat"},
        {"model_digest": "another"},
        {"key_id": "key-2"},
        {"deployment_id": "there"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_foreign_snapshot_is_named_and_left_alone(folder, sealer, other: dict[str, str]) -> None:
    before = contents(folder)
    with pytest.raises(SnapshotForeign, match=next(iter(other))):
        load(folder, sealer, structs.replace(ORIGIN, **other))
    assert contents(folder) == before


@pytest.mark.parametrize("version", [1, 3])
def test_another_format_is_foreign_even_to_its_own_key(version: int, folder, sealer) -> None:
    manifest = SnapshotManifest.decode((folder / "manifest").read_bytes())
    other = structs.replace(manifest, header=structs.replace(manifest.header, version=version))
    (folder / "manifest").write_bytes(other.encode(sealer))
    with pytest.raises(SnapshotForeign, match=f"version {version}"):
        load(folder, sealer)


def test_a_gallery_is_not_saved_under_an_origin_of_another_kind(tmp_path, gallery, sealer) -> None:
    for origin in (structs.replace(ORIGIN, dim=32), structs.replace(ORIGIN, index_kind="flat")):
        with pytest.raises(SnapshotForeign):
            snapshot.save(tmp_path / "new", gallery, origin, sealer)
    assert not (tmp_path / "new").exists()


def test_what_no_index_takes_is_damage(tmp_path, unit_rows) -> None:
    """Written under the right key, as a fault of our own would be."""
    gallery = Gallery(SegmentedIndex(DIM, CONFIG, scanner=SCANNER))
    gallery.add(np.arange(3), unit_rows(3), sequence=1)
    snapshot.save(tmp_path, gallery, ORIGIN, Unsealed())
    manifest = SnapshotManifest.decode((tmp_path / "manifest").read_bytes())
    state = tmp_path / manifest.files[0]
    spoilt = state.read_bytes().replace((1).to_bytes(8, "little"), (2).to_bytes(8, "little"), 1)
    state.write_bytes(spoilt)
    digest = Unsealed().file(manifest.state.name, "none").digest()
    digest.update(spoilt)
    entry = FileEntry(manifest.state.name, len(spoilt), digest.digest().hex(), "none")
    sealed = structs.replace(manifest, state=entry).encode(Unsealed())
    (tmp_path / "manifest").write_bytes(sealed)
    with pytest.raises(SnapshotDamaged, match="no index takes"):
        load(tmp_path, Unsealed())
