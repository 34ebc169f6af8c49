"""Snapshots: what is saved comes back, what is altered or foreign does not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from indexes import snapshot
from indexes.base import Vectors
from indexes.errors import SnapshotDamaged, SnapshotForeign, SnapshotMissing
from indexes.flat import FlatIndex
from indexes.gallery import Gallery
from indexes.manifest import Manifest, Origin
from indexes.sealing import Sealer, Unsealed

UnitRows = Callable[..., Vectors]

ORIGIN = Origin("flat", 16, model_digest="5face", key_id="key-1", deployment_id="here")
SMALL_CHUNK = 1000  # 13 rows of 16 dims


class AesGcm:
    """AES-256-GCM with a random nonce."""

    def __init__(self, key: bytes) -> None:
        self._aes = AESGCM(key)

    def seal(self, data: bytes, context: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._aes.encrypt(nonce, data, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        return self._aes.decrypt(sealed[:12], sealed[12:], context)


@pytest.fixture(params=[Unsealed(), AesGcm(bytes(32))], ids=["unsealed", "aes-gcm"])
def sealer(request: pytest.FixtureRequest) -> Sealer:
    return request.param


@pytest.fixture
def gallery(unit_rows: UnitRows) -> Gallery:
    gallery = Gallery(FlatIndex(16))
    gallery.add(np.arange(0, 180, 3), unit_rows(60), sequence=1)
    gallery.remove(np.arange(30, 60, 3), sequence=7)
    return gallery


@pytest.fixture
def folder(tmp_path: Path, gallery: Gallery, sealer: Sealer) -> Path:
    """Holds the gallery in four chunks."""
    snapshot.save(tmp_path / "gallery", gallery, ORIGIN, sealer, chunk_bytes=SMALL_CHUNK)
    return tmp_path / "gallery"


def data_file(folder: Path) -> Path:
    (data,) = folder.glob("data-*")
    return data


def assert_same(loaded: Gallery, gallery: Gallery) -> None:
    one, other = loaded.contents(), gallery.contents()
    assert one.sequence == other.sequence
    assert np.array_equal(one.ids, other.ids)
    assert np.array_equal(one.vectors, other.vectors)


def test_what_is_saved_comes_back(folder: Path, gallery: Gallery, sealer: Sealer) -> None:
    assert_same(snapshot.load(folder, ORIGIN, sealer), gallery)


def test_the_header_states_what_was_saved(tmp_path: Path, gallery: Gallery, sealer: Sealer) -> None:
    header = snapshot.save(tmp_path, gallery, ORIGIN, sealer)
    assert (header.origin, header.count, header.sequence) == (ORIGIN, 50, 7)


def test_a_snapshot_whose_mark_is_declined_is_foreign(
    tmp_path: Path, gallery: Gallery, sealer: Sealer
) -> None:
    snapshot.save(tmp_path, gallery, ORIGIN, sealer, read_mark=lambda: "here")
    loaded = snapshot.load(tmp_path, ORIGIN, sealer, lambda header: header.mark == "here")
    assert_same(loaded, gallery)
    with pytest.raises(SnapshotForeign, match="another history"):
        snapshot.load(tmp_path, ORIGIN, sealer, lambda header: header.mark == "there")


def test_an_empty_gallery_keeps_its_watermark(tmp_path: Path, sealer: Sealer) -> None:
    snapshot.save(tmp_path, Gallery(FlatIndex(16), sequence=3), ORIGIN, sealer)
    loaded = snapshot.load(tmp_path, ORIGIN, sealer)
    assert (len(loaded), loaded.sequence) == (0, 3)


def test_a_second_save_replaces_the_first(
    folder: Path, gallery: Gallery, sealer: Sealer, unit_rows: UnitRows
) -> None:
    gallery.add(np.array([1000]), unit_rows(1), sequence=8)
    snapshot.save(folder, gallery, ORIGIN, sealer)
    assert_same(snapshot.load(folder, ORIGIN, sealer), gallery)
    assert sorted(path.name[:5] for path in folder.iterdir()) == ["data-", "manif"]


def test_only_the_owner_reads_the_files(tmp_path: Path, gallery: Gallery, sealer: Sealer) -> None:
    before = os.umask(0)
    try:
        snapshot.save(tmp_path / "new", gallery, ORIGIN, sealer)
    finally:
        os.umask(before)
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()]
    assert modes == [0o600, 0o600]
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_sealed_files_do_not_show_the_vectors(tmp_path: Path, gallery: Gallery) -> None:
    row = gallery.vectors(np.array([0])).tobytes()
    for sealer, shown in ((Unsealed(), True), (AesGcm(bytes(32)), False)):
        snapshot.save(tmp_path, gallery, ORIGIN, sealer)
        assert (row in data_file(tmp_path).read_bytes()) is shown


def test_no_folder_and_an_empty_folder_hold_no_snapshot(tmp_path: Path, sealer: Sealer) -> None:
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(SnapshotMissing):
            snapshot.load(folder, ORIGIN, sealer)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["manifest", "data"])
def test_every_flipped_bit_is_found(folder: Path, sealer: Sealer, name: str) -> None:
    path = folder / "manifest" if name == "manifest" else data_file(folder)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for bit in random.choice(8 * len(whole), 200, replace=False).tolist():
        spoilt = bytearray(whole)
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
        with pytest.raises(SnapshotDamaged):
            snapshot.load(folder, ORIGIN, sealer)
    path.write_bytes(whole)
    assert len(snapshot.load(folder, ORIGIN, sealer)) == 50


@pytest.mark.parametrize("name", ["manifest", "data"])
def test_every_truncation_and_extension_is_found(folder: Path, sealer: Sealer, name: str) -> None:
    path = folder / "manifest" if name == "manifest" else data_file(folder)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    lengths = {0, len(whole) - 1, *random.integers(0, len(whole), 200).tolist()}
    for spoilt in [*(whole[:length] for length in sorted(lengths)), whole + b"\0", whole * 2]:
        path.write_bytes(spoilt)
        with pytest.raises(SnapshotDamaged):
            snapshot.load(folder, ORIGIN, sealer)


def test_a_missing_data_file_is_damage(folder: Path, sealer: Sealer) -> None:
    data_file(folder).unlink()
    with pytest.raises(SnapshotDamaged):
        snapshot.load(folder, ORIGIN, sealer)


def test_chunks_cannot_change_places(folder: Path, sealer: Sealer) -> None:
    path = data_file(folder)
    whole = path.read_bytes()
    size = Manifest.decode((folder / "manifest").read_bytes()).chunks[0].size_bytes
    path.write_bytes(whole[size : 2 * size] + whole[:size] + whole[2 * size :])
    with pytest.raises(SnapshotDamaged):
        snapshot.load(folder, ORIGIN, sealer)


def test_a_chunk_of_another_snapshot_does_not_fit(
    folder: Path, tmp_path: Path, gallery: Gallery, sealer: Sealer
) -> None:
    """The same gallery saved twice under the same key: all equal but the snapshot's name."""
    snapshot.save(tmp_path / "twin", gallery, ORIGIN, sealer, chunk_bytes=SMALL_CHUNK)
    shutil.copy(data_file(tmp_path / "twin"), data_file(folder))
    with pytest.raises(SnapshotDamaged):
        snapshot.load(folder, ORIGIN, sealer)


