"""A join over shards is the join of one gallery."""

import time
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from threading import Lock
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from indexes.base import Ids, Vectors
from indexes.errors import CheckpointInvalid, PairsExceeded, ShardLost
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.scanner import Scanner
from indexes.gallery import Gallery
from indexes.joining.join import JoinedGallery, Progress, join_gallery
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from indexes.sharding.host import Shard
from indexes.sharding.joining import join_shards, plan_tiles
from indexes.sharding.sharded_index import ShardedIndex
from indexes.sharding.shards import Placement, ShardPlan
from tests.indexes.conftest import change_beside_digests
from tests.indexes.joining.test_join import random_rows
from tests.indexes.sharding.local_shards import open_local

DIM, THRESHOLD = 64, 0.5
CONFIG = SegmentsConfig(head_rows=64, fan=3)
PLAN = ShardPlan(DIM, 1, CONFIG)


class Twins:
    """One gallery in one piece and over shards."""

    def __init__(self, index: ShardedIndex) -> None:
        self.index = index
        self.sharded = Gallery(index)
        self.whole = Gallery(SegmentedIndex(DIM, CONFIG))

    def add(self, ids: Ids, rows: Vectors) -> None:
        for gallery in (self.sharded, self.whole):
            gallery.add(ids, rows, gallery.sequence + 1)

    def remove(self, ids: Ids) -> None:
        for gallery in (self.sharded, self.whole):
            gallery.remove(ids, gallery.sequence + 1)

    def join(self, threshold: float = THRESHOLD, **options: object) -> JoinedGallery:
        return join_shards(self.sharded, self.index, threshold, block_rows=70, **options)  # type: ignore[arg-type]

    def assert_same(self, known: Ids | None = None, threshold: float = THRESHOLD) -> JoinedGallery:
        expected = join_gallery(self.whole, threshold, known=known, tile_rows=100)
        found = self.join(threshold, known=known)
        assert np.array_equal(found.pairs.records, expected.pairs.records)
        assert np.array_equal(found.ids, expected.ids)
        assert found.sequence == expected.sequence
        return found


@pytest.mark.parametrize("shards", [1, 2, 3, 4])
def test_all_pairs_and_new_ones_are_those_of_one_gallery(shards: int) -> None:
    rows, ids = random_rows(1, 900), np.random.default_rng(1).permutation(3000)[:900]
    with open_local(PLAN, shards) as index:
        twins = Twins(index)
        twins.assert_same()
        twins.add(ids[:600], rows[:600])
        first = twins.assert_same()
        assert len(first.pairs) > 50
        twins.add(ids[600:], rows[600:])
        twins.remove(ids[500:650])
        assert len(twins.assert_same(known=first.ids).pairs) > 20
        twins.assert_same()
        twins.assert_same(known=np.empty(0, np.int64))
        twins.assert_same(threshold=-0.05)


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(0, 200),
    new=st.one_of(st.none(), st.integers(0, 200)),
    shards=st.integers(1, 6),
    block_rows=st.integers(1, 90),
)
def test_tiles_decide_on_every_pair_once_and_count_it(
    n: int, new: int | None, shards: int, block_rows: int
) -> None:
    ids = np.arange(n) * 3
    count = n if new is None else min(new, n)
    known = None if new is None else ids[count:]
    tiles = list(plan_tiles(ids[:count], known, Placement.spread(64, shards), block_rows))
    expected = count * (n - count) + count * (count - 1) // 2
    if new is None:
        expected = n * (n - 1) // 2
    assert sum(tile.comparisons for tile in tiles) == expected
    assert all(0 < len(tile.ids) <= block_rows for tile in tiles)


