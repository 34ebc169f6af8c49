"""Gallery: the watermark, and what threads see of each other."""

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes import gallery as galleries
from indexes.base import Positions, Vectors
from indexes.errors import IdInvalid, SequenceInvalid, VectorInvalid
from indexes.exact.codes import Codes
from indexes.exact.exact8 import MemoryRows
from indexes.exact.kernels import Rows, Wanted
from indexes.exact.scanner import Scanner
from indexes.exact.scans import Scan
from indexes.gallery import Found, Gallery, SharedLock, Standing
from indexes.segmented.merging import Rewrite, SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from indexes.sharding.shards import ShardPlan
from tests.indexes.conftest import assert_same
from tests.indexes.sharding.local_shards import open_local

BATCH = 8


@pytest.fixture
def gallery(unit_rows) -> Gallery:
    gallery = Gallery(SegmentedIndex(16, scanner=SCANNER))
    gallery.add(np.arange(10), unit_rows(10), sequence=5)
    return gallery


def test_an_answer_states_the_gallery_that_was_searched(gallery, unit_rows) -> None:
    for found in (gallery.search(unit_rows(2), 1), gallery.range_search(unit_rows(2), 0.99)):
        assert (found.sequence, found.searched) == (5, 10)
        assert found.hits.ids.tolist() == [0, 1]


@pytest.mark.parametrize("sequence", [5, 4, 0, -1])
def test_a_sequence_that_does_not_grow_is_refused_and_changes_nothing(
    gallery, unit_rows, sequence: int
) -> None:
    with pytest.raises(SequenceInvalid):
        gallery.add(np.array([50]), unit_rows(1), sequence)
    with pytest.raises(SequenceInvalid):
        gallery.remove(np.array([1]), sequence)
    assert gallery.ids.tolist() == list(range(10))
    assert gallery.sequence == 5


def test_a_refused_batch_leaves_the_watermark_and_the_lock_free(gallery, unit_rows) -> None:
    with pytest.raises(IdInvalid):
        gallery.add(np.array([1]), unit_rows(1), sequence=6)
    with pytest.raises(VectorInvalid):
        gallery.add(np.array([50]), unit_rows(1) * 2, sequence=6)
    with pytest.raises(IdInvalid):
        gallery.remove(np.array([50]), sequence=6)
    with pytest.raises(VectorInvalid):
        gallery.search(unit_rows(1) * 2, 1)
    assert gallery.sequence == 5
    gallery.add(np.array([50]), unit_rows(1), sequence=6)
    assert 50 in gallery
    assert gallery.look() == Standing(sequence=6, size=11, coming=None)


def test_an_empty_batch_moves_the_watermark(gallery) -> None:
    gallery.add(np.empty(0, np.int64), np.empty((0, 16), np.float32), sequence=9)
    assert (gallery.sequence, len(gallery)) == (9, 10)


def test_a_loaded_index_starts_at_the_sequence_of_its_store(unit_rows) -> None:
    index = SegmentedIndex(16, scanner=SCANNER)
    index.add(np.arange(10), unit_rows(10))
    assert Gallery(index, sequence=77).search(unit_rows(1), 1).sequence == 77
    with pytest.raises(SequenceInvalid):
        Gallery(index, sequence=-1)


SCANNER = Scanner(threads=2)
HEAD_ROWS = 16


@pytest.fixture
def segmented(unit_rows) -> Gallery:
    """Ids 0 to 99: 64 in one segment, 36 in two full heads and a growing one."""
    gallery = Gallery(SegmentedIndex(16, SegmentsConfig(head_rows=HEAD_ROWS), scanner=SCANNER))
    rows = unit_rows(100)
    gallery.add(np.arange(64), rows[:64], sequence=1)
    for start in range(64, 100, 4):
        gallery.add(np.arange(start, start + 4), rows[start : start + 4], sequence=start)
    return gallery


def in_two_batches(
    rows: Vectors, scanner: Scanner = SCANNER, index: SegmentedIndex | None = None
) -> Gallery:
    """The first 64 rows, which are a segment, and then the others."""
    config = SegmentsConfig(head_rows=HEAD_ROWS)
    # An empty index is false.
    gallery = Gallery(SegmentedIndex(16, config, scanner=scanner) if index is None else index)
    for number, ids in enumerate(np.split(np.arange(len(rows)), [64]), 1):
        gallery.add(ids, rows[ids], number)
    return gallery


