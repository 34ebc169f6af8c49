"""What every index refuses, and how it is at its limits."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from indexes.base import Ids, VectorIndex, Vectors
from indexes.errors import IdInvalid, SearchInvalid, VectorInvalid
from indexes.exact.scanner import Scanner
from indexes.segmented.merging import SegmentsConfig
from indexes.segmented.segments import SegmentedIndex
from indexes.sharding.sharded_index import ShardedIndex
from indexes.sharding.shards import ShardPlan
from tests.indexes.sharding.local_shards import open_local

NAN, INF = float("nan"), float("inf")


def as_ids(*keys: int) -> Ids:
    return np.array(keys, np.int64)


@pytest.fixture
def rows(unit_rows) -> Vectors:
    return unit_rows(10)


SMALL, SCANNER = SegmentsConfig(head_rows=2), Scanner(threads=1)
OPENERS: dict[str, Callable[[], VectorIndex]] = {
    "exact8": lambda: SegmentedIndex(16, SMALL, scanner=SCANNER),
    "float16": lambda: SegmentedIndex(16, replace(SMALL, rows="float16"), scanner=SCANNER),
    "shards": lambda: open_local(ShardPlan(16, threads=1), 3),
}


@pytest.fixture(params=OPENERS)
def index(request, rows) -> Iterator[VectorIndex]:
    """Ten references: of exact8 in a segment, in full heads and in the growing one."""
    index = OPENERS[request.param]()
    index.add(np.arange(100, 108), rows[:8])
    for row in (8, 9):
        index.add(as_ids(100 + row), rows[row : row + 1])
    yield index
    if isinstance(index, ShardedIndex):
        index.close()


def with_value(rows: Vectors, value: float) -> Vectors:
    spoilt = rows.copy()
    spoilt[3, 5] = value
    return spoilt


INVALID_VECTORS = {
    "list": lambda rows: rows.tolist(),
    "float64": lambda rows: rows.astype(np.float64),
    "float16": lambda rows: rows.astype(np.float16),
    "big-endian": lambda rows: rows.astype(">f4"),
    "one row": lambda rows: rows[0],
    "another dim": lambda rows: rows[:, :15],
    "nan": lambda rows: with_value(rows, NAN),
    "infinity": lambda rows: with_value(rows, INF),
    "overflowing": lambda rows: with_value(rows, 3e38),
    "too long": lambda rows: rows * np.float32(1.002),
    "too short": lambda rows: rows * np.float32(0.998),
    "zero": lambda rows: rows * np.float32(0),
}


@pytest.mark.parametrize("spoil", INVALID_VECTORS.values(), ids=INVALID_VECTORS.keys())
def test_invalid_vectors_are_refused_and_change_nothing(
    index, rows, spoil: Callable[[Vectors], Vectors]
) -> None:
    spoilt, before = spoil(rows), index.vectors(index.ids)
    with pytest.raises(VectorInvalid):
        index.add(np.arange(len(rows)), spoilt)
    with pytest.raises(VectorInvalid):
        index.search(spoilt, 1)
    with pytest.raises(VectorInvalid):
        index.range_search(spoilt, 0.5)
    assert index.ids.tolist() == list(range(100, 110))
    assert np.array_equal(index.vectors(index.ids), before)


@pytest.mark.parametrize("length", [0.9992, 1.0008])
def test_a_length_within_the_tolerance_is_let_in_as_it_is(length: float) -> None:
    index = SegmentedIndex(16, SMALL, scanner=SCANNER)
    row = np.zeros((1, 16), np.float32)
    row[0, 0] = length
    index.add(as_ids(1), row)
    assert np.array_equal(index.vectors(as_ids(1)), row)


def test_the_refusal_names_dtype_and_row(index, rows) -> None:
    with pytest.raises(VectorInvalid, match="float64; give float32"):
        index.search(rows.astype(np.float64), 1)
    with pytest.raises(VectorInvalid, match="vector 3 is not finite"):
        index.search(with_value(rows, NAN), 1)


INVALID_IDS = {
    "list": [1, 2],
    "int32": np.array([1, 2], np.int32),
    "uint64": np.array([1, 2], np.uint64),
    "float": np.array([1.0, 2.0]),
    "two dimensions": np.array([[1, 2]], np.int64),
    "negative": as_ids(1, -2),
    "twice in the call": as_ids(1, 1),
    "present": as_ids(1, 105),
    "present in a head": as_ids(1, 109),
    "too few": as_ids(1),
    "too many": as_ids(1, 2, 3),
}


@pytest.mark.parametrize("ids", INVALID_IDS.values(), ids=INVALID_IDS.keys())
def test_invalid_ids_are_refused_and_add_nothing(index, rows, ids: Ids) -> None:
    with pytest.raises(IdInvalid):
        index.add(ids, rows[:2])
    assert index.ids.tolist() == list(range(100, 110))
    assert len(index.search(rows[:1], 50).ids) == 10


@pytest.mark.parametrize("ids", [as_ids(100, 109, 99), as_ids(100, 100), as_ids(100, -1)])
def test_an_invalid_removal_removes_nothing(index, ids: Ids) -> None:
    with pytest.raises(IdInvalid):
        index.remove(ids)
    assert index.ids.tolist() == list(range(100, 110))


def test_what_was_removed_is_unknown_and_so_is_all_but_a_whole_number(index) -> None:
    index.remove(as_ids(103, 109))
    with pytest.raises(IdInvalid, match="id 103 is not in the index"):
        index.remove(as_ids(104, 103))
    assert all(held in index for held in (100, np.int64(104), 108))
    for stranger in (True, 100.0, "100", 103, 109, -1, 2**63, 10**30):
        assert stranger not in index


def test_vectors_of_an_unknown_id_are_refused_by_name(index) -> None:
    with pytest.raises(IdInvalid, match="id 7 is not in the index"):
        index.vectors(as_ids(100, 7))


@pytest.mark.parametrize("k", [0, -1, 1.0, True, "1"])
def test_k_below_one_or_not_whole_is_refused(index, rows, k: int) -> None:
    with pytest.raises(SearchInvalid):
        index.search(rows, k)


@pytest.mark.parametrize("threshold", [NAN, INF, -INF, "0.5", None])
def test_a_threshold_that_is_not_finite_is_refused(index, rows, threshold: float) -> None:
    with pytest.raises(SearchInvalid):
        index.range_search(rows, threshold)


def test_strided_input_is_the_same_as_contiguous(unit_rows) -> None:
    index = SegmentedIndex(16, SMALL, scanner=SCANNER)
    wide = np.zeros((4, 32), np.float32)
    wide[:, ::2] = unit_rows(4, seed=2)
    index.add(np.arange(8)[::2], wide[:, ::2])
    assert np.array_equal(index.vectors(as_ids(0, 2, 4, 6)), unit_rows(4, seed=2))