def test_a_join_says_by_which_bounds_its_shards_dropped_pairs(monkeypatch, tmp_path) -> None:
    rows = random_rows(7, 2400) * np.float32(np.arange(1, DIM + 1) ** -1.0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with open_local(PLAN, 2) as index, closing(Scanner()) as scanner:
        gallery = Gallery(index)
        gallery.add(np.arange(2400), rows, 1)
        assert join_shards(gallery, index, 0.95).pairs.bounds == ("bytes",)
        monkeypatch.setattr("indexes.joining.tiling._AXES_FROM", 0)
        bounds = join_shards(gallery, index, 0.95, checkpoint=tmp_path / "kept").pairs.bounds
        assert any(one.startswith("prefix ") for one in bounds) == (scanner.grid is not None)
        # Its tiles are all made: what it says now, it has kept.
        monkeypatch.undo()
        again = join_shards(gallery, index, 0.95, checkpoint=tmp_path / "kept")
        assert again.pairs.bounds == bounds


def test_a_join_that_was_stopped_goes_on_after_the_tiles_that_it_kept(tmp_path) -> None:
    rows, ids = random_rows(3, 900), np.arange(900)
    with open_local(PLAN, 3) as index:
        twins = Twins(index)
        twins.add(ids, rows)
        expected = join_gallery(twins.whole, THRESHOLD).pairs.records
        seen: list[int] = []

        def stop(progress: Progress) -> None:
            seen.append(progress.tiles_done)
            if progress.tiles_done % 5 == 0 and seen[-2:-1] not in ([], [-1]):
                raise KeyboardInterrupt

        for _ in range(40):
            try:
                found = twins.join(checkpoint=tmp_path / "kept", progress=stop)
            except KeyboardInterrupt:
                seen.append(-1)
                continue
            break
        assert np.array_equal(found.pairs.records, expected)
        reported = [tile for tile in seen if tile > 0]
        assert len(reported) - len(set(reported)) <= seen.count(-1)
        # What came and went meanwhile is not in it, and it says so.
        sequence = twins.sharded.sequence
        twins.add(ids[:50] + 5000, rows[:50])
        twins.remove(ids[:100])
        again = twins.join(checkpoint=tmp_path / "kept")
        assert again.sequence == sequence
        stays = (expected["left"] >= 100) & (expected["right"] >= 100)
        assert np.array_equal(again.pairs.records, expected[stays])


@pytest.mark.parametrize("before", [True, False])
def test_references_removed_beside_a_start_leave_the_checkpoint_good_and_are_in_no_pair(
    tmp_path, monkeypatch, before: bool
) -> None:
    rows, ids = random_rows(9, 900), np.arange(900)
    with open_local(PLAN, 3) as index:
        twins = Twins(index)
        twins.add(ids, rows)
        everything = join_gallery(twins.whole, THRESHOLD).pairs
        gone: list[Ids] = []
        # The shards digest at the same time.
        changing = Lock()

        def remove_some(segment: Exact8Segment) -> None:
            with changing:
                gone.append(segment.ids[::40])
                twins.remove(gone[-1])

        def stop(progress: Progress) -> None:
            if progress.tiles_done >= until:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            change_beside_digests(patch, remove_some, before=before)
            for until in (2, 7, 12):
                with pytest.raises(KeyboardInterrupt):
                    twins.join(checkpoint=tmp_path / "kept", progress=stop)
                if until == 2:
                    at_first = np.concatenate(gone)
            found = twins.join(checkpoint=tmp_path / "kept")
        assert np.array_equal(found.ids, np.setdiff1d(ids, at_first))
        expected = join_gallery(twins.whole, THRESHOLD).pairs
        assert np.array_equal(found.pairs.records, expected.records)
        assert 0 < len(expected) < len(everything)


def test_tiles_of_more_pairs_than_a_message_holds_are_joined_in_parts_and_the_whole_has_its_limit(
    monkeypatch,
) -> None:
    rows, ids = random_rows(8, 600), np.arange(600)
    with open_local(PLAN, 3) as index:
        twins = Twins(index)
        twins.add(ids, rows)
        expected = join_gallery(twins.whole, 0.0).pairs.records
        monkeypatch.setattr("indexes.sharding.host.JOINED_LIMIT", len(expected) // 40)
        found = twins.join(0.0).pairs.records
        assert np.array_equal(found, expected)
        assert len(twins.join(0.0, limit=len(expected)).pairs.records) == len(expected)
        for join in (partial(join_gallery, twins.whole), twins.join):
            with pytest.raises(PairsExceeded, match="raise it"):
                join(0.0, limit=len(expected) - 1)


class CountedShard:
    """A shard that counts its joins, and takes its time over the first."""

    def __init__(self, shard: Shard, first_s: float) -> None:
        self._shard = shard
        self._first_s = first_s
        self.joins = 0

    def join(self, *question: Any) -> Future[list[NDArray[Any]]]:
        self.joins += 1
        if self.joins == 1:
            time.sleep(self._first_s)
        return self._shard.join(*question)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shard, name)


def test_a_stop_behind_a_slow_tile_repeats_one_tile_a_shard_at_most(tmp_path) -> None:
    rows, ids = random_rows(6, 900), np.arange(900)
    with open_local(PLAN, 3) as index:
        counted = [
            CountedShard(shard, 0.3 * (not place)) for place, shard in enumerate(index.shards)
        ]
        slow = ShardedIndex(PLAN, cast(list[Shard], counted))
        gallery = Gallery(slow)
        gallery.add(ids, rows, 1)
        kept = []

        def stop(progress: Progress) -> None:
            kept.append(progress.tiles_done)
            if progress.tiles_done == 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            join_shards(
                gallery, slow, THRESHOLD, block_rows=70, checkpoint=tmp_path / "kept", progress=stop
            )
        assert kept == [0, 1]
        assert sum(shard.joins for shard in counted) - 1 <= len(counted)


def test_references_that_come_and_go_meanwhile_leave_the_pairs_of_the_others() -> None:
    rows, ids = random_rows(4, 900), np.arange(900)
    with open_local(PLAN, 2) as index:
        twins = Twins(index)
        twins.add(ids, rows)
        everything = join_gallery(twins.whole, THRESHOLD).pairs.records

        def change(progress: Progress) -> None:
            start = 10 * progress.tiles_done
            if start < 300:
                twins.remove(ids[start : start + 10])
                twins.add(ids[start : start + 10] + 5000, rows[start : start + 10])

        found = twins.join(progress=change).pairs.records
    assert set(found.tolist()) <= set(everything.tolist())
    stays = (everything["left"] >= 300) & (everything["right"] >= 300)
    assert set(everything[stays].tolist()) <= set(found.tolist())


def test_a_checkpoint_of_other_shards_other_vectors_or_a_later_gallery_is_refused(tmp_path) -> None:
    rows, ids = random_rows(5, 200), np.arange(200)

    def begin(shards: int, vectors: Vectors, changes: int = 1) -> None:
        with open_local(PLAN, shards) as index:
            twins = Twins(index)
            for part in np.array_split(ids, changes):
                twins.add(part, vectors[part])
            twins.join(checkpoint=tmp_path / "kept")

    begin(2, rows, changes=3)
    for shards, vectors, changes in ((3, rows, 3), (2, random_rows(6, 200), 3), (2, rows, 2)):
        with pytest.raises(CheckpointInvalid):
            begin(shards, vectors, changes)
    begin(2, rows, changes=4)


def test_a_lost_shard_ends_it() -> None:
    rows, ids = random_rows(7, 300), np.arange(300)
    with open_local(PLAN, 2) as index:
        twins = Twins(index)
        twins.add(ids, rows)
        index.shards[1].close()
        with pytest.raises(ShardLost):
            twins.join()
