"""ShardedIndex compared with brute force, and its refusals; over shards in this process."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from threading import Event
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes import gallery as galleries
from indexes.base import Hits, Ids, Vectors
from indexes.errors import ShardLost, VectorInvalid
from indexes.exact.exact8 import Exact8Segment
from indexes.exact.scanner import Scanner
from indexes.gallery import RECENT_CHANGES, RECENT_IDS, Found, Gallery, Standing
from indexes.segmented.merging import SegmentsConfig
from indexes.sharding.sharded_index import ShardedIndex, merge_hits
from indexes.sharding.shards import ShardPlan, virtual_shards_of
from tests.indexes.conftest import ask, assert_same
from tests.indexes.oracle import BruteForce
from tests.indexes.sharding.local_shards import LocalShard, SlowToAdd, open_local
from tests.indexes.test_upkeep import SickRows
from tests.waiting import wait_until

WAIT_S = 60
SEGMENTS = SegmentsConfig(head_rows=8, fan=2)
PLAN = ShardPlan(16, threads=1, config=SEGMENTS)
EVERY_CALL: list[Callable[[ShardedIndex, Vectors], object]] = [
    lambda index, rows: index.add(np.arange(100, 104), rows[:4]),
    lambda index, _: index.remove(np.arange(2)),
    lambda index, rows: index.search(rows[:2], 3),
    lambda index, rows: index.range_search(rows[:2], 0.5),
    lambda index, _: index.vectors(np.arange(2)),
    lambda index, _: index.held(np.arange(2)),
    lambda index, _: index.account(),
    lambda index, _: index.compact(),
    lambda index, _: index.ids,
    lambda index, _: len(index),
    lambda index, _: index.require_whole(),
    lambda index, _: 1 in index,
]


def contents(index: ShardedIndex) -> list[list[int]]:
    """The ids of each shard."""
    return [shard.ids().result().tolist() for shard in index.shards]


def test_the_place_of_an_id_never_changes() -> None:
    # The first outputs of SplitMix64 from the seeds 0 and 1234567 are published.
    seeds = np.array([0, 1234567])
    first = [16294208416658607535, 6457827717110365317]
    for shards in (1, 2, 3, 7, 1000, 2**31 - 1):
        assert virtual_shards_of(seeds, shards).tolist() == [number % shards for number in first]
    found = virtual_shards_of(np.arange(16), 4)
    assert "".join(map(str, found)) == "3121220320213321"
    assert virtual_shards_of(np.array([2**63 - 1]), 5).tolist() == [4]


@pytest.mark.parametrize("shards", [1, 2, 3])
@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1), n=st.integers(0, 120), k=st.integers(1, 150) | st.just(10**9)
)
def test_answers_are_those_of_one_flat_index(shards: int, seed: int, n: int, k: int) -> None:
    random = np.random.default_rng(seed)
    lattice = random.integers(-1, 2, (12, 16))
    lattice[:, 0] = 1
    pool = np.concatenate([lattice, random.standard_normal((12, 16))])
    pool = (pool / np.linalg.norm(pool, axis=1, keepdims=True)).astype(np.float32)
    ids = random.choice(np.array([*range(200), 2**40, 2**63 - 1]), n, replace=False)
    rows, queries = pool[random.integers(0, 24, n)], pool[random.integers(0, 24, 9)]
    flat = BruteForce(16)
    with open_local(PLAN, shards) as index:
        for part in np.array_split(np.arange(n), 3):
            for each in (flat, index):
                each.add(ids[part], rows[part])
        gone = random.permutation(ids)[: n // 3]
        for each in (flat, index):
            each.remove(gone)
        assert_same(index.search(queries, k), flat.search(queries, k))
        scores = flat.search(queries[:1], 1000).scores
        for threshold in (-1.0, 0.5, *(float(score) for score in scores[:2])):
            found = index.range_search(queries, threshold)
            assert_same(found, flat.range_search(queries, threshold))
        assert np.array_equal(index.ids, flat.ids)
        assert len(index) == len(flat)
        kept = random.permutation(flat.ids)
        assert np.array_equal(index.vectors(kept), flat.vectors(kept))
        assert all((key in index) == (key in flat) for key in ids.tolist())


@pytest.fixture
def index(unit_rows) -> Iterator[ShardedIndex]:
    with open_local(PLAN, 3) as index:
        index.add(np.arange(60), unit_rows(60))
        yield index


def test_each_id_lives_in_its_shard_and_the_kind_says_how_many(index) -> None:
    places = index.placement.shard_of(np.arange(60))
    assert contents(index) == [np.flatnonzero(places == shard).tolist() for shard in range(3)]
    assert (index.kind, index.dim) == ("exact8 x 3", 16)


@pytest.mark.parametrize("call", EVERY_CALL)
def test_a_lost_shard_is_never_answered_around(
    index, unit_rows, call: Callable[[ShardedIndex, Vectors], object]
) -> None:
    index.shards[1].close()
    with pytest.raises(ShardLost):
        index.search(unit_rows(1), 1)
    with pytest.raises(ShardLost):
        call(index, unit_rows(4))


class FailingShard(LocalShard):
    """A shard that runs out of memory when it is to change."""

    def add(self, ids: Ids, vectors: Vectors, mark: object = None) -> Future[None]:  # noqa: ARG002
        failed: Future[None] = Future()
        failed.set_exception(MemoryError())
        return failed


@pytest.mark.parametrize("call", EVERY_CALL)
def test_a_change_that_reached_some_shards_only_breaks_the_index(
    unit_rows, call: Callable[[ShardedIndex, Vectors], Any]
) -> None:
    with ShardedIndex(PLAN, [LocalShard(PLAN), FailingShard(PLAN)]) as index:
        with pytest.raises(ShardLost, match=r"MemoryError.*restart"):
            index.add(np.arange(10), unit_rows(10))
        assert index.shards[0].count().result() > 0
        with pytest.raises(ShardLost):
            call(index, unit_rows(4))


def test_a_closed_index_says_so_and_closes_again(index, unit_rows) -> None:
    index.close()
    index.close()
    with pytest.raises(ShardLost, match="closed"):
        index.search(unit_rows(1), 1)


def test_a_row_that_float16_takes_out_of_the_tolerance_changes_no_shard(unit_rows) -> None:
    rows = unit_rows(9)
    rows[8] = np.random.default_rng(2).standard_normal(16)
    rows[8] *= 1.00099 / np.linalg.norm(rows[8])
    with open_local(PLAN, 2) as index:
        index.add(np.arange(9), rows)
    plan = ShardPlan(16, threads=1, config=SegmentsConfig(rows="float16"))
    with open_local(plan, 2) as index:
        with pytest.raises(VectorInvalid):
            index.add(np.arange(9), rows)
        assert contents(index) == [[], []]
        index.add(np.arange(8), rows[:8])


def test_removed_references_leave_the_memory_of_all_shards(unit_rows) -> None:
    config = SegmentsConfig(head_rows=8, dead_share=0.9)
    with open_local(ShardPlan(16, threads=1, config=config), 2) as index:
        index.add(np.arange(400), unit_rows(400))
        full = index.account()
        index.remove(np.arange(1, 400))
        index.compact()
        assert (full.references, index.account().references) == (400, 1)
        assert index.account().total < full.total / 10
        assert index.search(unit_rows(1), 5).ids.tolist() == [0]


class SlowToCompact(LocalShard):
    """A shard that compacts until it is released."""

    def __init__(self, plan: ShardPlan) -> None:
        super().__init__(plan)
        self.begun, self.ended = Event(), Future[None]()

    def compact(self) -> Future[None]:
        self.begun.set()
        return self.ended


def test_shards_compact_beside_searches_and_changes(unit_rows) -> None:
    slow = SlowToCompact(PLAN)
    with ShardedIndex(PLAN, [slow]) as index, ThreadPoolExecutor(2) as pool:
        gallery = Gallery(index)
        gallery.add(np.arange(4), unit_rows(4), sequence=1)
        compacting = pool.submit(gallery.compact)
        assert slow.begun.wait(WAIT_S)
        changing = pool.submit(gallery.add, np.arange(4, 6), unit_rows(6)[4:], 2)
        wait([changing], WAIT_S)
        has_waited, is_compacting = not changing.done(), not compacting.done()
        slow.ended.set_result(None)
        assert (has_waited, is_compacting) == (False, True)
        compacting.result(WAIT_S)
        assert gallery.range_search(unit_rows(1), -1.0).searched == 6


def test_how_far_a_gallery_is_can_be_read_while_a_change_waits_for_a_shard(unit_rows) -> None:
    slow = SlowToAdd(PLAN)
    with ShardedIndex(PLAN, [slow]) as index, ThreadPoolExecutor(2) as pool:
        gallery = Gallery(index)
        gallery.add(np.arange(4), unit_rows(4), sequence=1)
        slow.hold()
        adding = pool.submit(gallery.add, np.arange(4, 6), unit_rows(6)[4:], 2)
        assert slow.begun.wait(WAIT_S)
        looking = pool.submit(gallery.look)
        wait([looking], WAIT_S)
        has_waited = not looking.done()
        slow.let.set()
        adding.result(WAIT_S)
        assert not has_waited
        assert looking.result() == Standing(sequence=1, size=4, coming=2)
        assert gallery.look() == Standing(sequence=2, size=6, coming=None)


def test_a_shard_that_is_left_out_while_it_compacts_breaks_nothing(unit_rows) -> None:
    slow = SlowToCompact(PLAN)
    with ShardedIndex(PLAN, [LocalShard(PLAN)]) as index, ThreadPoolExecutor(1) as pool:
        index.add(np.arange(4), unit_rows(4))
        index.append(slow)
        compacting = pool.submit(index.compact)
        assert slow.begun.wait(WAIT_S)
        index.remove_last().close()
        slow.ended.set_exception(ShardLost("closed"))
        compacting.result(WAIT_S)
        assert len(index.search(unit_rows(1), 9).ids) == 4


class HeldShard(LocalShard):
    """A shard whose range searches and lists of ids are held open, before they have looked or
    after."""

    def __init__(self, plan: ShardPlan, *, has_looked: bool) -> None:
        super().__init__(plan)
        self._has_looked = has_looked
        self._threads = ThreadPoolExecutor(1)
        self.searches = 0
        self.begun, self.released = Event(), Event()

    def range_search(self, queries: Vectors, threshold: float) -> Future[Hits]:
        self.searches += 1
        return self._hold(partial(super().range_search, queries, threshold))

    def ids(self) -> Future[Ids]:
        return self._hold(super().ids)

    def held(self, ids: Ids) -> Future[list[Any]]:
        return self._hold(partial(super().held, ids))

    def _hold(self, look: Callable[[], Future[Any]]) -> Future[Any]:
        def answer() -> Any:
            found = look().result() if self._has_looked else None
            self.begun.set()
            assert self.released.wait(WAIT_S)
            return look().result() if found is None else found

        return self._threads.submit(answer)

    def close(self) -> None:
        self.released.set()
        self._threads.shutdown()
        super().close()


@pytest.fixture
def held() -> Iterator[tuple[HeldShard, HeldShard]]:
    """Two shards: while both are held open, one has looked and the other has not."""
    pair = HeldShard(PLAN, has_looked=True), HeldShard(PLAN, has_looked=False)
    yield pair
    for one in pair:
        one.close()


def look_beside(
    held: tuple[HeldShard, HeldShard], look: Callable[[], Any], change: Callable[[], None]
) -> Any:
    """What is found while both shards are held open, in which time the change ends."""
    with ThreadPoolExecutor(2) as pool:
        looking = pool.submit(look)
        assert all(one.begun.wait(WAIT_S) for one in held)
        changing = pool.submit(change)
        wait([changing], WAIT_S)
        has_ended, is_looking = changing.done(), not looking.done()
        for one in held:
            one.released.set()
        found = looking.result(WAIT_S)
    assert (has_ended, is_looking) == (True, True)
    changing.result()
    return found


def test_changes_end_while_a_search_is_held_open_and_its_answer_is_whole(held, unit_rows) -> None:
    changes = 2 * RECENT_CHANGES
    rows, flat = unit_rows(3 * changes), BruteForce(16)
    index = ShardedIndex(PLAN, held)
    gallery = Gallery(index, sequence=10)
    gallery.add(np.arange(changes), rows[:changes], 11)

    def change() -> None:
        for number in range(changes):
            ids = changes + np.array([2 * number, 2 * number + 1])
            gallery.add(ids, rows[ids], 12 + 2 * number)
            # One that the search may have seen, and every other time one that was just added.
            gallery.remove(np.array([number if number % 2 else ids[0]]), 13 + 2 * number)

    found = look_beside(held, partial(gallery.range_search, rows[:70], 0.2), change)
    flat.add(index.ids, rows[index.ids])
    assert_same(found.hits, flat.range_search(rows[:70], 0.2))
    assert (found.sequence, found.searched) == (gallery.sequence, len(flat))
    # It was not made again: that could go on for ever.
    assert [one.searches for one in held] == [1, 1]


def test_changes_end_while_ids_are_listed_and_the_list_is_that_of_one_moment(
    held, unit_rows
) -> None:
    rows = unit_rows(60)
    gallery = Gallery(ShardedIndex(PLAN, held))
    gallery.add(np.arange(50), rows[:50], 1)
    listed = look_beside(held, lambda: gallery.ids, partial(change_thrice, gallery, rows))
    assert listed.tolist() == [1, *range(4, 58), 59]
    assert gallery.ids.tolist() == listed.tolist()


def change_thrice(gallery: Gallery, rows: Vectors) -> None:
    """Leaves 1, 4 to 57 and 59 of 0 to 49: one comes back, and one of those added is removed."""
    gallery.remove(np.arange(4), 2)
    gallery.add(np.array([*range(59, 49, -1), 1]), rows[[*range(59, 49, -1), 1]], 3)
    gallery.remove(np.array([58]), 4)


def test_rows_are_read_without_what_is_gone_in_one_call_to_each_shard_beside_changes(
    held, unit_rows
) -> None:
    rows = unit_rows(60)
    gallery = Gallery(ShardedIndex(PLAN, held))
    gallery.add(np.arange(50), rows[:50], 1)
    gallery.remove(np.arange(0, 50, 5), 2)
    asked = np.array([47, 3, 10, 4, 99, 20, 0, 31])
    add = partial(gallery.add, np.arange(50, 60), rows[50:], 3)
    ids, found = look_beside(held, partial(gallery.held, asked), add)
    assert ids.tolist() == [47, 3, 4, 31]
    assert np.array_equal(found, rows[ids])


class CountedShard(HeldShard):
    """Which counts the ids of each call that reads rows."""

    def __init__(self, plan: ShardPlan) -> None:
        super().__init__(plan, has_looked=True)
        self.read: list[int] = []

    def vectors(self, ids: Ids) -> Future[Vectors]:
        self.read.append(len(ids))
        return super().vectors(ids)


@pytest.mark.parametrize("too_many", ["changes", "ids"])
def test_beside_a_long_search_rows_are_read_in_parts_and_answers_renewed_as_ever(
    unit_rows, monkeypatch, too_many: str
) -> None:
    limit = 16 if too_many == "ids" else RECENT_IDS
    monkeypatch.setattr(galleries, "RECENT_IDS", limit)
    each, changes = (10, 5) if too_many == "ids" else (1, RECENT_CHANGES + 1)
    rows, shard = unit_rows(200), CountedShard(PLAN)
    with ShardedIndex(PLAN, [shard]) as index, ThreadPoolExecutor(1) as pool:
        gallery = Gallery(index)
        gallery.add(np.arange(100), rows[:100], 1)
        shard.released.set()
        before = gallery.range_search(rows[:9], 0.2)
        shard.released.clear()
        shard.begun.clear()
        searching = pool.submit(gallery.range_search, rows[:9], 0.2)
        assert shard.begun.wait(WAIT_S)
        for number in range(changes):
            ids = 100 + each * number + np.arange(each)
            gallery.add(ids, rows[ids], 2 + number)
        shard.released.set()
        found = [searching.result(WAIT_S)]
        assert sum(shard.read) == each * changes
        assert max(shard.read) <= limit
        # All changes are still known, but more than an answer is renewed by: it is searched again.
        found.append(gallery.refresh(before, rows[:9], 0.2))
        assert shard.searches == 3
        flat = BruteForce(16)
        flat.add(index.ids, rows[index.ids])
        for one in found:
            assert_same(one.hits, flat.range_search(rows[:9], 0.2))


def test_a_move_waits_for_a_search_and_changes_of_other_threads_do_not_wait_for_the_move(
    held, unit_rows
) -> None:
    rows, order = unit_rows(60), list[str]()
    gallery = Gallery(ShardedIndex(PLAN, held))
    gallery.add(np.arange(50), rows[:50], 1)
    with ThreadPoolExecutor(3) as pool:
        searching = pool.submit(gallery.range_search, rows[:9], 0.2)
        assert all(one.begun.wait(WAIT_S) for one in held)
        searching.add_done_callback(lambda _: order.append("searched"))
        moving = pool.submit(gallery.rearrange, lambda: order.append("moved"))
        adding = pool.submit(gallery.add, np.arange(50, 60), rows[50:], 2)
        adding.add_done_callback(lambda _: order.append("added"))
        wait([adding], WAIT_S)
        is_moving = not moving.done()
        for one in held:
            one.released.set()
        wait([searching, moving], WAIT_S)
    assert is_moving
    assert order[0] == "added"
    assert set(order) == {"added", "searched", "moved"}


def test_a_search_beside_changes_is_that_of_one_moment_and_sees_all_that_returned_before_it(
    unit_rows,
) -> None:
    """Every answer is the oracle's for the sequence that it names, to the last bit."""
    rows, queries, random = unit_rows(800), unit_rows(9, seed=1), np.random.default_rng(0)
    whole = BruteForce(16)
    whole.add(np.arange(800), rows)
    everything = whole.range_search(queries, 0.3)
    there = {1: np.arange(400)}
    found: list[Found] = []
    with open_local(PLAN, 3) as index, ThreadPoolExecutor(3) as pool:
        gallery = Gallery(index)
        gallery.add(there[1], rows[:400], 1)
        ended = Event()

        def search() -> None:
            while not ended.is_set():
                known = gallery.sequence
                one = gallery.range_search(queries, 0.3)
                assert one.sequence >= known
                found.extend((one, gallery.refresh(one, queries, 0.3)))

        searching = [pool.submit(search) for _ in range(3)]
        for sequence in range(2, 302):
            alive = there[sequence - 1]
            ids = random.choice(800, 5, replace=False)
            if sequence % 2:
                gone = np.intersect1d(ids, alive)
                there[sequence] = np.setdiff1d(alive, gone)
                gallery.remove(gone, sequence)
            else:
                new = np.setdiff1d(ids, alive)
                there[sequence] = np.union1d(alive, new)
                gallery.add(new, rows[new], sequence)
        ended.set()
        for one in searching:
            one.result(WAIT_S)
    assert len({one.sequence for one in found}) > 10
    for one in found:
        assert one.searched == len(there[one.sequence])
        kept = np.isin(everything.ids, there[one.sequence])
        assert np.array_equal(one.hits.ids, everything.ids[kept])
        assert np.array_equal(one.hits.scores, everything.scores[kept])


