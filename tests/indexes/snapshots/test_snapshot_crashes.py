"""Any failure while a snapshot is saved leaves the old one or the new one."""

import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from indexes.gallery import Gallery
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from indexes.snapshots import snapshot
from tests.indexes.snapshots.conftest import (
    DIM,
    ORIGIN,
    SCANNER,
    SEALER,
    add,
    assert_same,
    load,
    named,
)
from tests.indexes.snapshots.unsealed import Unsealed


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


def test_a_crash_between_steps_leaves_the_old_or_the_new(folder, tmp_path, gallery) -> None:
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


def test_a_sweep_keeps_foreign_files(folder) -> None:
    (folder / "notes").write_text("an operator's")
    (folder / ("data-" + "0" * 32)).write_text("of the format before")
    snapshot.sweep(folder)
    assert (folder / "notes").exists()
    assert not named(folder, "data")


def test_saves_while_the_gallery_changes_hold_their_moment_and_no_half_wiped_row(
    tmp_path, gallery
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
        # On a busy machine the changes may come late.
        while len(headers) < 6 or headers[-1].sequence == headers[0].sequence:
            attempt = len(headers)
            assert attempt < 10_000, "nothing changed meanwhile"
            headers.append(
                snapshot.save(
                    tmp_path / f"{attempt}", gallery, ORIGIN, SEALER, mapped=attempt % 2 == 1
                )
            )
    finally:
        stop.set()
        changer.join()
    for attempt, header in enumerate(headers):
        loaded = load(tmp_path / f"{attempt}")
        assert (loaded.sequence, len(loaded)) == (header.sequence, header.count)
        then = np.concatenate([ids for seq, ids in added.items() if seq <= header.sequence])
        gone = [key for key, sequence in removed.items() if sequence <= header.sequence]
        held = loaded.ids
        assert np.array_equal(held, np.setdiff1d(then, gone))
        vectors = loaded.vectors(held)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        common = np.intersect1d(held, gallery.ids)
        assert np.array_equal(loaded.vectors(common), gallery.vectors(common))


def make_gallery(head_rows: int, rows: int, sequence: int) -> Gallery:
    config = SegmentsConfig(head_rows=head_rows, fan=3)
    made = Gallery(SegmentedIndex(DIM, config, scanner=SCANNER))
    made.add(np.arange(rows), np.eye(DIM, dtype=np.float32)[:rows], sequence)
    made.settle()
    return made


# As `make_gallery(4, 16, …)`, and without what this file imports.
SAVING = """
import sys
from pathlib import Path
import numpy as np
from indexes.snapshots import snapshot
from indexes.gallery import Gallery
from indexes.snapshots.manifest import Origin
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from tests.indexes.snapshots.unsealed import Unsealed

folder, origin = Path(sys.argv[1]), Origin("exact8", 16, "5face", "key-1", "here")
rows = np.eye(16, dtype=np.float32)
gallery = Gallery(SegmentedIndex(16, SegmentsConfig(head_rows=4, fan=3)))
gallery.add(np.arange(16), rows, int(sys.argv[2]) + 1)
gallery.settle()
while True:
    snapshot.save(folder, gallery, origin, Unsealed())
    print(gallery.sequence, flush=True)
    key = np.array([16 + gallery.sequence])
    gallery.add(key, rows[:1], gallery.sequence + 1)
    gallery.settle()
"""


def test_a_kill_while_saving_loses_nothing_acknowledged(tmp_path) -> None:
    random, sequence = np.random.default_rng(0), 0
    for _ in range(3):
        command = [sys.executable, "-c", SAVING, str(tmp_path), str(sequence)]
        root = Path(snapshot.__file__).parents[2]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)
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
    tmp_path, gallery, monkeypatch, head_rows: int, rows: int, limit: int, failing: str
) -> None:
    """The limit on a file's size is the full disk that every machine has."""
    snapshot.save(tmp_path, gallery, ORIGIN, Unsealed())
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    other, new = make_gallery(head_rows, rows, 51), set[str]()

    def watch(folder: Path) -> None:
        new.update(path.name.split("-")[0] for path in set(folder.iterdir()) - before.keys())
        sweep(folder)

    sweep = snapshot.sweep
    monkeypatch.setattr(snapshot, "sweep", watch)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            snapshot.save(tmp_path, other, ORIGIN, Unsealed())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert next(step for step in ("manifest.new", "state", "segment") if step in new) == failing
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
