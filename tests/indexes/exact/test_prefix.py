"""A prefix of the components along principal axes drops no pair that reaches the threshold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.base import Vectors
from indexes.exact.codes import CodedQueries, Codes
from indexes.exact.kernels import Found
from indexes.exact.prefix import Axes, Grid, find_axes
from indexes.exact.scanner import Scanner
from tests.indexes.conftest import KERNELS, open_kernel

SCANNERS = [open_kernel(name, 1) for name in KERNELS]
DIM = 192


def faces(seed: int, count: int, flatness: float, dim: int = DIM) -> Vectors:
    """Unit rows whose energy falls from axis to axis, in turned axes; some are near another."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((count, dim)) * np.arange(1, dim + 1) ** -flatness
    near = 1 + count // 40
    rows[:near] = rows[-near:] + 0.3 * rows[:near]
    turned = rows @ np.linalg.qr(random.standard_normal((dim, dim)))[0]
    return (turned / np.linalg.norm(turned, axis=1, keepdims=True)).astype(np.float32)


def find(scanner: Scanner, codes: Codes, queries: Codes, threshold: float) -> set[tuple[int, int]]:
    """The pairs (row, query) that a scan hands on, as numbers of the vectors given."""
    coded = CodedQueries.of_rows(queries, slice(0, len(queries.residuals)))
    alive = np.arange(len(codes.bytes)) < len(codes.residuals)
    parts: list[Found] = scanner.gather(
        codes, alive, coded.wanted(codes, threshold), lambda found: found.copy()
    )
    pairs = np.concatenate(parts)
    return set(zip(codes.order[pairs[:, 0]], queries.order[pairs[:, 1]], strict=True))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 90),
    flatness=st.sampled_from([0.0, 0.5, 1.5]),
    step=st.integers(1, 2),
    threshold=st.sampled_from([-0.2, 0.1, 0.57, 0.9]),
    limit=st.sampled_from([0.05, 0.4, 1.0]),
)
def test_every_pair_that_reaches_passes_the_prefix_and_nothing_else_does(
    seed: int, count: int, flatness: float, step: int, threshold: float, limit: float
) -> None:
    rows, queries = faces(seed, 1200, flatness), faces(seed + 1, count, flatness)
    columns = np.linalg.eigh(rows.T.astype(np.float64) @ rows)[1][:, ::-1]
    axes = Axes(np.ascontiguousarray(columns), 64 * step, limit)
    codes, coded = (Codes.in_axes(vectors, axes) for vectors in (rows, queries))
    scores = rows.astype(np.float64) @ queries.astype(np.float64).T
    reaching = set(zip(*np.nonzero(scores >= threshold + 1e-6), strict=True))
    by_prefix = [find(scanner, codes, coded, threshold) for scanner in SCANNERS]
    for part in (codes, coded):
        part.prefix = DIM
    whole = find(Scanner("numba", threads=1), codes, coded, threshold)
    assert reaching <= whole
    # What the prefix drops, the codes alone would have dropped too.
    assert all(found == whole for found in by_prefix)


@pytest.mark.parametrize("grid", [Grid(8, 32, 4), Grid(32, 32, 64)])
def test_axes_are_found_where_few_hold_most_and_only_there(grid: Grid) -> None:
    axes = find_axes(faces(1, 1024, 0.5), 0.9, grid)
    assert axes is not None
    assert axes.prefix % grid.step == 0
    assert 0 < axes.prefix < DIM
    assert find_axes(faces(2, 1024, 0.0), 0.2, grid) is None
    # So low a threshold needs all of them.
    assert find_axes(faces(1, 1024, 0.5), 0.0, grid) is None
