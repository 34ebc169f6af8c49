"""The join: brute force, and what happens when it is stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.base import Ids, Vectors
from indexes.errors import SearchInvalid, VectorInvalid
from indexes.exact8 import Exact8Index
from indexes.join import RECORD, Pairs, Progress, join
from indexes.kernels import STRETCH
from indexes.scanner import Scanner
from indexes.scoring import exact_scores

UnitRows = Callable[..., Vectors]

TILE = STRETCH
ROWS = 3 * TILE + 100


class Stopped(Exception):
    """What a user's callback raises."""


def crowd(seed: int, n: int, dim: int) -> Vectors:
    """Rows of which many are near or equal to another."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((n, dim))
    copies = random.integers(0, n, n // 10)
    rows[random.integers(0, n, n // 10)] = rows[copies]
    near = random.integers(0, n, n // 10)
    rows[random.integers(0, n, n // 10)] = rows[near] + 0.8 * random.standard_normal((n // 10, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def brute_force(ids: Ids, rows: Vectors, threshold: float, others: tuple[Ids, Vectors] | None):
    other_ids, other_rows = others or (ids, rows)
    left, right = np.nonzero(np.float64(rows) @ np.float64(other_rows).T >= threshold - 1e-4)
    if others is None:
        left, right = left[ids[left] < ids[right]], right[ids[left] < ids[right]]
    scores = exact_scores(rows, other_rows, left, right)
    kept = scores.astype(np.float64) >= threshold
    found = np.empty(kept.sum(), RECORD)
    found["left"], found["right"] = ids[left[kept]], other_ids[right[kept]]
    found["score"] = scores[kept]
    return np.sort(found, order=["left", "right"])


def as_records(pairs: Pairs) -> np.ndarray:
    records = np.empty(len(pairs), RECORD)
    records["left"], records["right"], records["score"] = pairs.left, pairs.right, pairs.scores
    return records


@pytest.fixture(scope="module")
def gallery() -> tuple[Exact8Index, np.ndarray]:
    rows = crowd(0, ROWS, 64)
    ids = np.random.default_rng(1).permutation(5 * ROWS)[:ROWS].astype(np.int64)
    index = Exact8Index(64, ids, rows)
    gone = np.zeros(ROWS, np.bool_)
    gone[::17] = True
    index.remove(ids[gone])
    return index, brute_force(ids[~gone], rows[~gone], 0.5, None)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from([0, 1, 31, 1023, 1024, 2500]),
    m=st.sampled_from([0, 1, 40, 1500]),
    dim=st.sampled_from([64, 100, 256]),
    threshold=st.sampled_from([0.4, 0.7, 1.0]),
)
def test_a_join_is_brute_force(seed: int, n: int, m: int, dim: int, threshold: float) -> None:
    rows, others = crowd(seed, n, dim), crowd(seed + 1, m, dim)
    shared = min(n, m) // 2
    others[:shared] = rows[:shared]
    ids, other_ids = np.arange(n)[::-1] + 5, np.arange(m)
    left = Exact8Index(dim, ids, rows)
    right = Exact8Index(dim, other_ids, others)
    within = join(left, None, threshold, tile_rows=TILE)
    assert np.array_equal(as_records(within), brute_force(ids, rows, threshold, None))
    between = join(left, right, threshold, tile_rows=TILE)
    expected = brute_force(ids, rows, threshold, (other_ids, others))
    assert np.array_equal(as_records(between), expected)


@pytest.mark.parametrize("stop_after", range(1, 5))
def test_a_join_stopped_after_any_tile_goes_on_with_the_next(
    gallery: tuple[Exact8Index, np.ndarray], tmp_path: Path, stop_after: int
) -> None:
    index, expected = gallery

    def stop(progress: Progress) -> None:
        if progress.tiles_done == stop_after:
            raise Stopped

    with pytest.raises(Stopped):
        join(index, None, 0.5, checkpoint=tmp_path, tile_rows=TILE, progress=stop)
    seen: list[Progress] = []
    pairs = join(index, None, 0.5, checkpoint=tmp_path, tile_rows=TILE, progress=seen.append)
    assert np.array_equal(as_records(pairs), expected)
    assert [progress.tiles_done for progress in seen] == list(range(stop_after + 1, 5))
    assert {progress.tiles for progress in seen} <= {4}


def test_a_tile_cut_off_while_it_was_written_is_made_again(
    gallery: tuple[Exact8Index, np.ndarray], tmp_path: Path
) -> None:
    index, expected = gallery

    def stop(progress: Progress) -> None:
        if progress.tiles_done == 2:
            raise Stopped

    with pytest.raises(Stopped):
        join(index, None, 0.5, checkpoint=tmp_path, tile_rows=TILE, progress=stop)
    with (tmp_path / "results.bin").open("ab") as results:
        results.write(b"half a rec")
    (tmp_path / "state.json.new").write_bytes(b'{"next_ti')
    pairs = join(index, None, 0.5, checkpoint=tmp_path, tile_rows=TILE)
    assert np.array_equal(as_records(pairs), expected)


def test_a_finished_join_is_read_back_without_a_tile(
    gallery: tuple[Exact8Index, np.ndarray], tmp_path: Path
) -> None:
    index, expected = gallery
    join(index, None, 0.5, checkpoint=tmp_path, tile_rows=TILE)
    seen: list[Progress] = []
    pairs = join(index, None, 0.5, checkpoint=tmp_path, tile_rows=TILE, progress=seen.append)
    assert seen == []
    assert np.array_equal(as_records(pairs), expected)


def test_progress_counts_every_pair_of_rows_once(
    gallery: tuple[Exact8Index, np.ndarray],
) -> None:
    index, expected = gallery
    seen: list[Progress] = []
    join(index, None, 0.5, tile_rows=2 * TILE, progress=seen.append)
    assert [(progress.tiles_done, progress.tiles) for progress in seen] == [(1, 2), (2, 2)]
    assert seen[-1].comparisons == ROWS * (ROWS - 1) // 2
    assert seen[-1].pairs == len(expected)


def test_the_result_is_the_same_for_any_tiles_and_threads(
    gallery: tuple[Exact8Index, np.ndarray], unit_rows: UnitRows
) -> None:
    _, expected = gallery
    rows = crowd(0, ROWS, 64)
    ids = np.random.default_rng(1).permutation(5 * ROWS)[:ROWS].astype(np.int64)
    for threads, tile_rows in ((1, TILE), (3, 2 * TILE), (2, 8 * TILE)):
        index = Exact8Index(64, ids, rows, scanner=Scanner(threads=threads))
        index.remove(ids[::17])
        assert np.array_equal(as_records(join(index, None, 0.5, tile_rows=tile_rows)), expected)


def test_a_checkpoint_of_another_join_is_refused_and_left_alone(
    gallery: tuple[Exact8Index, np.ndarray], unit_rows: UnitRows, tmp_path: Path
) -> None:
    index, _ = gallery
    join(index, None, 0.5, checkpoint=tmp_path, tile_rows=TILE)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = Exact8Index(64, np.arange(9), unit_rows(9, 64))
    shrunk = Exact8Index(64, np.arange(ROWS), crowd(0, ROWS, 64))
    for left, right, threshold, tile_rows in (
        (index, None, 0.6, TILE),
        (index, None, 0.5, 2 * TILE),
        (index, index, 0.5, TILE),
        (index, other, 0.5, TILE),
        (shrunk, None, 0.5, TILE),
    ):
        with pytest.raises(SearchInvalid, match="of another join"):
            join(left, right, threshold, checkpoint=tmp_path, tile_rows=tile_rows)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_damaged_checkpoint_is_refused(
    gallery: tuple[Exact8Index, np.ndarray], tmp_path: Path
) -> None:
    index, _ = gallery
    join(index, None, 0.5, checkpoint=tmp_path, tile_rows=TILE)
    results, state = tmp_path / "results.bin", tmp_path / "state.json"
    content, whole = results.read_bytes(), state.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 4
    broken = json.dumps(json.loads(whole) | {"next_tile": "none", "more": 1}).encode()
    for spoilt_results, spoilt_state in (
        (content[:-1], whole),
        (bytes(flipped), whole),
        (content, whole[:-9]),
        (content, broken),
        (content, b"[]"),
    ):
        results.write_bytes(spoilt_results)
        state.write_bytes(spoilt_state)
        with pytest.raises(SearchInvalid, match="is damaged"):
            join(index, None, 0.5, checkpoint=tmp_path, tile_rows=TILE)


def test_invalid_joins_are_refused(unit_rows: UnitRows) -> None:
    index = Exact8Index(64, np.arange(9), unit_rows(9, 64))
    with pytest.raises(VectorInvalid):
        join(index, Exact8Index(16, np.arange(9), unit_rows(9)), 0.5)
    with pytest.raises(SearchInvalid):
        join(index, None, float("nan"))
    for tile_rows in (0, 100, -STRETCH):
        with pytest.raises(SearchInvalid):
            join(index, None, 0.5, tile_rows=tile_rows)
