"""Synthetic people: the same for a seed, however cut, and as alike as LFW's."""

import numpy as np
import pytest

from engine.accuracy.pair_scores import (
    PairScores,
    TemplateSet,
    compare_all,
    fused_templates,
    single_templates,
)
from engine.accuracy.population import BLOCK, Population
from engine.errors import CalibrationError
from engine.matching.calibration import Calibration, Thresholds
from engine.matching.comparison import Comparisons, Scan, Scanned, WatchList
from engine.matching.samples import Sample
from engine.models.catalog import builtin_card
from indexes.gallery import Gallery
from indexes.segmented.segments import SegmentedIndex
from schema.decisions import Comparison

PEOPLE = 2500


@pytest.fixture(scope="module")
def population() -> Population:
    return Population.load("sface")


@pytest.fixture(scope="module")
def shipped(population) -> Calibration:
    """Loading it shows that it belongs to the population's model."""
    path = builtin_card("sface").calibration_path
    assert path is not None
    return Calibration.load(path, population.model_digest)


@pytest.fixture(scope="module")
def synthetic(population) -> TemplateSet:
    """2,500 people with four photographs."""
    latent = population.people(PEOPLE, seed=3)
    faces = [population.samples(latent, 3, photograph) for photograph in range(4)]
    return single_templates(np.concatenate(faces), np.tile(np.arange(PEOPLE), 4))


@pytest.fixture(scope="module")
def single_scores(synthetic) -> PairScores:
    return compare_all(TemplateSet(synthetic.vectors[::2], synthetic.people[::2],
                                 synthetic.photographs[::2], PEOPLE))  # fmt: skip


def test_a_row_depends_on_its_seed_and_number_alone(population) -> None:
    many = population.references(2 * BLOCK + 7, 5)
    assert np.array_equal(population.references(BLOCK - 1, 5), many[: BLOCK - 1])
    assert np.array_equal(population.references(BLOCK + 1, 5), many[: BLOCK + 1])
    assert not np.array_equal(population.references(7, 6), many[:7])
    latent = population.people(BLOCK + 9, 5)
    assert np.array_equal(population.people(9, 5), latent[:9])
    few = population.samples(latent[:9], 5)
    assert np.allclose(population.samples(latent, 5)[:9], few, atol=1e-6)


def test_a_mate_does_not_depend_on_who_else_was_asked_for(population) -> None:
    rows = np.array([BLOCK + 3, 0, BLOCK + 3, 5])
    together = population.mates(rows, 5)
    for row, probe in zip(rows, together, strict=True):
        assert np.array_equal(population.mates(np.array([row]), 5)[0], probe)


def test_strangers_reach_the_fmr_that_the_calibration_measured(
    single_scores, synthetic, shipped
) -> None:
    fused = compare_all(fused_templates(synthetic, 2))
    for kind, scores in ((Comparison.ONE_TO_ONE, single_scores), (Comparison.FUSED, fused)):
        for rate in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)[: 4 if kind is Comparison.ONE_TO_ONE else 5]:
            threshold = shipped.threshold_at(rate, kind)
            measured = shipped.fmr_at(threshold, kind)
            found = float((scores.nonmated >= threshold).mean())
            assert measured.low * 0.8 <= found <= measured.high * 1.2


def test_of_newcomers_at_100_000_references_no_more_are_asked_about_than_is_stated(
    population, shipped
) -> None:
    """Live face, portrait and mean are each searched for."""
    size, newcomers, watch = 100_000, 200, WatchList(population.dim)
    gallery, latent = Gallery(SegmentedIndex(population.dim)), population.people(newcomers, 8)
    gallery.add(np.arange(size), population.references(size, 7), 1)
    live, portrait = (
        [Sample(one, bytes(32)) for one in population.samples(latent, 8, photograph)]
        for photograph in range(2)
    )
    thresholds = Thresholds.from_calibration(shipped)
    scan = Scan([*zip(live, portrait, strict=True)], gallery, watch, thresholds)
    scanned = [Scanned(scan, place, 1) for place in range(newcomers)]
    found = Comparisons(scanned, gallery, watch, thresholds)
    stated = 0.0
    for faces in scan.faces.values():
        asked = [(thresholds.of(kind).review, kind) for kind in faces.kinds]
        stated += shipped.expect_together(size, asked).value
    assert 0 < sum(map(bool, found.hits.values())) <= stated <= 0.31 * newcomers


def test_mates_are_as_hard_as_those_of_lfw(population) -> None:
    """Of LFW's development half 2.1 % of fused mates are below 0.602, and 0.22 % below 0.472."""
    references = population.references(20_000, 7)
    scores = np.einsum("nd,nd->n", references, population.mates(np.arange(20_000), 7))
    assert (scores < 0.602).mean() == pytest.approx(0.021, abs=0.005)
    assert (scores < 0.472).mean() == pytest.approx(0.0022, abs=0.001)


def test_a_population_of_an_earlier_version_is_read(population, tmp_path) -> None:
    fields = {name: getattr(population, name) for name in population.__slots__}
    del fields["hard_share"], fields["hard_noise"]
    np.savez(tmp_path / "older.npz", **fields)
    older = Population.read(tmp_path / "older.npz")
    assert (older.hard_share, older.hard_noise) == (0, 1)
    assert older.references(3, 1).shape == (3, population.dim)


def test_a_population_survives_its_file_and_nothing_else_is_one(population, tmp_path) -> None:
    population.save(tmp_path / "saved.npz")
    again = Population.read(tmp_path / "saved.npz")
    assert np.array_equal(again.references(5, 1), population.references(5, 1))
    (tmp_path / "bad.npz").write_bytes(b"not a population")
    with pytest.raises(CalibrationError, match=r"bad\.npz is not a population"):
        Population.read(tmp_path / "bad.npz")
    with pytest.raises(CalibrationError, match="no population"):
        Population.load("unheard-of")


def test_the_file_holds_statistics_and_no_rows_of_people(population) -> None:
    shapes = {name: np.shape(getattr(population, name)) for name in population.__slots__}
    assert shapes == {
        "mean": (128,), "between": (128, 128), "within": (128, 128), "noise_log_mean": (),
        "noise_log_std": (), "groups": (), "group_share": (), "model_digest": (),
        "hard_share": (), "hard_noise": (),
    }  # fmt: skip
