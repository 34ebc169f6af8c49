"""Virtual shards on their way between shards: at every moment the answers are one index's."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from threading import Event

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from indexes.base import Vectors
from indexes.gallery import Gallery
from indexes.segmented.merging import SegmentsConfig
from indexes.sharding.joining import join_shards
from indexes.sharding.shards import Placement, ShardPlan
from tests.indexes.conftest import assert_same
from tests.indexes.oracle import BruteForce
from tests.indexes.sharding.local_shards import LocalShard, open_local

DIM = 16
PLAN = ShardPlan(DIM, 1, SegmentsConfig(head_rows=8, fan=2), content="lab:", virtual_shards=16)
COUNTS = st.integers(1, 5)


@given(st.lists(st.integers(-1, 6), min_size=16, max_size=16), COUNTS, COUNTS)
def test_as_few_virtual_shards_as_possible_change_places_for_an_even_share(
    owners: list[int], shards: int, later: int
) -> None:
    for wanted in (shards, later):
        before = Placement(np.array(owners))
        after = before.balanced(wanted)
        counts = np.bincount(after.owners, minlength=wanted)
        assert counts.max() - counts.min() <= 1
        held = np.bincount(before.owners[before.owners >= 0], minlength=wanted)[:wanted]
        moved = int((after.owners != before.owners).sum())
        share, more = divmod(16, wanted)
        kept = np.sort(np.minimum(held - share, 1))[::-1][:more].clip(0).sum()
        assert 16 - moved == np.minimum(held, share).sum() + kept
        # One move nearer, the rest of the way is one shorter.
        if moved:
            first = int(np.flatnonzero(after.owners != before.owners)[0])
            nearer = before.moved(first, int(after.owners[first]))
            assert (nearer.balanced(wanted).owners != nearer.owners).sum() == moved - 1
        owners = after.owners.tolist()


class Moves(RuleBasedStateMachine):
    """Adds, removals and searches between the steps of moves, beside one flat index."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = BruteForce(DIM)
        self.index = open_local(PLAN, 2)
        self.gallery = Gallery(self.index)
        self.wanted, self.is_copied = 2, False
        self.random = np.random.default_rng(7)
        self.next_id = 0

    def rows(self, count: int) -> Vectors:
        rows = self.random.integers(-1, 2, (count, DIM)).astype(np.float64)
        rows[:, 0] = 1
        rows[::2] += self.random.standard_normal(rows[::2].shape)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    @rule(count=st.integers(1, 40))
    def add(self, count: int) -> None:
        ids, rows = np.arange(self.next_id, self.next_id + count), self.rows(count)
        self.next_id += count
        self.flat.add(ids, rows)
        self.gallery.add(ids, rows, self.gallery.sequence + 1)

    @rule(share=st.floats(0, 0.5))
    def remove(self, share: float) -> None:
        gone = self.random.permutation(self.flat.ids)[: int(share * len(self.flat))]
        self.flat.remove(gone)
        self.gallery.remove(gone, self.gallery.sequence + 1)
        for host in self.hosts():
            for held, vectors in host._received:
                assert not vectors[np.isin(held, gone)].any()

    @rule(wanted=COUNTS)
    def want(self, wanted: int) -> None:
        self.wanted = wanted
        while len(self.index.shards) < wanted:
            self.index.append(LocalShard(PLAN))

    @precondition(lambda self: self.index._move is None)
    @rule()
    def begin(self) -> None:
        index = self.index
        aims = index.placement.balanced(self.wanted).owners
        moving = np.flatnonzero(aims != index.placement.owners)
        if len(moving):
            first = int(self.random.choice(moving))
            begin = partial(index.begin_move, first, int(aims[first]))
            assert self.gallery.rearrange(begin, beside_searches=True)
            self.is_copied = False
        elif self.wanted < len(index.shards):
            self.gallery.rearrange(index.remove_last).close()

    @precondition(lambda self: self.index._move is not None and not self.is_copied)
    @rule()
    def copy(self) -> None:
        self.index.copy_moving(lambda: None)
        self.is_copied = True

    @precondition(lambda self: self.index._move is not None and self.is_copied)
    @rule()
    def finish(self) -> None:
        sequence = self.gallery.sequence
        self.gallery.rearrange(lambda: self.index.finish_move(sequence, "h"))

    @precondition(lambda self: self.index._move is not None)
    @rule()
    def abandon(self) -> None:
        self.gallery.rearrange(self.index.abandon_move)
        assert not any(host._received for host in self.hosts())

    @invariant()
    def answers_are_those_of_one_index(self) -> None:
        queries = self.rows(3)
        assert_same(self.gallery.search(queries, 7).hits, self.flat.search(queries, 7))
        for threshold in (0.2, 0.7):
            found = self.gallery.range_search(queries, threshold).hits
            assert_same(found, self.flat.range_search(queries, threshold))
        assert np.array_equal(self.index.ids, self.flat.ids)
        for number, host in enumerate(self.hosts()):
            assert (self.index.placement.shard_of(host.ids()) == number).all()

    def hosts(self) -> list:  # type: ignore[type-arg]
        return [shard.host for shard in self.index.shards if isinstance(shard, LocalShard)]

    def teardown(self) -> None:
        self.index.close()


