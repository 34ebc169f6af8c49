"""Saving: what has not changed stays, whatever goes wrong leaves the old or the new."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault
from indexes.base import Vectors
from indexes.errors import SnapshotMissing
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from indexes.snapshots import snapshot
from indexes.snapshots.manifest import Manifest, Origin
from indexes.snapshots.mapped import MappedRows
from indexes.snapshots.sealing import Sealer, Unsealed
from indexes.snapshots.snapshot import Opening

UnitRows = Callable[..., Vectors]

DIM = 16
ORIGIN = Origin("exact8", DIM, model_digest="5face", key_id="key-1", deployment_id="here")
SCANNER = Scanner()
# No merging here, so that a test knows which segments there are.
CONFIG = SegmentsConfig(head_rows=16, fan=100)
OPENING = Opening(CONFIG, SCANNER)
MAPPED = replace(OPENING, mapped=True)
RING = KeyRing.generate()
SEALER = Vault(RING, DIM).sealer()


@pytest.fixture
def gallery(unit_rows: UnitRows) -> Gallery:
    """Segments of the ids 0-15, 16-31, 32-47 and 48-63, and 64-69 in the head."""
    made = Gallery(SegmentedIndex(DIM, CONFIG, scanner=SCANNER))
    rows = unit_rows(70)
    for start in range(0, 70, 16):
        ids = np.arange(start, min(start + 16, 70))
        made.add(ids, rows[ids], made.sequence + 1)
        made.settle()
    assert len(made.pin().segments) == 5
    return made


@pytest.fixture
def folder(tmp_path: Path, gallery: Gallery) -> Path:
    snapshot.save(tmp_path / "gallery", gallery, ORIGIN, SEALER)
    return tmp_path / "gallery"


def load(folder: Path, opening: Opening = OPENING, sealer: Sealer = SEALER) -> Gallery:
    return snapshot.load(folder, ORIGIN, sealer, opening=opening)


def named(folder: Path, kind: str) -> set[str]:
    return {path.name for path in folder.glob(f"{kind}-*")}


def add(gallery: Gallery, first: int, count: int) -> None:
    rows = np.random.default_rng(first).standard_normal((count, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    gallery.add(np.arange(first, first + count), rows, gallery.sequence + 1)


def assert_same(loaded: Gallery, gallery: Gallery) -> None:
    one, other = loaded.contents(), gallery.contents()
    assert one.sequence == other.sequence
    assert np.array_equal(one.ids, other.ids)
    assert np.array_equal(one.vectors, other.vectors)


def test_a_save_writes_the_state_and_what_was_sealed_since(folder: Path, gallery: Gallery) -> None:
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


def test_a_gallery_that_was_loaded_writes_no_segment_again(folder: Path) -> None:
    segments = named(folder, "segment")
    for opening in (OPENING, MAPPED):
        loaded = load(folder, opening)
        snapshot.save(folder, loaded, ORIGIN, SEALER, mapped=opening.mapped)
        assert named(folder, "segment") == segments
        assert_same(load(folder), loaded)


def test_segments_that_were_merged_leave_no_file(folder: Path, gallery: Gallery) -> None:
    gallery.remove(np.arange(0, 64, 16), gallery.sequence + 1)
    gallery.compact()
    old = named(folder, "segment")
    snapshot.save(folder, gallery, ORIGIN, SEALER)
    assert not named(folder, "segment") & old
    assert_same(load(folder), gallery)


def test_a_new_key_seals_every_file_anew(folder: Path, gallery: Gallery) -> None:
    before = {path.name for path in folder.iterdir()}
    ring = RING.with_new_data_key()
    for opening in (OPENING, MAPPED):
        loaded = load(folder, opening)
        snapshot.save(folder, loaded, ORIGIN, Vault(ring, DIM).sealer(), mapped=opening.mapped)
        assert {path.name for path in folder.iterdir()} & before == {"manifest"}
        assert_same(loaded, gallery)
        retired = Vault(ring.without_data_key(ring.data[0].version), DIM)
        assert_same(load(folder, sealer=retired.sealer()), gallery)
        # Back under the old key for the next round.
        snapshot.save(folder, gallery, ORIGIN, SEALER)
        before = {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("spoil", ["foreign", "damaged", "missing", "short"])
def test_nothing_is_named_again_that_no_manifest_of_ours_vouches_for(
    folder: Path, gallery: Gallery, spoil: str
) -> None:
    segments = named(folder, "segment")
    if spoil == "foreign":
        manifest = Manifest.decode((folder / "manifest").read_bytes())
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


def test_what_was_removed_is_dead_and_its_row_zero_once_loaded(
    folder: Path, gallery: Gallery
) -> None:
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


def states_of_a_save(folder: Path, gallery: Gallery) -> Iterator[str]:
    """Takes the steps of a save, and stops after each; half-written files too."""
    before = {path.name for path in folder.iterdir()}
    known = snapshot.in_force(folder, ORIGIN, SEALER)
    manifest = snapshot.write_data(folder, gallery, ORIGIN, SEALER, known=known)
    new = {path: path.read_bytes() for path in folder.iterdir() if path.name not in before}
    assert len(new) == 2
    for path in new:
        path.unlink()
    yield "old"
    for path, whole in new.items():
        path.write_bytes(whole[: len(whole) // 2])
        yield "old"
        path.write_bytes(whole)
        yield "old"
    snapshot.write_manifest(folder, manifest, SEALER)
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
    folder: Path, tmp_path: Path, gallery: Gallery
) -> None:
    galleries = {"old": load(folder), "new": gallery}
    add(gallery, 100, 16)
    gallery.settle()
    gallery.remove(np.array([3]), gallery.sequence + 1)
    for step, expected in enumerate(states_of_a_save(folder, gallery)):
        crashed = tmp_path / f"crashed-{step}"
        shutil.copytree(folder, crashed)
        assert_same(load(crashed), galleries[expected])
        # The next save works, and clears away what the crash left.
        snapshot.save(crashed, gallery, ORIGIN, SEALER)
        assert_same(load(crashed), gallery)
        assert len(list(crashed.iterdir())) == len(named(crashed, "segment")) + 2 == 7


def test_a_sweep_lets_be_what_is_not_ours(folder: Path) -> None:
    (folder / "notes").write_text("an operator's")
    (folder / ("data-" + "0" * 32)).write_text("of the format before")
    snapshot.sweep(folder)
    assert (folder / "notes").exists()
    assert not named(folder, "data")


def test_a_withdrawn_snapshot_keeps_the_files_of_what_did_not_change(
    folder: Path, gallery: Gallery
) -> None:
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


def test_what_a_withdrawal_left_is_swept_where_no_save_came(folder: Path) -> None:
    snapshot.withdraw(folder, ORIGIN, SEALER, [])
    assert list(folder.iterdir()) == []
    assert snapshot.withdraw(folder / "none", ORIGIN, SEALER, []) == ()


def test_files_swept_after_a_withdrawal_are_written_again(folder: Path, gallery: Gallery) -> None:
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
    tmp_path: Path, gallery: Gallery, unit_rows: UnitRows
) -> None:
    queries = unit_rows(9, seed=3)
    before = gallery.search(queries, 5).hits
    snapshot.save(tmp_path, gallery, ORIGIN, SEALER, mapped=True)
    assert is_mapped(gallery) == [True] * 4
    assert gallery.account().rows == 0
    for found in (gallery.search(queries, 5).hits, load(tmp_path, MAPPED).search(queries, 5).hits):
        assert np.array_equal(found.ids, before.ids)
        assert np.array_equal(found.scores, before.scores)


def test_a_mapped_gallery_outlives_its_folder_and_is_written_whole_again(
    folder: Path, gallery: Gallery
) -> None:
    loaded = load(folder, MAPPED)
    shutil.rmtree(folder)
    assert_same(loaded, gallery)
    snapshot.save(folder, loaded, ORIGIN, SEALER, mapped=True)
    assert_same(load(folder), gallery)
    assert is_mapped(loaded) == [True] * 4


def test_saves_while_the_gallery_changes_hold_their_moment_and_no_half_wiped_row(
    tmp_path: Path, gallery: Gallery
) -> None:
    stop = threading.Event()
    added = {1: np.arange(70)}
    removed: dict[int, int] = {}

    def change() -> None:
        random = np.random.default_rng(0)
        for first in range(1000, 100_000, 5):
            if stop.is_set():
                return
            add(gallery, first, 5)
            added[gallery.sequence] = np.arange(first, first + 5)
            gone = int(random.choice(gallery.ids))
            gallery.remove(np.array([gone]), gallery.sequence + 1)
            removed[gone] = gallery.sequence
            gallery.maintain()

    changer = threading.Thread(target=change)
    changer.start()
    headers = []
    try:
        for turn in range(12):
            headers.append(
                snapshot.save(tmp_path / f"{turn}", gallery, ORIGIN, SEALER, mapped=turn % 2 == 1)
            )
    finally:
        stop.set()
        changer.join()
    assert headers[-1].sequence > headers[0].sequence
    current = gallery.contents()
    for turn, header in enumerate(headers):
        loaded = load(tmp_path / f"{turn}")
        assert (loaded.sequence, len(loaded)) == (header.sequence, header.count)
        then = np.concatenate([ids for seq, ids in added.items() if seq <= header.sequence])
        gone = [key for key, sequence in removed.items() if sequence <= header.sequence]
        held = loaded.ids
        assert np.array_equal(held, np.setdiff1d(then, gone))
        vectors = loaded.vectors(held)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        common = np.intersect1d(held, current.ids)
        assert np.array_equal(loaded.vectors(common), gallery.vectors(common))


CHILD = """
    import sys, resource
    from pathlib import Path
    import numpy as np
    from indexes.snapshots import snapshot
    from indexes.gallery import Gallery
    from indexes.snapshots.manifest import Origin
    from indexes.segmented.merging import SegmentsConfig
    from indexes.exact.scanner import Scanner
    from indexes.snapshots.sealing import Unsealed
    from indexes.segmented.segments import SegmentedIndex

    folder, origin = Path(sys.argv[1]), Origin("exact8", 16, "5face", "key-1", "here")
    rows = np.eye(16, dtype=np.float32)
    config = SegmentsConfig(head_rows=int(sys.argv[3]), fan=3)
    gallery = Gallery(SegmentedIndex(16, config, scanner=Scanner()))
    gallery.add(np.arange(int(sys.argv[4])), rows[:int(sys.argv[4])], int(sys.argv[2]) + 1)
    gallery.settle()
