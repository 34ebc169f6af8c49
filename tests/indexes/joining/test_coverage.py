"""Who takes part in a join."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes.errors import CheckpointInvalid
from indexes.joining.coverage import Coverage, Roster, merge_ids, part_ids

SOME_IDS = st.sets(st.integers(0, 60)).map(lambda ids: np.array(sorted(ids), np.int64))


@given(SOME_IDS, SOME_IDS)
def test_two_lists_merge_into_one_that_has_each_id_once(
    some: np.ndarray, others: np.ndarray
) -> None:
    assert np.array_equal(merge_ids(some, others), np.union1d(some, others))


@given(ids=SOME_IDS, known=SOME_IDS)
def test_new_is_what_is_not_known_and_nothing_else_is_left_out(
    ids: np.ndarray, known: np.ndarray
) -> None:
    new, old, sequence = part_ids(ids, 5, known, None)
    assert np.array_equal(merge_ids(new, old), ids)
    assert not np.isin(new, known).any()
    assert np.isin(old, known).all()
    assert sequence == 5
    everyone, nobody, _ = part_ids(ids, 5, None, None)
    assert np.array_equal(everyone, ids)
    assert len(nobody) == 0


def test_a_later_start_takes_those_of_the_first_that_are_still_there() -> None:
    digests = np.zeros(2, np.uint64)
    first = Coverage(4, Roster(np.array([1, 2]), digests), Roster(np.array([3, 4]), digests))
    new, old, sequence = part_ids(np.array([2, 3, 4, 9]), 7, np.array([3, 4]), first)
    assert (new.tolist(), old.tolist(), sequence) == ([2], [3, 4], 4)
    with pytest.raises(CheckpointInvalid, match="replay the store first"):
        part_ids(np.array([1, 2, 3, 4]), 3, np.array([3, 4]), first)
