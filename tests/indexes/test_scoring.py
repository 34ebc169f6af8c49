"""The one definition of a score."""

import numpy as np
import pytest

from indexes.base import exact_score, exact_scores, products, rounding_bound


@pytest.mark.parametrize("dim", [1, 7, 8, 31, 127, 128, 129, 200, 512, 1000, 4096])
def test_a_pair_scored_alone_has_the_score_that_it_has_in_any_batch(dim: int) -> None:
    rng = np.random.default_rng(dim)
    rows = rng.standard_normal((64, dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    # As they come from a sealed token: anywhere in memory, and not to be written to.
    loose = [np.frombuffer(b"." * 4 + row.tobytes(), np.float32, -1, 4) for row in rows]
    query_of, row_of = rng.integers(0, 64, (2, 5000))
    scores = exact_scores(rows, rows, query_of, row_of)
    alone = [
        exact_score(loose[query], loose[row]) for query, row in zip(query_of, row_of, strict=True)
    ]
    assert alone == scores.tolist()


@pytest.mark.parametrize("queries", [0, 1, 8, 33, 64, 300])
@pytest.mark.parametrize("rows", [0, 1, 63, 64, 1000])
@pytest.mark.parametrize("dim", [16, 128, 512])
def test_a_product_made_of_small_ones_is_within_the_bound_of_the_scores(
    queries: int, rows: int, dim: int
) -> None:
    rng = np.random.default_rng(dim)
    both = rng.standard_normal((queries + rows, dim)).astype(np.float32)
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    found = products(both[:queries], both[queries:])
    exact = both[:queries].astype(np.float64) @ both[queries:].astype(np.float64).T
    assert found.shape == (queries, rows)
    assert np.abs(found - exact).max(initial=0) <= rounding_bound(dim)
