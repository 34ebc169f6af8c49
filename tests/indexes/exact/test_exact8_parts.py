"""Parts, name and rows of a sealed segment, and wiping."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from indexes.base import Hits, Vectors
from indexes.exact.exact8 import Exact8Segment, MemoryRows
from indexes.exact.scanner import Scanner
from indexes.scoring import Positions
from tests.indexes.conftest import ask, remove_ids

UnitRows = Callable[..., Vectors]

SCANNER = Scanner(threads=2)


def assert_same(found: Hits, expected: Hits) -> None:
    assert np.array_equal(found.offsets, expected.offsets)
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.scores, expected.scores)


class ScatteredRows:
    """A `RowStore` that gives distinct rows in an order of its own, as a mapped file may."""

    def __init__(self, rows: Vectors) -> None:
        self._rows = rows
        self.dtype = rows.dtype
        self.dim = rows.shape[1]
        self.memory_bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: Positions) -> Vectors:
        return self._rows[rows].copy()

    def select(self, rows: Positions) -> tuple[Vectors, Positions]:
        distinct, places = np.unique(rows, return_inverse=True)
        return self._rows[distinct[::-1]], len(distinct) - 1 - places

    def wipe(self, rows: Positions) -> None:
        """The file is not ours to change."""


def test_rows_that_lie_elsewhere_give_the_same_answers(
    unit_rows: UnitRows,
) -> None:
    rows, probes = unit_rows(3000, 64), unit_rows(40, 64, seed=1)
    index = Exact8Segment(np.arange(3000), rows, scanner=SCANNER)
    best, above = ask(index).search(probes, 7), ask(index).range_search(probes, 0.0)
    own = index.rows
    index.replace_rows(ScatteredRows(own.take(np.arange(3000))))
    assert_same(ask(index).search(probes, 7), best)
    assert_same(ask(index).range_search(probes, 0.0), above)
    assert np.array_equal(index.rows.take(index.find(np.arange(3000))[0]), rows)
    assert index.account().rows == 0


@pytest.mark.parametrize("kept", ["float32", "float16"])
def test_a_segment_comes_back_from_its_parts(unit_rows: UnitRows, kept: str) -> None:
    rows, probes = unit_rows(700, 100), unit_rows(20, 100, seed=1)
    index = Exact8Segment(np.arange(700), rows.astype(kept), scanner=SCANNER)
    parts = index.parts()
    assert parts.codes.shape == (704, 128)
    assert (len(parts.ids), len(parts.residuals), len(parts.rows)) == (700, 700, 700)
    again = Exact8Segment.restore(parts, scanner=index.scanner)
    assert again.name == index.name == parts.name
    assert np.array_equal(again.ids, index.ids)
    assert_same(ask(again).search(probes, 9), ask(index).search(probes, 9))
    assert_same(ask(again).range_search(probes, 0.1), ask(index).range_search(probes, 0.1))
    # A segment that was measured, and one of which only the bound of all rows is known.
    ours, theirs = (
        ask(again).search(probes, 9).certificate,
        ask(index).search(probes, 9).certificate,
    )
    assert (ours.epsilon >= theirs.epsilon).all()
    assert (ours.epsilon <= theirs.epsilon + 0.001).all()


def test_every_build_has_a_name_of_its_own(unit_rows: UnitRows) -> None:
    rows = unit_rows(5, 64)
    names = {Exact8Segment(np.arange(5), rows, scanner=SCANNER).name for _ in range(3)}
    assert len(names) == 3
    assert all(len(bytes.fromhex(name)) == 16 for name in names)


@pytest.mark.parametrize("kept", ["float32", "float16"])
def test_removed_rows_are_wiped_from_memory(unit_rows: UnitRows, kept: str) -> None:
    rows = unit_rows(50, 64)
    index = Exact8Segment(np.arange(50), rows.astype(kept), scanner=SCANNER)
    remove_ids(index, np.arange(10))
    dead = np.flatnonzero(~index.alive_rows)
    assert (index.removed, len(index), len(dead)) == (10, 40, 10)
    assert sorted(index.row_ids[dead]) == list(range(10))
    assert not index.rows.take(dead).any()
    assert (index.codes.bytes[dead] == 128).all()
    # Not by a threshold that all reach, and not where fewer are left than asked for.
    assert ask(index).range_search(rows[:1], -2.0).ids.min() == 10
    assert len(ask(index).search(rows[:1], 50).ids) == 40


def test_a_row_store_keeps_rows_and_wipes_them(unit_rows: UnitRows) -> None:
    rows = unit_rows(9, 64)
    wanted = np.array([3, 0, 3, 8])
    for kept in (rows, rows.astype(np.float16)):
        store = MemoryRows(kept.copy())
        expected = kept.astype(np.float32)[wanted]
        assert (len(store), store.dim, store.dtype) == (9, 64, kept.dtype)
        assert store.memory_bytes == kept.nbytes
        assert np.array_equal(store.take(wanted), expected)
        matrix, places = store.select(wanted)
        assert matrix.dtype == np.float32
        assert np.array_equal(matrix[places], expected)
        store.wipe(np.array([3, 8]))
        assert not store.take(np.array([3, 8])).any()
        assert store.take(np.array([0])).any()
