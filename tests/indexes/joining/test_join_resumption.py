"""A stopped join resumes, however its references are distributed by then."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from indexes.base import Ids, Vectors
from indexes.errors import CheckpointInvalid
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.joining.join import Progress, join, join_gallery
from indexes.joining.tiling import Pairs, Records
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from tests.indexes.conftest import change_beside_digests

DIM, ROWS, TILE, THRESHOLD = 64, 2400, 300, 0.35
TILES = 8 * 9 // 2
SCANNER = Scanner(threads=2)


class Stopped(Exception):
    """What a user's callback raises."""


@pytest.fixture(scope="module")
def faces() -> tuple[Ids, Vectors]:
    random = np.random.default_rng(0)
    rows = random.standard_normal((ROWS, DIM)).astype(np.float32)
    ids = random.permutation(5 * ROWS)[:ROWS].astype(np.int64)
    return ids, rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def expected(faces) -> Records:
    records = join([Exact8Segment(*faces, scanner=SCANNER)], None, THRESHOLD).records
    assert len(records) > 2000
    return records


def cut(faces: tuple[Ids, np.ndarray], parts: int) -> list[Exact8Segment]:
    ids, rows = faces
    return [Exact8Segment(ids[i::parts], rows[i::parts], scanner=SCANNER) for i in range(parts)]


def join_all(segments: Sequence[Exact8Segment], threshold: float, **terms: Any) -> Pairs:
    """All pairs within a gallery of these segments."""
    head = np.empty(0, np.int64), np.empty((0, DIM), np.float32)
    index = SegmentedIndex.restore(DIM, segments, head, removed_since={}, scanner=SCANNER)
    return join_gallery(Gallery(index), threshold, **terms).pairs


def stop_after(tiles: int):
    def stop(progress: Progress) -> None:
        if progress.tiles_done >= tiles:
            raise Stopped

    return stop


def test_a_join_goes_on_after_any_tile_in_other_segments(faces, expected, tmp_path) -> None:
    for parts, tiles in ((1, 0), (2, 1), (4, 2), (3, 17), (1, TILES - 1)):
        with pytest.raises(Stopped):
            join_all(
                cut(faces, parts),
                THRESHOLD,
                checkpoint=tmp_path,
                tile_rows=TILE,
                progress=stop_after(tiles),
            )
    seen: list[Progress] = []
    terms = {"checkpoint": tmp_path, "tile_rows": TILE, "progress": seen.append}
    for tiles_before in (TILES - 1, TILES):
        seen.clear()
        pairs = join_all(cut(faces, 2), THRESHOLD, **terms)
        assert np.array_equal(pairs.records, expected)
        assert [p.tiles_done for p in seen] == list(range(tiles_before, TILES + 1))


def test_other_terms_and_other_vectors_are_refused(faces, expected, tmp_path) -> None:
    ids, rows = faces
    kept, terms = cut(faces, 2), {"checkpoint": tmp_path, "tile_rows": TILE}
    with pytest.raises(Stopped):
        join_all(kept, THRESHOLD, **terms, progress=stop_after(5))
    exchanged = ids.copy()
    exchanged[[0, 1]] = exchanged[[1, 0]]
    for segments, threshold, changed, reason in (
        (kept, THRESHOLD + 1e-9, {}, "of another join"),
        (kept, THRESHOLD, {"tile_rows": TILE + 1}, "of another join"),
        (kept, THRESHOLD, {"known": ids[:9]}, "of another join"),
        (cut((exchanged, rows), 2), THRESHOLD, {}, "other vectors"),
        (cut((ids, rows.astype(np.float16)), 2), THRESHOLD, {}, "other vectors"),
    ):
        with pytest.raises(CheckpointInvalid, match=reason):
            join_all(segments, threshold, **terms | changed)
    assert np.array_equal(join_all(kept, THRESHOLD, **terms).records, expected)


def test_a_sweep_goes_on_in_a_gallery_that_has_changed(faces, expected, tmp_path) -> None:
    ids, rows = faces
    gallery = Gallery(SegmentedIndex(DIM, SegmentsConfig(head_rows=200, fan=3), scanner=SCANNER))
    for start in range(0, 2000, 100):
        part = slice(start, start + 100)
        gallery.add(ids[part], rows[part], gallery.sequence + 1)
    terms = {"checkpoint": tmp_path, "tile_rows": TILE}
    with pytest.raises(Stopped):
        join_gallery(gallery, THRESHOLD, **terms, progress=stop_after(9))
    began = gallery.sequence
    gallery.add(ids[2000:], rows[2000:], began + 1)
    gallery.remove(ids[:100], began + 2)
    gallery.settle()
    gallery.compact()
    swept = join_gallery(gallery, THRESHOLD, **terms)
    assert swept.sequence == began
    assert np.array_equal(swept.ids, np.sort(ids[:2000]))
    there = np.isin(expected["left"], ids[100:2000]) & np.isin(expected["right"], ids[100:2000])
    assert np.array_equal(swept.pairs.records, expected[there])
    fresh = join_gallery(gallery, THRESHOLD, known=swept.ids)
    both = np.isin(expected["left"], ids[100:]) & np.isin(expected["right"], ids[100:])
    assert np.array_equal(fresh.pairs.records, expected[both & ~there])