def test_a_dropped_chunk_is_found_though_the_manifest_is_made_to_match(folder: Path) -> None:
    """A forger without the key, who knows the format."""
    manifest = Manifest.decode((folder / "manifest").read_bytes())
    kept = manifest.chunks[:-1]
    header = replace(manifest.header, count=sum(chunk.rows for chunk in kept))
    forged = Manifest(header, kept).encode(AesGcm(b"\1" * 32))
    (folder / "manifest").write_bytes(forged)
    os.truncate(data_file(folder), sum(chunk.size_bytes for chunk in kept))
    for sealer in (AesGcm(bytes(32)), Unsealed()):
        with pytest.raises(SnapshotDamaged):
            snapshot.load(folder, ORIGIN, sealer)


@pytest.mark.parametrize(
    "other",
    [
        {"dim": 17},
        {"index_kind": "exact8"},
        {"model_digest": "another"},
        {"key_id": "key-2"},
        {"deployment_id": "there"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_foreign_snapshot_is_named_and_left_alone(
    folder: Path, sealer: Sealer, other: dict[str, str]
) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(SnapshotForeign, match=next(iter(other))):
        snapshot.load(folder, replace(ORIGIN, **other), sealer)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_newer_format_is_foreign_even_to_its_own_key(folder: Path, sealer: Sealer) -> None:
    manifest = Manifest.decode((folder / "manifest").read_bytes())
    newer = Manifest(replace(manifest.header, version=2), manifest.chunks)
    (folder / "manifest").write_bytes(newer.encode(sealer))
    with pytest.raises(SnapshotForeign, match="version 2"):
        snapshot.load(folder, ORIGIN, sealer)


def test_another_key_under_the_same_name_opens_nothing(tmp_path: Path, gallery: Gallery) -> None:
    snapshot.save(tmp_path, gallery, ORIGIN, AesGcm(bytes(32)))
    with pytest.raises(SnapshotDamaged):
        snapshot.load(tmp_path, ORIGIN, AesGcm(b"\1" * 32))


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"header":{},"chunks":[]}',
        b'{"chunks":[],"header":{"count":0,"name":"../../etc/passwd","sequence":0,"version":1,'
        b'"origin":{"index_kind":"flat","dim":16,"model_digest":"","key_id":"","deployment_id":""}}}',
    ],
)
def test_a_malformed_manifest_with_a_right_digest_is_damage(
    tmp_path: Path, body: bytes, sealer: Sealer
) -> None:
    import hashlib
    import struct

    signed = struct.pack("<8sII", b"SOSIESNP", 1, len(body)) + body
    (tmp_path / "manifest").write_bytes(signed + hashlib.sha256(signed).digest())
    with pytest.raises(SnapshotDamaged):
        snapshot.load(tmp_path, ORIGIN, sealer)