def test_certificates_of_all_parts_make_one_of_the_whole(unit_rows) -> None:
    rows, queries, scanner = unit_rows(500, 64), unit_rows(5, 64, seed=1), Scanner(threads=1)
    halves = [Exact8Segment(np.arange(at, 500, 2), rows[at::2], scanner=scanner) for at in (0, 1)]
    flat = BruteForce(64)
    flat.add(np.arange(500), rows)
    parts = [ask(half).search(queries, 10) for half in halves]
    whole = merge_hits(parts, 10)
    assert_same(whole, flat.search(queries, 10))
    certificate, ours = whole.certificate, [part.certificate for part in parts]
    assert np.array_equal(certificate.epsilon, np.maximum(ours[0].epsilon, ours[1].epsilon))
    assert np.array_equal(certificate.rescored, ours[0].rescored + ours[1].rescored)
    assert (certificate.compared, certificate.kernel) == (500, scanner.kernel)
    scanner.close()


def test_a_shard_whose_device_failed_is_named() -> None:
    with open_local(PLAN, 2) as index:
        gallery = Gallery(index)
        assert gallery.search_fault is None
        shard = index.shards[1]
        scanner = shard.host._scanner
        # As a scanner on a GPU does; none is here.
        scanner.fault = "CUDA error 700"
        assert gallery.search_fault == "shard 1: CUDA error 700"


def test_a_shard_is_open_when_what_its_searches_run_is_compiled(monkeypatch) -> None:
    compiled: list[Scanner] = []
    monkeypatch.setattr(galleries, "compile_kernels", compiled.append)
    with open_local(PLAN, 2) as index:
        hosts = [shard.host for shard in index.shards if isinstance(shard, LocalShard)]
        assert compiled == [host._scanner for host in hosts]


def test_a_shard_whose_upkeep_fails_is_named(unit_rows) -> None:
    plan = replace(PLAN, config=replace(SEGMENTS, erasure_deadline_s=0))
    with open_local(plan, 2) as index:
        gallery = Gallery(index)
        gallery.add(np.arange(100), unit_rows(100), 1)
        shard = index.shards[1]
        own = shard.host._gallery
        own.settle()
        for segment in own.segments:
            rows = SickRows(segment.rows.take(np.arange(len(segment.row_ids))))
            own.replace_rows(segment.name, rows)
        gallery.remove(own.ids[:1], 2)
        wait_until(lambda: gallery.search_fault is not None)
        assert gallery.search_fault == "shard 1: upkeep of the gallery fails (OSError)"
