"""SegmentedIndex compared with brute force, over random histories and at its limits."""

import gc
import math
import weakref
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from indexes.base import Positions, Vectors
from indexes.errors import IdInvalid
from indexes.exact.codes import Codes
from indexes.exact.exact8 import Exact8Segment, MemoryRows
from indexes.exact.scanner import Scanner
from indexes.segmented import merging
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from indexes.segmented.view import HeadView
from tests.indexes.conftest import ask, assert_same, restore
from tests.indexes.oracle import BruteForce

SCANNER = Scanner(threads=2)
HEAD_ROWS = 16
SHARES = st.sampled_from([0.0, 0.05, 0.3, 1.0])


def rewrite(index: SegmentedIndex, *, all_removed: bool = False) -> bool:
    """One job, with nothing else going on."""
    job = index.begin_rewrite(all_removed=all_removed)
    if job is not None:
        index.finish_rewrite(job, job.build(index.config, index.scanner))
    return job is not None


class SegmentedHistory(RuleBasedStateMachine):
    """Adds, removals, jobs with removals in their middle, and searches; the rows have many ties."""

    @initialize(
        dim=st.sampled_from([5, 64, 100, 256]),
        seed=st.integers(0, 2**32 - 1),
        rows=st.sampled_from(["float32", "float16"]),
        fan=st.integers(2, 4),
    )
    def start(self, dim: int, seed: int, rows: str, fan: int) -> None:
        self.random = np.random.default_rng(seed)
        lattice = self.random.integers(-1, 2, (16, dim)).astype(np.float32)
        lattice[:, 0] = 1
        spread = self.random.standard_normal((16, dim))
        hot = np.eye(dim)[self.random.integers(0, dim, 4)]
        pool = np.concatenate([lattice, spread, hot])
        pool /= np.linalg.norm(pool, axis=1, keepdims=True)
        self.pool = pool.astype(np.float32)
        self.rows = rows
        self.now = 0.0
        config = SegmentsConfig(HEAD_ROWS, fan, erasure_deadline_s=10, rows=rows)
        self.index = SegmentedIndex(dim, config, scanner=SCANNER, clock=lambda: self.now)
        self.flat = BruteForce(dim)
        self.next_id = 0
        for n in (5 * HEAD_ROWS, 30, 30):
            self.add(n)

    def some_rows(self, n: int) -> Vectors:
        return self.pool[self.random.integers(0, len(self.pool), n)]

    @rule(n=st.one_of(st.integers(0, 8), st.integers(0, 40), st.just(5 * HEAD_ROWS)))
    def add(self, n: int) -> None:
        ids = self.random.permutation(np.arange(self.next_id, self.next_id + n))
        self.next_id += n
        rows = self.some_rows(n)
        self.index.add(ids, rows)
        self.flat.add(ids, rows.astype(self.rows).astype(np.float32))

    @rule(share=SHARES)
    def remove(self, share: float) -> None:
        ids = self.random.permutation(self.flat.ids)
        gone = ids[: round(share * len(ids))]
        self.index.remove(gone)
        self.flat.remove(gone)

    @precondition(lambda self: len(self.flat))
    @rule(n=st.integers(1, 20))
    def add_again_what_was_removed(self, n: int) -> None:
        ids = self.random.permutation(self.flat.ids)[:n]
        rows = self.some_rows(len(ids))
        for index in (self.index, self.flat):
            index.remove(ids)
        self.index.add(ids, rows)
        self.flat.add(ids, rows.astype(self.rows).astype(np.float32))

    @rule(share=SHARES, all_removed=st.booleans(), late_s=st.integers(0, 20))
    def rewrite_while_some_are_removed(self, share: float, all_removed: bool, late_s: int) -> None:
        self.now += late_s
        job = self.index.begin_rewrite(all_removed=all_removed)
        if job is None:
            return
        product = job.build(self.index.config, SCANNER)
        self.remove(share)
        self.add_again_what_was_removed(3) if len(self.flat) else None
        self.index.finish_rewrite(job, product)

    @rule()
    def rewrite_in_vain(self) -> None:
        job = self.index.begin_rewrite()
        if job is not None:
            self.index.abandon_rewrite(job)

    @rule()
    def do_all_that_is_due(self) -> None:
        while rewrite(self.index):
            pass
        assert len(self.index.heads) == 1
        assert all(len(segment) for segment in self.index.segments)

    @rule(n=st.sampled_from([0, 1, 3, 24]), k=st.integers(1, 60))
    def search(self, n: int, k: int) -> None:
        queries = self.some_rows(n)
        assert_same(self.index.search(queries, k), self.flat.search(queries, k))

    @rule(n=st.sampled_from([1, 24]), threshold=st.floats(-1.1, 1.1), pick=st.floats(0, 0.999))
    def range_search(self, n: int, threshold: float, pick: float) -> None:
        queries = self.some_rows(n)
        scores = self.flat.search(queries[:1], 1000).scores
        score = float(scores[int(pick * len(scores))]) if len(scores) else threshold
        for floor in (threshold, score, math.nextafter(score, 2)):
            expected = self.flat.range_search(queries, floor)
            assert_same(self.index.range_search(queries, floor), expected)

    @invariant()
    def holds_what_was_added(self) -> None:
        ids = self.random.permutation(self.flat.ids)
        assert np.array_equal(self.index.ids, self.flat.ids)
        assert len(self.index) == len(self.flat)
        assert np.array_equal(self.index.vectors(ids), self.flat.vectors(ids))
        # A tombstone holds nothing of who was there.
        for segment in self.index.segments:
            dead = np.flatnonzero(~segment.alive_rows)
            assert not segment.rows.take(dead).any()
            assert (segment.codes.bytes[dead] == 128).all()
            assert bool(len(dead)) == (segment.name in self.index.removed_since)


