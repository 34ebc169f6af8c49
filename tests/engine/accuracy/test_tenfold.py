from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.accuracy.tenfold import best_threshold, fold_accuracy

decided_pairs = st.lists(st.tuples(st.integers(-10, 10), st.booleans()), min_size=1, max_size=40)


@given(decided_pairs)
def test_no_threshold_decides_more_pairs_rightly(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([score / 10 for score, _ in pairs], np.float32)
    mated = np.array([is_mated for _, is_mated in pairs])

    def right(threshold: float) -> int:
        return int(((scores >= threshold) == mated).sum())

    # A threshold above all scores is no candidate: it would refuse everybody.
    assert right(best_threshold(scores, mated)) == max(map(right, scores))


def test_a_fold_is_judged_by_the_thresholds_of_the_others() -> None:
    # Fold 1 alone would choose 0.1 and be right; the others' threshold, 0.5, misses one of it.
    scores = np.array([0.5, 0.4, 0.1, 0.0, 0.5, 0.4], np.float32)
    mated = np.array([True, False] * 3)
    result = fold_accuracy(scores, mated, np.array([0, 0, 1, 1, 2, 2]))
    assert result.folds == (1.0, 0.5, 1.0)
    assert result.accuracy == np.mean(result.folds)
    assert result.accuracy_std == np.std(result.folds, ddof=1)