class UnreadableRows(MemoryRows):
    """Rows of a file that cannot be read any more."""

    def take(self, rows: Positions) -> Vectors:
        raise OSError(f"the file is gone, and {len(rows)} rows with it")


def sealed_names(gallery: Gallery) -> set[str]:
    pinned = gallery.pin()
    return {segment.name for segment in pinned.segments[: len(pinned.segments) - pinned.head]}


def test_compact_leaves_nothing_of_what_was_removed(segmented) -> None:
    names = sealed_names(segmented)
    segmented.remove(np.array([1, 70, 99]), sequence=200)
    segmented.compact()
    pinned = segmented.pin()
    assert all(not segment.removed for segment in pinned.segments)
    assert pinned.removed_since == {}
    assert not np.isin([1, 70, 99], np.concatenate([s.row_ids for s in pinned.segments])).any()
    assert not names & sealed_names(segmented)
    assert len(segmented) == 97


def test_a_refused_large_batch_changes_nothing(segmented, unit_rows) -> None:
    rows, ids = unit_rows(100, seed=2), np.r_[200:299, 70]
    with pytest.raises(IdInvalid, match="id 70"):
        segmented.add(ids, rows, sequence=200)
    with pytest.raises(SequenceInvalid):
        segmented.add(np.arange(200, 300), rows, sequence=96)
    rows[3] *= 2
    with pytest.raises(VectorInvalid, match="vector 3"):
        segmented.add(np.arange(200, 300), rows, sequence=200)
    assert (segmented.sequence, len(segmented)) == (96, 100)
    segmented.add(np.arange(200, 300), unit_rows(100, seed=2), sequence=200)
    assert (segmented.sequence, len(segmented)) == (200, 200)


def test_rows_served_from_elsewhere_are_without_what_was_removed_since_they_were_copied(
    segmented, unit_rows
) -> None:
    (segment, _) = segmented.pin().segments
    copied = MemoryRows(segment.rows.take(np.arange(64)))
    segmented.remove(np.array([7, 9]), sequence=200)
    assert segmented.replace_rows(segment.name, copied)
    assert [one.rows for one in segmented.segments] == [copied]
    at = segment.find(np.arange(64))[0]
    assert np.flatnonzero(~copied.take(at).any(axis=1)).tolist() == [7, 9]
    assert np.array_equal(segmented.vectors(segmented.ids), unit_rows(100)[segmented.ids])
    segmented.compact()
    assert not segmented.replace_rows(segment.name, copied)


class HeldRows(MemoryRows):
    """Rows of which a read waits until it is let on."""

    def __init__(self, rows: Vectors) -> None:
        super().__init__(rows)
        self.begun, self.released = threading.Event(), threading.Event()

    def take(self, rows: Positions) -> Vectors:
        self.begun.set()
        assert self.released.wait(WAIT_S)
        return super().take(rows)


def test_who_reads_an_older_view_reads_its_rows_whole_and_then_they_are_wiped_everywhere(
    unit_rows,
) -> None:
    gallery = in_two_batches(unit_rows(128))
    first, second = gallery.segments
    held = HeldRows(first.rows.select(np.arange(64))[0].copy())
    gallery.replace_rows(first.name, held)
    served = second.rows
    copied = MemoryRows(served.take(np.arange(64)))
    gone = second.find(np.array([70]))[0]
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(gallery.vectors, np.arange(128))
        assert held.begun.wait(WAIT_S)
        gallery.remove(np.array([70]), sequence=3)
        gallery.replace_rows(second.name, copied)
        assert not copied.take(gone).any()
        held.released.set()
        assert np.array_equal(reading.result(), unit_rows(128))
    assert not served.take(gone).any()
    assert gallery.ids.tolist() == [i for i in range(128) if i != 70]


