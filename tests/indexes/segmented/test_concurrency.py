"""Concurrent use: no search misses, or invents, a reference of the state it names.

What was removed after that state, and before the answer, may be left out, whole changes at a time.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from indexes.base import Hits, Ids, Vectors, arrange, exact_scores
from indexes.exact.scanner import Scanner
from indexes.gallery import Found, Gallery, Pinned
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from indexes.upkeep import Upkeep
from tests.indexes.conftest import open_kernel

CHANGES = 500
DIM = 64
HEAD_ROWS = 64
BULK_ROWS = 5 * HEAD_ROWS
LIVE_ROWS = 4000
ENTRIES = 1 << 20
NEVER = 2**62


class Oracle:
    """Who was there at which sequence. Entries are written before the change is made.

    The writer alone adds entries; what has a later sequence than the one asked for is not seen.
    """

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.pool = unit(self.random.standard_normal((300, DIM)))
        self.ids = np.empty(ENTRIES, np.int64)
        self.rows = np.empty((ENTRIES, DIM), np.float32)
        self.added = np.empty(ENTRIES, np.int64)
        self.removed = np.full(ENTRIES, NEVER, np.int64)
        self.count = 0
        self.entry_of: dict[int, int] = {}

    def note_added(self, ids: Ids, rows: Vectors, sequence: int) -> None:
        part = slice(self.count, self.count + len(ids))
        self.ids[part], self.rows[part], self.added[part] = ids, rows, sequence
        self.entry_of.update(zip(ids.tolist(), range(part.start, part.stop), strict=True))
        self.count = part.stop

    def note_removed(self, ids: Ids, sequence: int) -> None:
        entries = [self.entry_of.pop(key) for key in ids.tolist()]
        self.removed[entries] = sequence

    def at(self, sequence: int) -> np.ndarray:
        """The entries of that moment."""
        count = self.count
        added, removed = self.added[:count], self.removed[:count]
        return np.flatnonzero((added <= sequence) & (removed > sequence))

    def answer(self, queries: Vectors, threshold: float, sequence: int) -> Hits:
        """All hits by brute force."""
        entries = self.at(sequence)
        rows = self.rows[entries]
        query_of, row_of = np.nonzero(queries @ rows.T >= threshold - 1e-4)
        scores = exact_scores(queries, rows, query_of, row_of)
        kept = scores.astype(np.float64) >= threshold
        ids = self.ids[entries[row_of[kept]]]
        return arrange(len(queries), query_of[kept], ids, scores[kept])

    def left_out(self, expected: Hits, found: Found) -> Hits:
        """The hits without those that changes after the search's moment removed.

        The last of these changes is that which took the last of the hits not found: a search
        leaves out all that a change removed, and what every earlier one did.
        """
        entries = self.at(found.sequence)
        by_id = entries[np.argsort(self.ids[entries])]
        removed = self.removed[by_id[np.searchsorted(self.ids[by_id], expected.ids)]]
        found_of = found.hits.query_of
        expected_of = np.repeat(np.arange(len(expected)), np.diff(expected.offsets))
        pairs = set(zip(found_of.tolist(), found.hits.ids.tolist(), strict=True))
        wanted = zip(expected_of.tolist(), expected.ids.tolist(), strict=True)
        missing = np.array([pair not in pairs for pair in wanted], np.bool_)
        last = removed[missing].max(initial=found.sequence)
        assert last < NEVER, "a reference that stays is missed"
        kept = removed > last
        return arrange(len(expected), expected_of[kept], expected.ids[kept], expected.scores[kept])


def unit(rows: np.ndarray) -> Vectors:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class ConcurrentUse:
    """A gallery under all its operations, each in its own thread."""

    def __init__(self, seed: int, changes: int, scanner: Scanner) -> None:
        config = SegmentsConfig(HEAD_ROWS, fan=3, dead_share=0.2, erasure_deadline_s=0.5)
        self.index = SegmentedIndex(DIM, config, scanner=scanner)
        self.gallery = Gallery(self.index)
        self.oracle = Oracle(seed)
        self.changes = changes
        self.ended = threading.Event()
        self.committed = 0
        self.names: set[str] = set()

    def guarded(self, work: Callable[[], int]) -> int:
        """One failure ends all, as the last change does."""
        try:
            return work()
        except BaseException:
            self.ended.set()
            raise

    def change(self) -> int:
        """The only writer: small and large batches, removals, ids that come back."""
        oracle, random = self.oracle, np.random.default_rng(1)
        sequence = next_id = 0
        gone: list[int] = []
        while not self.ended.wait(0.002) and sequence < self.changes:
            assert oracle.count < ENTRIES - BULK_ROWS
            sequence += 1
            live = np.fromiter(oracle.entry_of, np.int64)
            if len(live) > random.integers(LIVE_ROWS // 2, LIVE_ROWS):
                ids = random.permutation(live)[: int(random.integers(1, 120))]
                oracle.note_removed(ids, sequence)
                self.gallery.remove(ids, sequence)
                gone = ids.tolist()
            else:
                n = BULK_ROWS if random.random() < 0.02 else int(random.integers(0, 24))
                ids = np.arange(next_id, next_id + n)
                next_id += n
                if gone and n:
                    ids[0] = gone.pop()
                rows = oracle.pool[random.integers(0, 300, n)]
                near = random.random(n) < 0.7
                noise = 0.08 * random.standard_normal((n, DIM)) * near[:, None]
                rows = unit(rows + noise) if n else rows
                oracle.note_added(ids, rows, sequence)
                self.gallery.add(ids, rows, sequence)
            self.committed = sequence
        self.ended.set()
        return sequence

    def search(self, seed: int) -> int:
        random, searches = np.random.default_rng(seed), 0
        while not searches or not self.ended.is_set():
            queries = self.oracle.pool[random.integers(0, 300, int(random.choice([1, 2, 20])))]
            known = self.committed
            if searches % 2:
                found = self.gallery.range_search(queries, 0.6)
                expected = self.oracle.answer(queries, 0.6, found.sequence)
            else:
                k = int(random.integers(1, 30))
                found = self.gallery.search(queries, k)
                expected = self.best(queries, k, found.sequence)
            assert found.sequence >= known
            assert found.searched == len(self.oracle.at(found.sequence))
            expected = self.oracle.left_out(expected, found)
            assert np.array_equal(found.hits.offsets, expected.offsets)
            assert np.array_equal(found.hits.ids, expected.ids)
            assert np.array_equal(found.hits.scores, expected.scores)
            searches += 1
        return searches

    def best(self, queries: Vectors, k: int, sequence: int) -> Hits:
        hits = self.oracle.answer(queries, -2.0, sequence)
        query_of = np.repeat(np.arange(len(queries)), np.diff(hits.offsets))
        return arrange(len(queries), query_of, hits.ids, hits.scores, k)

    def pin(self) -> int:
        pins = 0
        while not self.ended.wait(0.02) or not pins:
            pinned = self.gallery.pin()
            self.check_pinned(pinned)
            self.names.update(segment.name for segment in pinned.segments)
            pins += 1
        return pins

    def check_pinned(self, pinned: Pinned) -> None:
        rows, ids = [np.empty((0, DIM), np.float32)], [np.empty(0, np.int64)]
        for segment, alive in zip(pinned.segments, pinned.alive, strict=True):
            places = np.flatnonzero(alive)
            rows.append(segment.rows.take(places))
            ids.append(segment.row_ids[places])
        entries = self.oracle.at(pinned.sequence)
        order = np.argsort(self.oracle.ids[entries])
        got = np.argsort(np.concatenate(ids))
        assert np.array_equal(np.concatenate(ids)[got], self.oracle.ids[entries][order])
        # What was removed since may be wiped, or half wiped, and is noted before it is.
        whole = self.oracle.removed[entries][order] == NEVER
        expected = self.oracle.rows[entries][order]
        assert np.array_equal(np.concatenate(rows)[got][whole], expected[whole])

    def compact(self) -> int:
        rounds = 0
        while not self.ended.wait(0.1) or not rounds:
            removed_since = self.index.removed_since
            self.gallery.compact()
            assert not removed_since.keys() & self.index.removed_since.keys()
            self.gallery.settle()
            rounds += 1
        return rounds


@pytest.mark.parametrize(("changes", "kernel"), [(CHANGES, None), (CHANGES // 2, "device")])
def test_no_search_misses_a_committed_reference_under_concurrent_use(
    changes: int, kernel: str | None
) -> None:
    scanner = open_kernel(kernel, 2) if kernel else Scanner(threads=2)
    use = ConcurrentUse(seed=7, changes=changes, scanner=scanner)
    works: list[Callable[[], int]] = [
        use.change,
        use.pin,
        use.compact,
        *(lambda seed=seed: use.search(seed) for seed in range(3)),
    ]
    with Upkeep(use.gallery), ThreadPoolExecutor(len(works)) as pool:
        running = [pool.submit(use.guarded, work) for work in works]
        assert all(work.result() > 0 for work in running)
    # Segments went: each name was seen in a pin.
    assert use.names - {segment.name for segment in use.gallery.segments}