TestSegmentedHistory = SegmentedHistory.TestCase
# 60 of a developer's 100: in CI half as many, as of everything.
TestSegmentedHistory.settings = settings(
    max_examples=settings().max_examples * 3 // 5, stateful_step_count=40, deadline=None
)


@pytest.fixture
def index(unit_rows) -> SegmentedIndex:
    """Ids 0 to 99: 64 in a bulk segment, 32 in two full heads, 4 in the growing one."""
    index = SegmentedIndex(64, SegmentsConfig(head_rows=HEAD_ROWS), scanner=SCANNER)
    rows = unit_rows(100, 64)
    index.add(np.arange(64), rows[:64])
    for start in range(64, 100, 4):
        index.add(np.arange(start, start + 4), rows[start : start + 4])
    assert [len(segment) for segment in index.segments] == [64]
    assert [len(head) for head in index.heads] == [16, 16, 4]
    return index


def test_the_certificate_covers_all_parts(index, unit_rows) -> None:
    queries = unit_rows(3, 64, seed=1)
    found = index.range_search(queries, 0.1)
    sealed = ask(index.segments[0]).range_search(queries, 0.1).certificate
    assert found.certificate.compared == 100
    assert np.array_equal(found.certificate.epsilon, sealed.epsilon)
    assert np.array_equal(found.certificate.rescored, sealed.rescored)
    flat_only = SegmentedIndex(64, scanner=SCANNER)
    flat_only.add(np.arange(9), unit_rows(9, 64))
    assert not flat_only.search(queries, 2).certificate.epsilon.any()
    assert flat_only.search(queries, 2).certificate.compared == 9


def test_what_is_replaced_is_freed_at_once_without_the_garbage_collector(unit_rows) -> None:
    index = SegmentedIndex(64, SegmentsConfig(HEAD_ROWS, 2), scanner=SCANNER)
    rows = unit_rows(8 * HEAD_ROWS, 64)
    gc.collect()
    gc.disable()
    try:
        parts: dict[int, weakref.ref[object]] = {}
        for start in range(0, len(rows), 4):
            index.add(np.arange(start, start + 4), rows[start : start + 4])
            parts |= {id(view.head): weakref.ref(view.head) for view in index.heads}
        index.remove(np.arange(0, len(rows), 7))
        while rewrite(index, all_removed=True) or rewrite(index):
            sealed = [view.segment for view in index.view.sealed]
            parts |= {id(segment): weakref.ref(segment) for segment in sealed}
        living = [part for one in parts.values() if (part := one()) is not None]
        assert len(living) == len(index.heads) + len(index.segments)
    finally:
        gc.enable()


def test_merged_rows_keep_their_codes_and_a_large_batch_becomes_several_segments(unit_rows) -> None:
    for kept in ("float32", "float16"):
        config = SegmentsConfig(head_rows=HEAD_ROWS, fan=2, segment_rows=500, rows=kept)
        index = SegmentedIndex(100, config, scanner=SCANNER)
        rows = unit_rows(1300, 100)
        index.add(np.arange(1100), rows[:1100])
        assert [len(segment) for segment in index.segments] == [367, 367, 366]
        for start in range(1100, 1300, 100):
            index.add(np.arange(start, start + 100), rows[start : start + 100])
        index.remove(np.arange(1100, 1300, 7))
        while rewrite(index):
            pass
        assert max(len(segment.row_ids) for segment in index.segments) <= 500
        merged = index.segments[-1]
        built = Exact8Segment(
            merged.row_ids, merged.rows.take(np.arange(len(merged))), scanner=SCANNER
        )
        assert np.array_equal(built.codes.bytes, merged.codes.bytes)
        assert np.array_equal(built.codes.residuals, merged.codes.residuals)
        assert np.array_equal(built.codes.reach, merged.codes.reach)
        assert built.codes.longest <= merged.codes.longest
        assert np.array_equal(built.row_ids, merged.row_ids)


