"""Parts, name and rows of a sealed segment, and wiping."""

import numpy as np
import pytest

from indexes.exact.exact8 import Exact8Segment
from indexes.exact.scanner import Scanner
from tests.indexes.conftest import ask, assert_same, remove_ids, restore

SCANNER = Scanner(threads=2)


@pytest.mark.parametrize("kept", ["float32", "float16"])
def test_a_segment_comes_back_from_its_parts(unit_rows, kept: str) -> None:
    rows, probes = unit_rows(700, 100), unit_rows(20, 100, seed=1)
    index = Exact8Segment(np.arange(700), rows.astype(kept), scanner=SCANNER)
    assert index.codes.bytes.shape == (704, 128)
    again = restore(index)
    assert again.name == index.name
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


def test_every_build_has_a_name_of_its_own(unit_rows) -> None:
    rows = unit_rows(5, 64)
    names = {Exact8Segment(np.arange(5), rows, scanner=SCANNER).name for _ in range(3)}
    assert len(names) == 3
    assert all(len(bytes.fromhex(name)) == 16 for name in names)


@pytest.mark.parametrize("kept", ["float32", "float16"])
def test_removed_rows_are_wiped_from_memory(unit_rows, kept: str) -> None:
    rows = unit_rows(50, 64)
    index = Exact8Segment(np.arange(50), rows.astype(kept), scanner=SCANNER)
    remove_ids(index, np.arange(10))
    dead = np.flatnonzero(~index.alive_rows)
    assert (index.removed, len(index), len(dead)) == (10, 40, 10)
    assert sorted(index.row_ids[dead]) == list(range(10))
    assert not index.rows.take(dead).any()
    assert (index.codes.bytes[dead] == 128).all()
    halves = index.codes.plane.halves
    assert (halves[dead[dead < len(halves)]] == 0x88).all()
    # Not by a threshold that all reach, and not where fewer are left than asked for.
    assert ask(index).range_search(rows[:1], -2.0).ids.min() == 10
    assert len(ask(index).search(rows[:1], 50).ids) == 40
