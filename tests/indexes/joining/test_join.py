"""The join equals brute force, however references are distributed over segments."""

import subprocess
import sys
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.base import Ids, Vectors, exact_scores
from indexes.errors import IdInvalid, SearchInvalid, VectorInvalid
from indexes.exact.device import DeviceScanner
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.kernels import find_axes
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.joining import RECORD, tiling
from indexes.joining.join import Progress, join, join_gallery
from indexes.joining.tiling import Block, Records, sort_records
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from tests.indexes.conftest import KERNELS, open_kernel, remove_ids
from tests.indexes.joining.test_join_resumption import join_all

SCANNER = Scanner(threads=2)
DIM, ROWS, THRESHOLD = 64, 3000, 0.5


def random_rows(seed: int, n: int, dim: int = DIM) -> Vectors:
    """Rows of which many are near or equal to another."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((n, dim))
    copies = random.integers(0, n, n // 10)
    rows[random.integers(0, n, n // 10)] = rows[copies]
    near = random.integers(0, n, n // 10)
    rows[random.integers(0, n, n // 10)] = rows[near] + 0.8 * random.standard_normal((n // 10, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def brute_force(
    ids: Ids, rows: Vectors, threshold: float, others: tuple[Ids, Vectors] | None = None
) -> Records:
    other_ids, other_rows = others or (ids, rows)
    left, right = np.nonzero(np.float64(rows) @ np.float64(other_rows).T >= threshold - 1e-4)
    if others is None:
        left, right = left[ids[left] < ids[right]], right[ids[left] < ids[right]]
    scores = exact_scores(rows, other_rows, left, right)
    kept = scores.astype(np.float64) >= threshold
    found = np.empty(kept.sum(), RECORD)
    found["left"], found["right"] = ids[left[kept]], other_ids[right[kept]]
    found["score"] = scores[kept]
    return sort_records(found)


def segmented(ids: Ids, rows: Vectors, segment_of: np.ndarray) -> list[Exact8Segment]:
    """Segments of the rows that have one number."""
    return [
        Exact8Segment(ids[segment_of == i], rows[segment_of == i], scanner=SCANNER)
        for i in range(segment_of.max(initial=0) + 1)
    ]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from([0, 1, 33, 700, 2100]),
    m=st.sampled_from([0, 1, 40, 900]),
    parts=st.integers(1, 4),
    dim=st.sampled_from([64, 100]),
    threshold=st.sampled_from([0.4, 0.7, 1.0]),
    tile_rows=st.sampled_from([1, 100, 1000, 65_536]),
)
def test_a_join_is_brute_force_for_any_segments_and_tiles(
    seed: int, n: int, m: int, parts: int, dim: int, threshold: float, tile_rows: int
) -> None:
    random = np.random.default_rng(seed)
    if tile_rows == 1:
        n, m = min(n, 33), min(m, 40)
    rows, others = random_rows(seed, n, dim), random_rows(seed + 1, m, dim)
    shared = min(n, m) // 2
    others[:shared] = rows[:shared]
    ids, other_ids = random.permutation(3 * (n + m))[:n], np.arange(m)
    left = segmented(ids, rows, random.integers(0, parts, n))
    right = segmented(other_ids, others, random.integers(0, parts, m))
    gone = random.random(n) < 0.1
    for segment in left:
        remove_ids(segment, np.intersect1d(segment.ids, ids[gone]))
    ids, rows = ids[~gone], rows[~gone]
    within = join(left, None, threshold, tile_rows=tile_rows)
    assert np.array_equal(within.records, brute_force(ids, rows, threshold))
    between = join(left, right, threshold, tile_rows=tile_rows)
    assert np.array_equal(between.records, brute_force(ids, rows, threshold, (other_ids, others)))


@pytest.mark.parametrize("kernel", KERNELS)
def test_float16_rows_and_mixed_code_limits_join_exactly(kernel: str) -> None:
    rows, ids = random_rows(3, 900), np.arange(900)
    halves = rows.astype(np.float16).astype(np.float32)
    scanner = open_kernel(kernel, 2)
    segments = [
        Exact8Segment(ids[i::2], rows[i::2].astype(np.float16), limit=limit, scanner=scanner)
        for i, limit in enumerate((0.3, None))
    ]
    expected = brute_force(ids, halves, THRESHOLD)
    assert np.array_equal(join(segments, None, THRESHOLD, tile_rows=500).records, expected)
    scanner.close()


def test_progress_begins_at_nothing_and_counts_every_pair_of_references_once() -> None:
    rows, ids = random_rows(5, ROWS), np.arange(ROWS)
    few, gallery = (Gallery(SegmentedIndex(DIM)) for _ in range(2))
    few.add(ids[:900], rows[:900], 1)
    gallery.add(ids, rows, 1)
    for joined, known, tiles, compared in (
        (few, None, 3, 900 * 899 // 2),
        (gallery, ids[900:], 3 + 2 * 5, 900 * 2100 + 900 * 899 // 2),
    ):
        seen: list[Progress] = []
        terms = {"tile_rows": 500, "progress": seen.append, "known": known}
        pairs = join_gallery(joined, THRESHOLD, **terms).pairs
        assert [progress.tiles_done for progress in seen] == list(range(tiles + 1))
        assert {(p.tiles, p.comparisons_total) for p in seen} == {(tiles, compared)}
        assert (seen[0].comparisons, seen[0].pairs) == (0, 0)
        assert (seen[-1].comparisons, seen[-1].pairs) == (compared, len(pairs))


@pytest.mark.parametrize("threshold", [THRESHOLD, -0.1])
def test_a_removal_meanwhile_leaves_the_pairs_of_those_that_stay(threshold: float) -> None:
    # What is wiped scores 0, which reaches the lower threshold.
    rows, ids = random_rows(6, 900), np.arange(900)
    segments = segmented(ids, rows, ids % 3)
    gone = ids[::7]
    left = set(gone.tolist())

    def remove(progress: Progress) -> None:
        for segment in segments:
            some = np.intersect1d(segment.ids, np.array(sorted(left)[:60], np.int64))
            remove_ids(segment, some)
            left.difference_update(some.tolist())

    found = join_all(segments, threshold, tile_rows=100, progress=remove).records
    assert not left
    everything = brute_force(ids, rows, threshold)
    assert set(found.tolist()) <= set(everything.tolist())
    stays = ~np.isin(everything["left"], gone) & ~np.isin(everything["right"], gone)
    assert set(everything[stays].tolist()) <= set(found.tolist())


def test_sweeps_of_a_growing_gallery_find_each_pair_once() -> None:
    rows, ids = random_rows(7, ROWS), np.random.default_rng(7).permutation(ROWS)
    config = SegmentsConfig(head_rows=256, fan=3)
    gallery = Gallery(SegmentedIndex(DIM, config))
    found, known = [], None
    for part in (slice(0, 1700), slice(1700, 1800), slice(1800, ROWS)):
        for start in range(part.start, part.stop, 100):
            chunk = slice(start, min(start + 100, part.stop))
            gallery.add(ids[chunk], rows[chunk], gallery.sequence + 1)
        gallery.settle()
        swept = join_gallery(gallery, THRESHOLD, known=known)
        assert (swept.sequence, len(swept.ids)) == (gallery.sequence, part.stop)
        found.append(swept.pairs.records)
        known = swept.ids
    everything = sort_records(np.concatenate(found))
    assert np.array_equal(everything, brute_force(ids, rows, THRESHOLD))


_DENSE = """
import resource, sys
from pathlib import Path
import numpy as np
from indexes.gallery import Gallery
from indexes.joining.join import join_gallery
from indexes.segmented.segments import SegmentedIndex
rows = np.random.default_rng(0).standard_normal((2500, 64)).astype(np.float32)
rows /= np.linalg.norm(rows, axis=1, keepdims=True)
gallery = Gallery(SegmentedIndex(64))
gallery.add(np.arange(2500), rows, 1)
join_gallery(gallery, 0.5)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pairs = join_gallery(gallery, -1.0, checkpoint=Path(sys.argv[1])).pairs
read = sum(map(len, pairs.pieces(200_000)))
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(len(pairs), read, grown // 1024)
"""


def test_a_threshold_that_all_pairs_reach_takes_bounded_memory(tmp_path) -> None:
    # 62 MB of pairs, which are read from a mapped file and so are partly counted too.
    done = subprocess.run(
        [sys.executable, "-c", _DENSE, str(tmp_path)], capture_output=True, text=True, check=True
    )
    pairs, read, grown_mib = map(int, done.stdout.split())
    assert pairs == read == 2500 * 2499 // 2
    assert grown_mib < 350


def test_more_pairs_than_the_limit_are_refused_and_a_higher_limit_goes_on(tmp_path) -> None:
    rows, ids = random_rows(8, 1000), np.arange(1000)
    segments = segmented(ids, rows, ids % 2)
    with pytest.raises(SearchInvalid, match="more than 5000 pairs reach the threshold"):
        join_all(segments, 0.0, limit=5000, checkpoint=tmp_path, tile_rows=300)
    pairs = join_all(segments, 0.0, checkpoint=tmp_path, tile_rows=300)
    assert np.array_equal(pairs.records, brute_force(ids, rows, 0.0))


def test_invalid_joins_are_refused(unit_rows) -> None:
    index = Exact8Segment(np.arange(9), unit_rows(9, 64), scanner=SCANNER)
    other = Exact8Segment(np.arange(9, 18), unit_rows(9), scanner=SCANNER)
    with pytest.raises(VectorInvalid, match="of one dimension"):
        join([index], [other], 0.5)
    with pytest.raises(VectorInvalid, match="of one dimension"):
        join([index, other], None, 0.5)
    with pytest.raises(IdInvalid, match="in two segments"):
        join([index, index], None, 0.5)
    with pytest.raises(SearchInvalid):
        join([index], None, float("nan"))
    for wrong in (0, -5, 1.5, True):
        with pytest.raises(SearchInvalid, match="tile_rows"):
            join([index], None, 0.5, tile_rows=wrong)
        with pytest.raises(SearchInvalid, match="limit"):
            join([index], None, 0.5, limit=wrong)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_join_along_other_axes_finds_the_same_pairs(kernel: str, monkeypatch) -> None:
    dim = 128
    rows = random_rows(11, ROWS, dim) * np.float32(np.arange(1, dim + 1) ** -0.5)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids, scanner = np.arange(ROWS) * 3, open_kernel(kernel, 2)
    parts = [slice(0, 1000), slice(1000, ROWS)]
    sides = [
        # Of two code limits, which a block has one of.
        Exact8Segment(ids[part], rows[part], scanner=scanner, limit=0.4 + 0.2 * place)
        for place, part in enumerate(parts)
    ]
    found = []
    for smallest in (1 << 62, 0):
        monkeypatch.setattr("indexes.joining.tiling._AXES_FROM", smallest)
        found.append(join(sides, None, 0.9, tile_rows=1100))
    # Without its copies, which would be near one another in every block.
    alone = rows[np.unique(rows[:, 0], return_index=True)[1]][:1000]
    assert scanner.grid is None or find_axes(alone, 0.9, scanner.grid) is not None
    expected = brute_force(ids, rows, 0.9)
    assert len(expected) > 100
    assert all(np.array_equal(one.records, expected) for one in found)
    assert found[0].bounds == ("bytes",)
    (bound,) = found[1].bounds
    assert bound.startswith("prefix ") == (scanner.grid is not None), bound


@pytest.mark.parametrize("axes_from", [1 << 62, 0])
@pytest.mark.parametrize("kernel", [None, "device"])
def test_a_running_join_holds_no_code_of_what_was_removed_before_its_last_check(
    kernel: str | None, axes_from: int, monkeypatch
) -> None:
    dim, count, gone = 128, 2000, np.array([5, 700])
    rows = random_rows(12, count, dim) * np.float32(np.arange(1, dim + 1) ** -0.5)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    scanner = open_kernel(kernel, 2) if kernel else SCANNER
    gallery = Gallery(SegmentedIndex(dim, SegmentsConfig(head_rows=256), scanner=scanner))
    gallery.add(np.arange(count), rows, 1)
    gallery.settle()
    blocks = WeakSet[Block]()

    class Watched(Block):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            blocks.add(self)

    monkeypatch.setattr(tiling, "Block", Watched)
    monkeypatch.setattr(tiling, "_AXES_FROM", axes_from)
    held: list[list[int]] = []

    def check() -> None:
        counts = [0, 0]
        for block in list(blocks):
            at = np.flatnonzero(np.isin(block.ids, gone))
            counts[0] += int((block.codes.bytes[at] != 128).sum())
            if isinstance(scanner, DeviceScanner) and block.codes in scanner._residents:
                counts[1] += int((scanner._residents[block.codes][at] != 0).sum())
        held.append(counts)
        # The block of one is on both sides here, and that of the other is to come.
        if len(held) == 2:
            gallery.remove(gone, 2)

    join_gallery(gallery, 0.9, tile_rows=600, check=check)
    assert held[1][0] > dim // 2
    assert (held[1][1] > dim // 2) == (kernel == "device")
    assert len(held) > 10
    assert held[2:] == [[0, 0]] * (len(held) - 2)