TestMoves = Moves.TestCase
TestMoves.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)


def test_searches_beside_moves_from_two_shards_to_five_and_three_miss_and_repeat_nothing(
    unit_rows,
) -> None:
    rows, ended = unit_rows(900), Event()
    plan = replace(PLAN, virtual_shards=64)
    with open_local(plan, 2) as index, ThreadPoolExecutor(3) as pool:
        gallery, flat = Gallery(index), BruteForce(DIM)
        gallery.add(np.arange(600), rows[:600], 1)
        flat.add(np.arange(600), rows[:600])
        # Never among the answers.
        far = -rows[:1] + 0.1 * unit_rows(300, seed=5)
        far /= np.linalg.norm(far, axis=1, keepdims=True)
        expected = flat.range_search(rows[:1], 0.1), flat.search(rows[:1], 9)

        def search() -> int:
            searches = 0
            while not ended.is_set() or not searches:
                assert_same(gallery.range_search(rows[:1], 0.1).hits, expected[0])
                assert_same(gallery.search(rows[:1], 9).hits, expected[1])
                searches += 1
            return searches

        def change() -> None:
            at = 0
            while not ended.is_set():
                ids = np.arange(1000 + at, 1010 + at)
                gallery.add(ids, far[at % 290 :][:10], gallery.sequence + 1)
                if at % 3:
                    gallery.remove(ids[:7], gallery.sequence + 1)
                at += 10

        running = [pool.submit(search), pool.submit(search), pool.submit(change)]
        try:
            for wanted in (5, 3):
                while len(index.shards) < wanted:
                    index.append(LocalShard(plan))
                aims = index.placement.balanced(wanted).owners
                for virtual_shard in np.flatnonzero(aims != index.placement.owners).tolist():
                    target = int(aims[virtual_shard])
                    begin = partial(index.begin_move, virtual_shard, target)
                    assert gallery.rearrange(begin, beside_searches=True)
                    index.copy_moving(lambda: None)
                    gallery.rearrange(lambda: index.finish_move(gallery.sequence, "h"))
                while len(index.shards) > wanted:
                    gallery.rearrange(index.remove_last).close()
                counts = np.bincount(index.placement.owners)
                assert (len(counts), counts.max() - counts.min()) == (wanted, 1)
        finally:
            ended.set()
        assert all(future.exception() is None for future in running)
        assert np.array_equal(np.sort(np.concatenate([gallery.ids])), index.ids)


def test_nothing_is_moved_while_a_join_asks_the_shards_for_their_own(unit_rows) -> None:
    with open_local(PLAN, 2) as index:
        gallery = Gallery(index)
        gallery.add(np.arange(100), unit_rows(100), 1)
        virtual_shard = int(np.flatnonzero(index.placement.owners == 0)[0])
        seen = []

        def check() -> None:
            seen.append(index.begin_move(virtual_shard, 1))

        join_shards(gallery, index, 0.9, progress=lambda _: check())
        assert seen
        assert not any(seen)
        assert index.begin_move(virtual_shard, 1)
