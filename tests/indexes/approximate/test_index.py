"""The approximate kinds: hits may be missing, nothing else may be wrong, and the log says so."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from indexes.approximate.faiss_kinds import (
    FastScanConfig,
    FastScanIndex,
    HnswConfig,
    HnswIndex,
    IvfConfig,
    IvfIndex,
)
from indexes.approximate.index import ApproximateIndex
from indexes.base import Hits, Ids, Vectors
from indexes.errors import IdInvalid, SearchInvalid, VectorInvalid
from indexes.flat import FlatIndex

UnitRows = Callable[..., Vectors]
Open = Callable[[], ApproximateIndex]

DIM, COUNT = 32, 4000
SMALL = {"least_rows": 1000, "tail_rows": 300, "training_rows": 4000, "threshold": 0.6}

OPENED: dict[str, Open] = {
    "fastscan": lambda: FastScanIndex(DIM, FastScanConfig(**SMALL)),
    "ivf": lambda: IvfIndex(DIM, IvfConfig(**SMALL, probed_lists=8)),
    "hnsw": lambda: HnswIndex(DIM, HnswConfig(**SMALL, search_breadth=32)),
}


def as_ids(*keys: int) -> Ids:
    return np.array(keys, np.int64)


@pytest.fixture(scope="module")
def rows(unit_rows: UnitRows) -> Vectors:
    """Four in a cluster, their scores with each other about 0.8."""
    loose = np.repeat(unit_rows(COUNT // 4, DIM), 4, axis=0) + 0.5 * unit_rows(COUNT, DIM, seed=1)
    return loose / np.linalg.norm(loose, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def ids() -> Ids:
    return np.random.default_rng(2).permutation(10 * COUNT)[:COUNT]


@pytest.fixture(scope="module")
def flat(ids: Ids, rows: Vectors) -> FlatIndex:
    flat = FlatIndex(DIM)
    flat.add(ids, rows)
    return flat


@pytest.fixture(scope="module", params=OPENED.values(), ids=OPENED.keys())
def opened(request: pytest.FixtureRequest) -> Open:
    made: Open = request.param
    return made


@pytest.fixture
def index(opened: Open, ids: Ids, rows: Vectors) -> ApproximateIndex:
    index = opened()
    index.add(ids, rows)
    return index


@pytest.fixture(scope="module")
def unchanged(opened: Open, ids: Ids, rows: Vectors) -> ApproximateIndex:
    """For tests that leave it as it is."""
    index = opened()
    index.add(ids, rows)
    return index


def assert_within(hits: Hits, truth: Hits) -> float:
    """Every hit is one of the true ones, with its score and in its order; the share found."""
    assert len(hits) == len(truth)
    for query in range(len(truth)):
        found, scores = hits.of(query)
        true_ids, true_scores = truth.of(query)
        kept = np.isin(true_ids, found)
        assert np.array_equal(true_ids[kept], found)
        assert np.array_equal(true_scores[kept], scores)
    return len(hits.ids) / max(1, len(truth.ids))


@pytest.mark.parametrize("queries", [1, 40])
def test_hits_are_those_of_the_oracle_with_the_same_scores_in_the_same_order(
    unchanged: ApproximateIndex, flat: FlatIndex, rows: Vectors, queries: int
) -> None:
    probes = rows[:: COUNT // queries][:queries]
    assert len(probes) == queries
    for threshold in (0.95, 0.6, 0.3, -0.2):
        assert_within(
            unchanged.range_search(probes, threshold), flat.range_search(probes, threshold)
        )
    for k in (1, 7, 100):
        hits = unchanged.search(probes, k)
        assert np.diff(hits.offsets).tolist() == [k] * queries
        assert_within(hits, flat.search(probes, COUNT))


def test_most_of_a_cluster_is_found(
    unchanged: ApproximateIndex, flat: FlatIndex, rows: Vectors
) -> None:
    probes = rows[::9]
    ranged = assert_within(unchanged.range_search(probes, 0.6), flat.range_search(probes, 0.6))
    assert ranged > 0.85
    best = unchanged.search(probes, 4).ids.reshape(-1, 4)
    truth = flat.search(probes, 4).ids.reshape(-1, 4)
    assert np.mean([np.isin(a, b).mean() for a, b in zip(best, truth, strict=True)]) > 0.85


def test_all_is_found_where_all_is_asked_for(
    unchanged: ApproximateIndex, flat: FlatIndex, rows: Vectors
) -> None:
    probes = rows[:3]
    for hits in (unchanged.search(probes, 10 * COUNT), unchanged.range_search(probes, -1.5)):
        assert assert_within(hits, flat.search(probes, COUNT)) == 1


def test_below_the_least_rows_answers_are_exact(
    opened: Open, ids: Ids, rows: Vectors, caplog: pytest.LogCaptureFixture
) -> None:
    index, flat = opened(), FlatIndex(DIM)
    for one in (index, flat):
        one.add(ids[:999], rows[:999])
    assert index.miss_rate is None
    assert not caplog.records
    assert assert_within(index.range_search(rows, 0.3), flat.range_search(rows, 0.3)) == 1


def test_what_was_added_or_removed_last_is_seen_at_once(
    index: ApproximateIndex, unit_rows: UnitRows
) -> None:
    """Into the tail, into the structure, and through a structure built anew."""
    late = unit_rows(2 * COUNT, DIM, seed=5)
    start = 10 * COUNT
    for end in (1, 200, 301, 900, 2 * COUNT):
        keys = np.arange(start, 10 * COUNT + end)
        index.add(keys, late[start - 10 * COUNT : end])
        assert set(keys.tolist()) <= set(index.ids.tolist())
        newest = late[end - 1 : end]
        assert index.search(newest, 1).ids.tolist() == [keys[-1]]
        index.remove(keys[-1:])
        assert keys[-1] not in index
        assert keys[-1] not in index.search(newest, 5).ids
        assert keys[-1] not in index.range_search(newest, 0.1).ids
        index.add(keys[-1:], newest)
        assert index.search(newest, 1).ids.tolist() == [keys[-1]]
        start = 10 * COUNT + end
    assert len(index) == 3 * COUNT


def test_an_id_may_come_back_with_another_vector(
    index: ApproximateIndex, ids: Ids, rows: Vectors, unit_rows: UnitRows
) -> None:
    back, fresh = ids[:400], unit_rows(400, DIM, seed=6)
    index.remove(back)
    index.add(back, fresh)
    assert len(index) == COUNT
    assert np.array_equal(index.ids, np.sort(ids))
    assert np.array_equal(index.vectors(back[::-1]), fresh[::-1])
    assert np.array_equal(index.vectors(ids[390:410]), np.concatenate([fresh[390:], rows[400:410]]))
    index.remove(back)
    assert not np.isin(back, index.ids).any()


def test_a_share_of_dead_rows_has_the_structure_built_again(
    index: ApproximateIndex, ids: Ids, rows: Vectors
) -> None:
    index.remove(ids[:700])
    assert index.removed_since is not None
    assert index.account().alive == COUNT
    index.remove(ids[700:800])
    assert index.removed_since is None
    assert index.account().alive == len(index) == COUNT - 800
    assert index.search(rows[900:901], 1).ids.tolist() == [ids[900]]
    index.remove(ids[800:3100])
    assert index.miss_rate is None, "so few are compared one by one"
    assert index.account().codes == 0


def test_what_is_removed_is_overwritten_at_once_and_leaves_the_structure_by_compact(
    index: ApproximateIndex, ids: Ids, rows: Vectors
) -> None:
    assert index._proposed is not None
    places = index._proposed.find(ids[:50])[0]
    held = index._proposed._rows
    index.remove(ids[:50])
    assert not held[places].any()
    before = index.account().codes
    index.compact()
    assert index.removed_since is None
    assert index.account().codes < before
    assert index._proposed._end == COUNT - 50
    assert np.array_equal(index.vectors(ids[50:60]), rows[50:60])


def test_opening_warns_with_the_measured_miss_rate(
    opened: Open, ids: Ids, rows: Vectors, caplog: pytest.LogCaptureFixture
) -> None:
    index = opened()
    index.add(ids, rows)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert index.miss_rate is not None
    message = record.getMessage()
    for part in (index.kind, f"{index.miss_rate.share:.2%}", str(index.miss_rate), "0.60", "4000"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize("kind", ["fastscan", "ivf"])
def test_training_is_repeatable(kind: str, ids: Ids, rows: Vectors) -> None:
    one, other = OPENED[kind](), OPENED[kind]()
    for index in (one, other):
        index.add(ids, rows)
    assert one.miss_rate == other.miss_rate
    first, second = one.search(rows, 5), other.search(rows, 5)
    assert np.array_equal(first.ids, second.ids)


def test_references_that_are_all_alike_are_no_obstacle(
    opened: Open, unit_rows: UnitRows, caplog: pytest.LogCaptureFixture
) -> None:
    index, row = opened(), unit_rows(1, DIM)
    index.add(np.arange(2000)[::-1], np.repeat(row, 2000, axis=0))
    assert index.miss_rate is None
    assert "unknown" in caplog.text
    assert len(index.range_search(row, 0.99).ids) == 2000
    hits = index.search(row, 5)
    assert len(hits.ids) == 5
    assert np.ptp(hits.scores) == 0


INVALID_VECTORS: tuple[Callable[[Vectors], Any], ...] = (
    lambda rows: rows.tolist(),
    lambda rows: rows.astype(np.float64),
    lambda rows: rows[0],
    lambda rows: rows[:, :31],
    lambda rows: rows * np.float32("nan"),
    lambda rows: np.full_like(rows, np.inf),
    lambda rows: rows * np.float32(1.002),
    lambda rows: rows * np.float32(0),
)


def test_invalid_vectors_are_refused_and_change_nothing(
    unchanged: ApproximateIndex, ids: Ids, rows: Vectors
) -> None:
    for spoil in INVALID_VECTORS:
        spoilt = spoil(rows[:5])
        with pytest.raises(VectorInvalid):
            unchanged.add(10 * COUNT + np.arange(5), spoilt)
        with pytest.raises(VectorInvalid):
            unchanged.search(spoilt, 1)
        with pytest.raises(VectorInvalid):
            unchanged.range_search(spoilt, 0.5)
    assert np.array_equal(unchanged.ids, np.sort(ids))
    assert np.array_equal(unchanged.vectors(ids), rows)


def test_invalid_ids_are_refused_and_change_nothing(
    index: ApproximateIndex, ids: Ids, rows: Vectors
) -> None:
    tail = 10 * COUNT + np.arange(2)
    index.add(tail, rows[:2])
    held, free = int(ids[0]), 10 * COUNT + 7
    for wrong in (
        [free, held],
        np.array([free, free + 1], np.int32),
        np.array([[free, free + 1]], np.int64),
        as_ids(free, -1),
        as_ids(free, free),
        as_ids(free, held),
        as_ids(free, tail[0]),
        as_ids(free),
    ):
        with pytest.raises(IdInvalid):
            index.add(wrong, rows[:2])
    for wrong in (as_ids(held, free), as_ids(held, held), as_ids(tail[0], held, free)):
        with pytest.raises(IdInvalid):
            index.remove(wrong)
    with pytest.raises(IdInvalid, match=f"id {free} is not in the index"):
        index.vectors(as_ids(held, free, tail[0]))
    assert np.array_equal(index.ids, np.sort(np.concatenate([ids, tail])))
    assert np.array_equal(index.vectors(ids), rows)
    for other in (True, float(held), str(held), None, -1, 2**70):
        assert other not in index
    assert held in index
    assert np.int64(held) in index


def test_invalid_searches_are_refused(unchanged: ApproximateIndex, rows: Vectors) -> None:
    for k in (0, -1, 1.0, True):
        with pytest.raises(SearchInvalid):
            unchanged.search(rows[:2], k)
    for threshold in (float("nan"), float("inf"), "0.5", None):
        with pytest.raises(SearchInvalid):
            unchanged.range_search(rows[:2], threshold)


def test_empty_batches_are_fine(unchanged: ApproximateIndex) -> None:
    none = np.empty((0, DIM), np.float32)
    unchanged.add(as_ids(), none)
    unchanged.remove(as_ids())
    assert len(unchanged.search(none, 3)) == len(unchanged.range_search(none, 0.5)) == 0
    assert unchanged.vectors(as_ids()).shape == (0, DIM)
    assert len(unchanged) == COUNT