def test_the_rows_that_are_served_from_elsewhere_are_freed_by_their_last_reader_and_wiped_in_both(
    segmented,
) -> None:
    pinned = segmented.pin()
    (segment, _) = pinned.segments
    stores = [segment.rows, MemoryRows(segment.rows.take(np.arange(64)))]
    segmented.replace_rows(segment.name, stores[1])
    segmented.remove(np.array([7, 9]), sequence=200)
    at = segment.find(np.arange(64))[0]
    for store in stores:
        assert np.flatnonzero(~store.take(at).any(axis=1)).tolist() == [7, 9]
    assert np.flatnonzero(~segment.alive_rows[at]).tolist() == [7, 9]
    older = weakref.ref(stores.pop(0))
    del store
    assert older() is not None
    del pinned, segment
    assert older() is None


def test_a_job_that_fails_leaves_the_gallery_as_it_was(segmented, unit_rows) -> None:
    segment = segmented.pin().segments[0]
    whole = segment.rows
    segmented.remove(np.array([7]), sequence=200)
    segmented.replace_rows(segment.name, UnreadableRows(whole.take(np.arange(64))))
    with pytest.raises(OSError, match="gone"):
        segmented.compact()
    assert segmented.search(unit_rows(2), 1).hits.ids.tolist() == [0, 1]
    segmented.remove(np.array([8]), sequence=201)
    segmented.replace_rows(segment.name, whole)
    segmented.compact()
    assert segmented.ids.tolist() == [i for i in range(100) if i not in (7, 8)]
    assert segmented.pin().removed_since == {}


def test_a_swap_that_fails_loses_nothing_and_is_made_later(unit_rows, monkeypatch) -> None:
    gallery = Gallery(SegmentedIndex(16, SegmentsConfig(head_rows=4, fan=2)))
    for start in range(0, 12, 4):
        ids = np.arange(start, start + 4)
        gallery.add(ids, unit_rows(12)[ids], sequence=start + 1)

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Rewrite, "settle", fail)
        with pytest.raises(MemoryError):
            gallery.maintain()
        assert gallery.search(unit_rows(12), 1).hits.ids.tolist() == list(range(12))
        gallery.remove(np.array([5]), sequence=20)
    gallery.settle()
    assert gallery.ids.tolist() == [key for key in range(12) if key != 5]
    assert gallery.removals == 1


class HeldScanner(Scanner):
    """A scanner whose first scan waits in the middle of a search until it is released."""

    def __init__(self) -> None:
        super().__init__(threads=1)
        self.begun, self.released = threading.Event(), threading.Event()

    def _scan_for(self, codes: Codes, rows: Rows, wanted: Wanted) -> Scan:
        if not self.begun.is_set():
            self.begun.set()
            assert self.released.wait(WAIT_S)
        return super()._scan_for(codes, rows, wanted)


@pytest.mark.parametrize("k", [None, 3])
def test_changes_do_not_wait_for_a_search_and_its_answer_leaves_out_what_they_removed(
    unit_rows, k: int | None
) -> None:
    scanner, rows = HeldScanner(), unit_rows(100)
    gallery = in_two_batches(rows[:72], scanner)
    queries = rows[[7, 70, 90]]

    def search() -> Found:
        return gallery.search(queries, k) if k else gallery.range_search(queries, 0.99)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(search)
        assert scanner.begun.wait(WAIT_S)
        gallery.add(np.arange(72, 100), rows[72:], sequence=3)
        gallery.remove(np.array([7, 70]), sequence=4)
        gallery.settle()
        assert (gallery.sequence, len(gallery)) == (4, 98)
        assert search().hits.ids.tolist().count(90) == 1
        scanner.released.set()
        found = running.result()
    assert (found.sequence, found.searched) == (2, 72)
    assert not {7, 70, 90} & set(found.hits.ids.tolist())
    assert len(found.hits.ids) == (2 + 2 + 3 if k else 0)


