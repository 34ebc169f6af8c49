"""What a checkpoint keeps, and what it refuses."""

import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from indexes.errors import CheckpointInvalid
from indexes.joining.checkpoint import Checkpoint, JoinCoverage

TILES = [[b"one"], [], [b"two", b"three"], [b"four" * 1000]]


def content(kept: Checkpoint) -> list[bytes]:
    return [run.tobytes() for run in kept.runs()]


def filled(folder: Path | None, tiles: list[list[bytes]]) -> Checkpoint:
    kept = Checkpoint(folder, "terms", b"subject")
    for runs in tiles[kept.next_tile :]:
        for run in runs:
            kept.put(run)
        kept.end_tile()
    return kept


@pytest.mark.parametrize("in_memory", [True, False])
def test_runs_come_back_in_their_order(tmp_path, in_memory: bool) -> None:
    with filled(None if in_memory else tmp_path, TILES) as kept:
        assert kept.next_tile == len(TILES)
        assert content(kept) == [run for runs in TILES for run in runs]
        assert kept.size_bytes == sum(len(run) for runs in TILES for run in runs)


def test_what_was_put_for_a_tile_that_did_not_end_is_gone(tmp_path) -> None:
    with filled(tmp_path, TILES[:2]) as kept:
        kept.put(b"half")
        assert content(kept) == [b"one"]
    (tmp_path / "state.new").write_bytes(b'{"next_ti')
    with filled(tmp_path, TILES) as kept:
        assert content(kept) == [run for runs in TILES for run in runs]


def test_the_subject_is_that_of_the_first_start(tmp_path) -> None:
    filled(tmp_path, TILES[:1]).close()
    with Checkpoint(tmp_path, "terms", b"another") as kept:
        assert (kept.subject, kept.next_tile) == (b"subject", 1)


def test_the_bounds_are_those_of_all_tiles_that_ended(tmp_path) -> None:
    with Checkpoint(tmp_path, "terms", b"subject") as kept:
        kept.end_tile(["bytes"])
    with Checkpoint(tmp_path, "terms", b"subject") as kept:
        assert kept.bounds == ("bytes",)
        kept.end_tile(["prefix 80 of 128"])
        assert kept.bounds == ("bytes", "prefix 80 of 128")
    # As a version wrote it that did not know them.
    content = json.loads((tmp_path / "state.json").read_bytes().split(b"\n")[0])
    del content["bounds"]
    text = json.dumps(content).encode()
    (tmp_path / "state.json").write_bytes(b"%b\n%d" % (text, zlib.crc32(text)))
    with Checkpoint(tmp_path, "terms", b"subject") as kept:
        kept.end_tile(["bytes"])
        assert kept.bounds == ("bytes", "not recorded")


def test_a_folder_in_use_is_refused(tmp_path) -> None:
    with filled(tmp_path, TILES[:1]), pytest.raises(CheckpointInvalid, match="in use"):
        Checkpoint(tmp_path, "terms", b"subject")
    filled(tmp_path, TILES).close()


def test_any_flipped_bit_and_any_lost_byte_is_found(tmp_path) -> None:
    filled(tmp_path, TILES).close()
    random = np.random.default_rng(0)
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for bit in random.integers(0, 8 * len(whole), 100).tolist():
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            with pytest.raises(CheckpointInvalid):
                Checkpoint(tmp_path, "terms", b"subject")
        for size in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:size])
            with pytest.raises(CheckpointInvalid):
                Checkpoint(tmp_path, "terms", b"subject")
        path.write_bytes(whole)
    with filled(tmp_path, TILES) as kept:
        assert len(content(kept)) == 4


def test_files_are_for_their_owner_alone(tmp_path) -> None:
    folder = tmp_path / "new" / "folder"
    filled(folder, TILES).close()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


_FULL = """
import resource, sys
from pathlib import Path
from indexes.joining.checkpoint import Checkpoint
kept = Checkpoint(Path(sys.argv[1]), "terms", b"subject")
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    while True:
        kept.put(b"x" * 1000)
        kept.end_tile()
except OSError:
    print(kept.next_tile)
"""


def test_a_disk_that_is_full_loses_no_tile_that_ended(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    with Checkpoint(tmp_path, "terms", b"subject") as kept:
        assert kept.next_tile == int(done.stdout) == 4
        assert content(kept) == [b"x" * 1000] * 4


def test_what_an_earlier_version_wrote_of_two_sides_is_read() -> None:
    read = JoinCoverage.from_bytes(np.array([7, 2, 1, 4, 9, 40, 90, 5, 50], "<i8").tobytes())
    assert (read.sequence, read.ids.tolist(), read.digests.tolist()) == (7, [4, 5, 9], [40, 50, 90])