@pytest.mark.parametrize("before", [True, False])
def test_a_sweep_leaves_what_is_removed_while_it_starts_to_the_next_one(
    faces, expected, tmp_path, monkeypatch, before: bool
) -> None:
    ids, rows = faces
    config = SegmentsConfig(head_rows=500, fan=3)
    gallery = Gallery(SegmentedIndex(DIM, config, scanner=SCANNER))
    # A segment of its own, and a head.
    for part in (slice(0, 2100), slice(2100, ROWS)):
        gallery.add(ids[part], rows[part], gallery.sequence + 1)
    began, gone = gallery.sequence, []

    def remove_some(segment: Exact8Segment) -> None:
        gone.append(segment.ids[::20])
        gallery.remove(gone[-1], gallery.sequence + 1)

    terms = {"checkpoint": tmp_path, "tile_rows": TILE}
    with monkeypatch.context() as patch:
        change_beside_digests(patch, remove_some, before=before)
        with pytest.raises(Stopped):
            join_gallery(gallery, THRESHOLD, **terms, progress=stop_after(9))
    away = np.sort(np.concatenate(gone))
    assert len(gone) == len(gallery.pin().segments)
    places = np.flatnonzero(np.isin(ids, away))
    gallery.add(ids[places], rows[places], gallery.sequence + 1)
    swept = join_gallery(gallery, THRESHOLD, **terms)
    assert swept.sequence == began
    assert np.array_equal(swept.ids, np.setdiff1d(ids, away))
    is_left = np.isin(expected["left"], away) | np.isin(expected["right"], away)
    assert np.array_equal(swept.pairs.records, expected[~is_left])
    fresh = join_gallery(gallery, THRESHOLD, known=swept.ids)
    assert np.array_equal(fresh.pairs.records, expected[is_left])
    assert is_left.any()


def test_a_gallery_older_than_its_checkpoint_is_refused(faces, tmp_path) -> None:
    ids, rows = faces
    for sequence in (7, 6):
        gallery = Gallery(SegmentedIndex(DIM, scanner=SCANNER))
        gallery.add(ids, rows, sequence)
        if sequence == 7:
            join_gallery(gallery, THRESHOLD, checkpoint=tmp_path)
            continue
        with pytest.raises(CheckpointInvalid, match="replay the store first"):
            join_gallery(gallery, THRESHOLD, checkpoint=tmp_path)


_CHILD = """
import sys
from pathlib import Path
import numpy as np
from tests.indexes.joining.test_join_resumption import cut, join_all
held, parts = np.load(sys.argv[1]), int(sys.argv[3])
def report(progress):
    print(progress.tiles_done, flush=True)
segments = cut((held["ids"], held["rows"]), parts)
join_all(segments, 0.35, checkpoint=Path(sys.argv[2]), tile_rows=40, progress=report)
"""


def test_a_join_killed_at_any_moment_repeats_one_tile_at_most(faces, expected, tmp_path) -> None:
    ids, rows = faces
    np.savez(tmp_path / "faces.npz", ids=ids, rows=rows)
    folder, random, reported = tmp_path / "checkpoint", np.random.default_rng(5), [0]
    for parts in range(1, 4):
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, tmp_path / "faces.npz", folder, str(parts)],
            stdout=subprocess.PIPE,
            text=True,
        )
        began = int(child.stdout.readline())
        # Reported tiles are on the disk; the next one may be too, if the kill came before its
        # report.
        assert reported[-1] <= began <= reported[-1] + 1
        reported = [began]
        for _ in range(random.integers(0, 60)):
            reported.append(int(child.stdout.readline()))
        time.sleep(random.uniform(0, 0.01))
        child.send_signal(signal.SIGKILL)
        reported += map(int, child.stdout.read().split())
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
    seen: list[Progress] = []
    terms = {"checkpoint": folder, "tile_rows": 40, "progress": seen.append}
    pairs = join_all(cut(faces, 2), THRESHOLD, **terms)
    assert 0 < seen[0].tiles_done < seen[-1].tiles
    assert reported[-1] <= seen[0].tiles_done <= reported[-1] + 1
    assert np.array_equal(pairs.records, expected)


def test_an_exception_of_check_stops_a_join_within_a_tile(unit_rows, tmp_path) -> None:
    gallery = Gallery(SegmentedIndex(64))
    gallery.add(np.arange(4000), unit_rows(4000, 64), 1)
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise Stopped

    seen: list[Progress] = []
    scanner = Scanner(threads=1)
    with pytest.raises(Stopped):
        join_gallery(
            gallery, 0.4, checkpoint=tmp_path, check=check, progress=seen.append, scanner=scanner
        )
    scanner.close()
    assert [progress.tiles_done for progress in seen] == [0]
    # It went on to others, or it would have been asked three times in all.
    again = join_gallery(gallery, 0.4, checkpoint=tmp_path, check=check)
    assert asked > 4
    assert np.array_equal(again.pairs.records, join_gallery(gallery, 0.4).pairs.records)
    assert len(again.pairs) > 100