def test_full_heads_that_wait_are_sealed_into_no_segment_larger_than_it_may_be(unit_rows) -> None:
    rows = unit_rows(4 * HEAD_ROWS, 64)
    for most, expected in ((16, [16] * 4), (40, [32, 32]), (64, [64])):
        config = SegmentsConfig(head_rows=HEAD_ROWS, fan=4, segment_rows=most)
        index = SegmentedIndex(64, config, scanner=SCANNER)
        for start in range(0, len(rows), 4):
            index.add(np.arange(start, start + 4), rows[start : start + 4])
        while rewrite(index):
            pass
        assert [len(segment) for segment in index.segments] == expected


class RowsRead(MemoryRows):
    """Rows that tell when some of them have been read, and not copied yet."""

    def __init__(self, rows: Vectors, told: Callable[[], None]) -> None:
        super().__init__(rows)
        self.told = told

    def take(self, rows: Positions) -> Vectors:
        taken = super().take(rows)
        self.told()
        return taken

    def copied(self) -> MemoryRows:
        return MemoryRows(self._rows.copy())


class TellingScanner(Scanner):
    """A scanner that tells when codes have been prepared."""

    told: Callable[[], None] | None = None

    def prepare(self, codes: Codes) -> None:
        super().prepare(codes)
        if self.told is not None:
            self.told()


@pytest.mark.parametrize("kept", ["float32", "float16"])
@pytest.mark.parametrize("of_heads", [False, True])
def test_what_is_removed_beside_a_rewrite_is_in_nothing_of_what_it_makes_and_all_else_is_right(
    unit_rows, monkeypatch, kept: str, of_heads: bool
) -> None:
    scanner = TellingScanner(threads=1)
    config = SegmentsConfig(head_rows=100, fan=2, rows=kept)
    index, flat = SegmentedIndex(128, config, scanner=scanner), BruteForce(128)
    rows, ids = unit_rows(200, 128), np.random.default_rng(0).permutation(200)
    for start in range(0, 200, 25):
        part = ids[start : start + 25]
        index.add(part, rows[part])
        flat.add(part, rows[part].astype(kept).astype(np.float32))
        if not of_heads and len(index.heads) > 1:
            assert rewrite(index)
    gone: list[int] = []

    def remove_some() -> None:
        some = np.random.default_rng(len(gone)).permutation(flat.ids)[:5]
        if len(gone) == 20:
            # The job goes on with the store that it began with.
            for one in index.segments:
                assert index.replace_rows(one.name, one.rows.copied())
        index.remove(some)
        flat.remove(some)
        gone.extend(some.tolist())

    for sealed in index.segments:
        stored = sealed.rows.take(np.arange(100)).astype(kept)
        index.replace_rows(sealed.name, RowsRead(stored, remove_some))
    job = index.begin_rewrite()
    assert len(job.heads if of_heads else job.sealed) == 2
    scanner.told = remove_some
    # Four blocks of each part: some are removed when one has been read and not copied.
    monkeypatch.setattr(merging, "_ROWS_AT_ONCE", 32)
    if of_heads:
        encode = merging.encode

        def encode_what_was_read(read: Vectors, limit: float) -> object:
            remove_some()
            return encode(read, limit)

        monkeypatch.setattr(merging, "encode", encode_what_was_read)
    product = job.build(index.config, scanner)
    remove_some()
    # The rows of heads are read twice.
    assert len(gone) == 5 * ((16 if of_heads else 8) + 2)
    places, present = product.find(np.array(gone))
    assert present.all()
    assert not product.rows.take(places).any()
    assert (product.codes.bytes[places] == 128).all()
    if scanner.reads_planes:
        assert (product.codes.plane.halves[places] == 0x88).all()
    index.finish_rewrite(job, product)
    assert [len(segment) for segment in index.segments] == [200 - len(gone)]
    queries = unit_rows(9, 128, seed=1)
    assert_same(index.search(queries, 200), flat.search(queries, 200))
    assert_same(index.range_search(queries, 0.1), flat.range_search(queries, 0.1))
    scanner.close()


