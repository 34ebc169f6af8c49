"""The miss rate: what it is measured with, and that another measurement agrees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from indexes.approximate.faiss_kinds import IvfConfig, IvfIndex
from indexes.approximate.index import ApproximateIndex
from indexes.approximate.misses import measure_misses, near_mates
from indexes.base import Ids, Vectors
from indexes.flat import FlatIndex

UnitRows = Callable[..., Vectors]

DIM, COUNT = 32, 4000


@pytest.fixture(scope="module")
def rows(unit_rows: UnitRows) -> Vectors:
    return unit_rows(COUNT, DIM)


@pytest.fixture(scope="module")
def ids() -> Ids:
    return np.random.default_rng(2).permutation(10 * COUNT)[:COUNT]


@pytest.fixture(scope="module")
def flat(ids: Ids, rows: Vectors) -> FlatIndex:
    flat = FlatIndex(DIM)
    flat.add(ids, rows)
    return flat


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.97])
def test_an_exact_index_misses_none_of_the_probes(flat: FlatIndex, threshold: float) -> None:
    measured = measure_misses(flat, threshold, probes=500)
    assert measured is not None
    assert (measured.share, measured.low) == (0, 0)
    assert 0 < measured.high < 0.01
    assert (measured.threshold, measured.references) == (threshold, COUNT)
    assert measured.probes > 490


def test_probes_are_unit_vectors_just_above_the_threshold(flat: FlatIndex) -> None:
    probes, targets = near_mates(flat, 0.6, probes=700, seed=4)
    assert len(set(targets.tolist())) == len(targets) > 690
    assert np.allclose(np.linalg.norm(probes, axis=1), 1, atol=1e-5)
    scores = np.einsum("ij,ij->i", probes.astype(np.float64), flat.vectors(targets))
    assert scores.min() > 0.6 - 1e-6
    assert scores.max() < 0.65 + 1e-6
    assert 0.62 < scores.mean() < 0.63


def test_where_no_probe_can_be_made_nothing_is_measured(unit_rows: UnitRows) -> None:
    for count in (0, 1, 50):
        index = FlatIndex(DIM)
        index.add(np.arange(count), np.repeat(unit_rows(1, DIM), count, axis=0))
        assert measure_misses(index, 0.5) is None


def test_the_miss_rate_is_that_of_another_measurement(
    ids: Ids, rows: Vectors, flat: FlatIndex
) -> None:
    """One list of many is looked into, so that there is much to miss."""
    index = IvfIndex(DIM, IvfConfig(least_rows=1000, threshold=0.6, probed_lists=1))
    index.add(ids, rows)
    measured = index.miss_rate
    assert measured is not None
    missed = _missed_of_mates(index, flat, rows, ids)
    assert 0.2 < missed.mean() < 0.9
    spread = 4 * np.sqrt(0.25 / len(missed) + 0.25 / measured.probes)
    assert abs(measured.share - missed.mean()) < spread
    assert measured.low < measured.share < measured.high
    assert measured.high - measured.low < 0.07


def _missed_of_mates(
    index: ApproximateIndex, flat: FlatIndex, rows: Vectors, ids: Ids
) -> NDArray[np.bool_]:
    """Of 2,000 probes with a score in the band, drawn with the references' covariance."""
    rng = np.random.default_rng(99)
    chosen = rng.permutation(COUNT)[:2000]
    noise = rng.multivariate_normal(np.zeros(DIM), np.cov(rows.T), 2000)
    targets = rows[chosen].astype(np.float64)
    noise -= (noise * targets).sum(axis=1, keepdims=True) * targets
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    scores = rng.uniform(0.6001, 0.65, (2000, 1))
    probes = (scores * targets + np.sqrt(1 - scores**2) * noise).astype(np.float32)
    hits, truth = index.range_search(probes, 0.6), flat.range_search(probes, 0.6)
    assert all(ids[row] in truth.of(query)[0] for query, row in enumerate(chosen))
    return np.array([ids[row] not in hits.of(query)[0] for query, row in enumerate(chosen)])