def test_a_gallery_is_not_saved_under_an_origin_of_another_kind(
    tmp_path: Path, gallery: Gallery, sealer: Sealer
) -> None:
    for origin in (replace(ORIGIN, dim=32), replace(ORIGIN, index_kind="exact8")):
        with pytest.raises(SnapshotForeign):
            snapshot.save(tmp_path / "new", gallery, origin, sealer)
    assert not (tmp_path / "new").exists()


def states_of_a_save(folder: Path, gallery: Gallery, sealer: Sealer) -> Iterator[str]:
    """Takes the steps of a save, and stops after each; half-written files too."""
    contents = gallery.contents()
    manifest = snapshot.write_data(folder, contents, ORIGIN, sealer, chunk_bytes=SMALL_CHUNK)
    data = folder / manifest.data_file
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    yield "old"
    data.write_bytes(whole)
    yield "old"
    snapshot.write_manifest(folder, manifest, sealer)
    whole = (folder / "manifest.new").read_bytes()
    (folder / "manifest.new").write_bytes(whole[: len(whole) // 2])
    yield "old"
    (folder / "manifest.new").write_bytes(whole)
    yield "old"
    snapshot.publish(folder)
    yield "new"
    snapshot.sweep(folder)
    yield "new"


def test_a_crash_between_steps_leaves_the_old_or_the_new(
    folder: Path, tmp_path: Path, gallery: Gallery, sealer: Sealer, unit_rows: UnitRows
) -> None:
    galleries = {"old": snapshot.load(folder, ORIGIN, sealer), "new": gallery}
    gallery.add(np.array([1000]), unit_rows(1), sequence=8)
    for step, expected in enumerate(states_of_a_save(folder, gallery, sealer)):
        crashed = tmp_path / f"crashed-{step}"
        shutil.copytree(folder, crashed)
        assert_same(snapshot.load(crashed, ORIGIN, sealer), galleries[expected])
        # The next save works, and clears away what the crash left.
        snapshot.save(crashed, gallery, ORIGIN, sealer)
        assert_same(snapshot.load(crashed, ORIGIN, sealer), gallery)
        assert len(list(crashed.iterdir())) == 2


CHILD = """
    import sys, resource
    from pathlib import Path
    import numpy as np
    from indexes import snapshot
    from indexes.flat import FlatIndex
    from indexes.gallery import Gallery
    from indexes.manifest import Origin
    from indexes.sealing import Unsealed

    folder, origin = Path(sys.argv[1]), Origin("flat", 16, "5face", "key-1", "here")
    rows = np.eye(16, dtype=np.float32)
    gallery = Gallery(FlatIndex(16))
    gallery.add(np.arange(16), rows, int(sys.argv[2]) + 1)
"""


def run_child(script: str, *arguments: str) -> subprocess.Popen[str]:
    source = textwrap.dedent(CHILD) + textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-c", source, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(snapshot.__file__).parent.parent,
    )


def test_a_kill_while_saving_loses_nothing_acknowledged(tmp_path: Path) -> None:
    script = """
        while True:
            snapshot.save(folder, gallery, origin, Unsealed(), chunk_bytes=200)
            print(gallery.sequence, flush=True)
            key = np.array([16 + gallery.sequence])
            gallery.add(key, rows[:1], gallery.sequence + 1)
    """
    random, sequence = np.random.default_rng(0), 0
    for _ in range(10):
        child = run_child(script, str(tmp_path), str(sequence))
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(random.uniform(0, 0.1))
        child.send_signal(signal.SIGKILL)
        acknowledged = int((first + child.stdout.read()).split()[-1])
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        loaded = snapshot.load(tmp_path, ORIGIN, Unsealed())
        # The next save may have been published, and not yet acknowledged.
        assert loaded.sequence in (acknowledged, acknowledged + 1)
        assert len(loaded) == 16 + loaded.sequence - (sequence + 1)
        sequence = loaded.sequence


def test_a_full_disk_leaves_the_old_snapshot_and_nothing_else(
    tmp_path: Path, gallery: Gallery
) -> None:
    """The limit on a file's size is the full disk that every machine has."""
    snapshot.save(tmp_path, gallery, ORIGIN, Unsealed())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    script = """
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            snapshot.save(folder, gallery, origin, Unsealed(), chunk_bytes=200)
        except OSError as fault:
            print(type(fault).__name__)
    """
    child = run_child(script, str(tmp_path), "50")
    output, _ = child.communicate()
    assert (output, child.returncode) == ("OSError\n", 0)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