def test_a_removed_reference_is_rewritten_away_at_its_deadline(unit_rows) -> None:
    now = 1000.0
    config = SegmentsConfig(head_rows=HEAD_ROWS, dead_share=0.5, erasure_deadline_s=60)
    index = SegmentedIndex(64, config, scanner=SCANNER, clock=lambda: now)
    index.add(np.arange(64), unit_rows(64, 64))
    index.remove(np.array([3]))
    name = index.segments[0].name
    now += 30
    index.remove(np.array([4]))
    assert index.removed_since == {name: 1000.0}
    assert index.deadline_s() == 30
    assert not rewrite(index)
    now += 30
    assert rewrite(index)
    assert index.segments[0].name != name
    assert index.segments[0].removed == 0
    assert 3 not in index.segments[0].row_ids
    assert index.removed_since == {}
    assert index.deadline_s() is None


def test_what_is_removed_while_its_segment_is_rewritten_keeps_its_deadline(unit_rows) -> None:
    now = 1000.0
    config = SegmentsConfig(head_rows=HEAD_ROWS)
    index = SegmentedIndex(64, config, scanner=SCANNER, clock=lambda: now)
    index.add(np.arange(64), unit_rows(64, 64))
    index.remove(np.array([3]))
    job = index.begin_rewrite(all_removed=True)
    now += 5
    index.remove(np.array([4, 5]))
    index.finish_rewrite(job, job.build(index.config, SCANNER))
    (product,) = index.segments
    assert (len(product), product.removed) == (61, 2)
    assert index.removed_since == {product.name: 1000.0}
    assert not product.rows.take(np.flatnonzero(~product.alive_rows)).any()


def test_it_comes_back_from_its_parts_with_tombstones_and_their_age(index, unit_rows) -> None:
    index.remove(np.array([3, 70, 98]))
    (segment,) = index.segments
    restored = restore(segment)
    restored.remove_rows(np.flatnonzero(~segment.alive_rows))
    heads = [head.contents() for head in index.heads]
    head = tuple(np.concatenate(column) for column in zip(*heads, strict=True))
    for known, since in (({segment.name: 123.0}, 123.0), ({}, 0.0)):
        again = SegmentedIndex.restore(
            64, [restored], head, index.config, removed_since=known, scanner=SCANNER
        )
        assert again.removed_since == {segment.name: since}
        assert np.array_equal(again.ids, index.ids)
        assert np.array_equal(again.vectors(again.ids), index.vectors(index.ids))
        queries = unit_rows(5, 64, seed=9)
        assert_same(again.search(queries, 20), index.search(queries, 20))
        assert_same(again.range_search(queries, 0.0), index.range_search(queries, 0.0))
    with pytest.raises(IdInvalid, match="in two segments"):
        SegmentedIndex.restore(64, [restored, restored], head, removed_since={}, scanner=SCANNER)
    taken = (np.array([4]), unit_rows(1, 64))
    with pytest.raises(IdInvalid, match="in two segments"):
        SegmentedIndex.restore(64, [restored], taken, removed_since={}, scanner=SCANNER)


def test_the_memory_account_names_every_part(unit_rows) -> None:
    for kept, width in (("float32", 4), ("float16", 2)):
        config = SegmentsConfig(head_rows=1000, rows=kept)
        index = SegmentedIndex(128, config, scanner=SCANNER)
        index.add(np.arange(8192), unit_rows(8192, 128))
        account = index.account()
        assert account.references == 8192
        assert account.codes == 8192 * 128
        assert account.rows == 8192 * 128 * width
        assert account.ids == 8192 * 12
        assert (account.alive, account.head) == (8192, 0)
        assert account.plane == (8192 * 65 if SCANNER.reads_planes else 0)
        assert account.total == account.codes + account.plane + account.rows + account.ids + (
            account.residuals + account.alive
        )
        assert account.bytes_per_reference <= 128 * (1.5 + width) + 19
        index.add(np.arange(9000, 9100), unit_rows(100, 128))
        assert index.account().head >= 100 * 128 * 4
        assert index.account().references == 8292
    assert SegmentedIndex(8, scanner=SCANNER).account().bytes_per_reference == 0


def test_references_that_are_read_may_be_removed_meanwhile(unit_rows, monkeypatch) -> None:
    rows, ids = unit_rows(8), np.arange(8)
    index = SegmentedIndex(rows.shape[1], SegmentsConfig(head_rows=HEAD_ROWS), scanner=SCANNER)
    index.add(ids, rows)
    view, find = index.view, HeadView.find

    def find_and_remove(head: HeadView, keys: list[int]) -> tuple[Positions, NDArray[np.bool_]]:
        found = find(head, keys)
        monkeypatch.undo()
        index.withdraw(ids[:3])
        return found

    monkeypatch.setattr(HeadView, "find", find_and_remove)
    there, held = view.held(ids)
    assert there.tolist() == ids.tolist()
    assert held.tobytes() == rows.tobytes()
