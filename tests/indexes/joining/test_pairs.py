"""Runs of pairs, read as one list."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.joining import RECORD
from indexes.joining.tiling import Pairs, Records, sort_records


def drawn(seed: int, n: int, lefts: int) -> Records:
    """Distinct pairs in any order."""
    random = np.random.default_rng(seed)
    cells = random.choice(lefts * 1000, n, replace=False)
    records = np.empty(n, RECORD)
    records["left"], records["right"] = cells // 1000, cells % 1000
    records["score"] = random.random(n)
    return records


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 1500),
    lefts=st.sampled_from([2, 40, 5000]),
    runs=st.integers(1, 30),
    size=st.sampled_from([1, 100, 1 << 20]),
)
def test_pieces_are_the_sorted_whole(seed: int, n: int, lefts: int, runs: int, size: int) -> None:
    records = drawn(seed, n, lefts)
    pairs = Pairs([sort_records(records[i::runs]) for i in range(runs)])
    assert len(pairs) == n
    pieces = list(pairs.pieces(size))
    assert all(map(len, pieces))
    whole = sort_records(records)
    assert np.array_equal(np.concatenate([np.empty(0, RECORD), *pieces]), whole)
    assert np.array_equal(pairs.records, whole)
    for column in (pairs.left, pairs.right, pairs.scores):
        assert column.flags.aligned
        assert column.flags.c_contiguous


@pytest.mark.parametrize("runs", [1, 7, 400])
def test_a_piece_is_about_as_large_as_asked(runs: int) -> None:
    records = drawn(0, 200_000, 5000)
    pairs = Pairs([sort_records(records[i::runs]) for i in range(runs)])
    sizes = [len(piece) for piece in pairs.pieces(10_000)]
    assert max(sizes) < 25_000
    assert len(sizes) < 45


def test_only_pairs_of_known_ids_are_there() -> None:
    records = drawn(1, 3000, 40)
    known = np.arange(0, 500, 2)
    pairs = Pairs([sort_records(records[i::3]) for i in range(3)], known)
    whole = sort_records(records)
    expected = whole[np.isin(whole["left"], known) & np.isin(whole["right"], known)]
    assert len(pairs) == len(expected)
    assert np.array_equal(pairs.records, expected)