def test_what_is_removed_is_wiped_from_what_is_pinned_and_when_older_searches_end(
    unit_rows,
) -> None:
    scanner, rows = HeldScanner(), unit_rows(100)
    gallery = in_two_batches(rows, scanner)
    pinned = gallery.pin()
    gallery.remove(np.array([1]), sequence=3)
    # The pinned segments are not the gallery's any more.
    gallery.settle()
    gallery.compact()
    gone = np.array([5, 70, 99])

    def left() -> list[int]:
        """How many of the rows are not zero: of the pinned segments, of their codes."""
        counts = [0, 0]
        for segment in pinned.segments:
            at = np.flatnonzero(np.isin(segment.row_ids, gone))
            counts[0] += int(segment.rows.take(at).any(axis=1).sum())
            counts[1] += int((segment.codes.bytes[at] != 128).any(axis=1).sum())
        return counts

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(gallery.range_search, rows, 0.99)
        assert scanner.begun.wait(WAIT_S)
        gallery.remove(gone, sequence=4)
        # A search that began before reads them.
        assert left() == [3, 3]
        scanner.released.set()
        assert not np.isin(gone, running.result().hits.ids).any()
    assert left() == [0, 0]
    alive = [s.alive_rows[np.isin(s.row_ids, gone)] for s in pinned.segments]
    assert not np.concatenate(alive).any()


class FailingRows(MemoryRows):
    """Rows that cannot be wiped so many times."""

    fails = 0

    def wipe(self, rows: Positions) -> None:
        self.fails -= 1
        if self.fails >= 0:
            raise MemoryError
        super().wipe(rows)


def test_a_wipe_that_fails_keeps_no_other_from_being_done_and_is_done_later(unit_rows) -> None:
    scanner, rows = HeldScanner(), unit_rows(100)
    index = SegmentedIndex(16, SegmentsConfig(head_rows=HEAD_ROWS), scanner=scanner)
    gallery = in_two_batches(rows, index=index)
    (segment,) = gallery.segments
    store = FailingRows(segment.rows.take(np.arange(64)))
    gallery.replace_rows(segment.name, store)
    (segment,) = gallery.segments
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(gallery.range_search, rows, 0.99)
        assert scanner.begun.wait(WAIT_S)
        gallery.remove(np.array([5, 70]), sequence=3)
        gallery.remove(np.array([6, 80, 99]), sequence=4)
        store.fails = 1
        scanner.released.set()
        with pytest.raises(MemoryError):
            running.result()
    at = np.flatnonzero(~segment.alive_rows)
    assert len(at) == 2
    assert (segment.codes.bytes[at] == 128).all()
    assert store.take(at).any(axis=1).sum() == 1
    assert [int((~head.alive).sum()) for head in index.heads] == [1, 1, 1]
    assert not any(head.rows[~head.alive].any() for head in index.heads)
    assert not {5, 6, 70, 80, 99} & set(gallery.range_search(rows, 0.99).hits.ids.tolist())
    assert not store.take(at).any()


PLAN = ShardPlan(16, threads=1, config=SegmentsConfig(head_rows=4, fan=2))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 39), st.integers(0, 9)),
        st.tuples(st.just("remove"), st.integers(0, 39), st.integers(0, 9)),
        st.tuples(st.just("settle"), st.just(0), st.just(0)),
    ),
    max_size=9,
)


@pytest.fixture(scope="module", params=["segmented", "sharded"])
def open_gallery(request) -> Callable[[], AbstractContextManager[Gallery]]:
    @contextmanager
    def opened() -> Iterator[Gallery]:
        if request.param == "sharded":
            with open_local(PLAN, 2) as index:
                yield Gallery(index)
        else:
            yield Gallery(SegmentedIndex(16, PLAN.config, scanner=SCANNER))

    return opened