"""


def run_child(
    script: str, folder: Path, sequence: int, head_rows: int = 4, rows: int = 16
) -> subprocess.Popen[str]:
    source = textwrap.dedent(CHILD) + textwrap.dedent(script)
    arguments = (folder, sequence, head_rows, rows)
    return subprocess.Popen(
        [sys.executable, "-c", source, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(snapshot.__file__).parent.parent,
    )


def test_a_kill_while_saving_loses_nothing_acknowledged(tmp_path: Path) -> None:
    script = """
        while True:
            snapshot.save(folder, gallery, origin, Unsealed())
            print(gallery.sequence, flush=True)
            key = np.array([16 + gallery.sequence])
            gallery.add(key, rows[:1], gallery.sequence + 1)
            gallery.settle()
    """
    random, sequence = np.random.default_rng(0), 0
    for _ in range(8):
        child = run_child(script, tmp_path, sequence)
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(random.uniform(0, 0.1))
        child.send_signal(signal.SIGKILL)
        acknowledged = int((first + child.stdout.read()).split()[-1])
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        loaded = load(tmp_path, sealer=Unsealed())
        # The next save may have been published, and not yet acknowledged.
        assert loaded.sequence in (acknowledged, acknowledged + 1)
        assert len(loaded) == 16 + loaded.sequence - (sequence + 1)
        sequence = loaded.sequence


@pytest.mark.parametrize(
    ("head_rows", "rows", "limit", "failing"),
    [
        (4, 16, 0, "segment"),
        (4, 16, 3000, "segment"),
        (1000, 16, 0, "state"),
        (1000, 16, 1000, "state"),
        (1000, 0, 0, "manifest.new"),
        (1000, 0, 300, "manifest.new"),
    ],
)
def test_a_full_disk_leaves_the_old_snapshot_and_nothing_else(
    tmp_path: Path, gallery: Gallery, head_rows: int, rows: int, limit: int, failing: str
) -> None:
    """The limit on a file's size is the full disk that every machine has."""
    snapshot.save(tmp_path, gallery, ORIGIN, Unsealed())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    script = f"""
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        before, new, sweep = set(folder.iterdir()), set(), snapshot.sweep
        def watch(folder):
            new.update(path.name.split("-")[0] for path in set(folder.iterdir()) - before)
            sweep(folder)
        snapshot.sweep = watch
        try:
            snapshot.save(folder, gallery, origin, Unsealed())
        except OSError as fault:
            steps = ("manifest.new", "state", "segment")
            print(type(fault).__name__, next(step for step in steps if step in new))
    """
    child = run_child(script, tmp_path, 50, head_rows, rows)
    output, _ = child.communicate()
    assert (output, child.returncode) == (f"OSError {failing}\n", 0)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