@settings(max_examples=40, deadline=None)
@given(before=STEPS, after=STEPS, known=st.sampled_from([(64, 4096), (2, 4096), (64, 12)]))
def test_an_answer_brought_up_to_date_is_the_one_of_a_new_search(
    open_gallery,
    unit_rows,
    before: list[tuple[str, int, int]],
    after: list[tuple[str, int, int]],
    known: tuple[int, int],
) -> None:
    """Whatever was added, removed, added again, merged, or is too much to be known."""
    # Five faces, so that most rows are above the threshold for some query.
    rows = unit_rows(5)[np.arange(40) % 5] + 0.2 * unit_rows(40, seed=1)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def change(gallery: Gallery, steps: list[tuple[str, int, int]]) -> None:
        for step, first, count in steps:
            ids = np.arange(first, min(first + count, 40))
            present = np.isin(ids, gallery.ids)
            if step == "add":
                ids = ids[~present]
                gallery.add(ids, rows[ids], gallery.sequence + 1)
            elif step == "remove":
                gallery.remove(ids[present], gallery.sequence + 1)
            else:
                gallery.settle()

    with pytest.MonkeyPatch.context() as patched, open_gallery() as gallery:
        patched.setattr(galleries, "RECENT_CHANGES", known[0])
        patched.setattr(galleries, "RECENT_IDS", known[1])
        change(gallery, before)
        queries = unit_rows(5)[: len(before)]
        found = gallery.range_search(queries, 0.9)
        change(gallery, after)
        renewed, expected = gallery.refresh(found, queries, 0.9), gallery.range_search(queries, 0.9)
        assert_same(renewed.hits, expected.hits)
        assert (renewed.sequence, renewed.searched) == (expected.sequence, expected.searched)


def test_of_ids_that_are_asked_for_only_those_there_are_read(open_gallery, unit_rows) -> None:
    """In sealed segments and in heads, in the order asked for."""
    rows = unit_rows(40)
    with open_gallery() as gallery:
        for number in range(10):
            ids = np.arange(4 * number, 4 * number + 4)
            gallery.add(ids, rows[ids], number + 1)
            if number == 7:
                gallery.settle()
        gallery.remove(np.array([3, 17, 39]), 11)
        for asked, there in (
            ([38, 17, 2, 3, 39, 100, 5], [38, 2, 5]),
            ([17, 3], []),
            ([], []),
            ([36, 0], [36, 0]),
        ):
            ids, found = gallery.held(np.array(asked, np.int64))
            assert ids.tolist() == there
            assert np.array_equal(found, rows[ids])


class CountedIds(np.ndarray[Any, np.dtype[np.int64]]):
    """Ids that count how often anybody asks how many they are."""

    asked = 0

    def __len__(self) -> int:
        CountedIds.asked += 1
        return super().__len__()


def test_a_change_looks_at_no_other_that_is_kept_and_once_at_each_that_goes() -> None:
    state = galleries._State(SegmentedIndex(16, scanner=SCANNER).view, 0, 0, 0, (), 0, 0)
    kept = 10 * galleries.RECENT_CHANGES

    def change(number: int, kept_from: int) -> galleries._State:
        CountedIds.asked = 0
        ids = np.array([number, number + 1]).view(CountedIds)
        return state.after(state.index, number, ids, is_removal=False, kept_from=kept_from)

    for number in range(1, kept + 1):
        state = change(number, kept_from=0)
        assert CountedIds.asked <= 2
    assert (len(state.recent), state.recent_ids, state.known_from) == (kept, 2 * kept, 0)
    state = change(kept + 1, kept_from=kept)
    assert CountedIds.asked <= 2 + kept
    gone = kept + 1 - galleries.RECENT_CHANGES
    assert [one.sequence for one in state.recent] == list(range(gone + 1, kept + 2))
    assert (state.recent_ids, state.known_from) == (2 * galleries.RECENT_CHANGES, gone)


WAIT_S = 300
PAUSE_S = 0.05


def test_readers_share_it() -> None:
    lock, together = SharedLock(), threading.Barrier(3)

    def read() -> None:
        with lock.reading():
            together.wait(WAIT_S)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    # Passes only while both are inside.
    together.wait(WAIT_S)
    for thread in threads:
        thread.join()


def test_a_waiting_writer_goes_before_later_readers() -> None:
    lock, order = SharedLock(), []

    def write() -> None:
        with lock.writing():
            order.append("writer")

    def read() -> None:
        with lock.reading():
            order.append("reader")

    with lock.reading():
        writer = threading.Thread(target=write)
        writer.start()
        while not lock._writers_waiting:
            time.sleep(0.001)
        reader = threading.Thread(target=read)
        reader.start()
        # A reader may join the one inside but for the writer that waits. Too short a pause only
        # hides that it did.
        time.sleep(PAUSE_S)
        assert order == []
    writer.join(WAIT_S)
    reader.join(WAIT_S)
    assert order == ["writer", "reader"]
