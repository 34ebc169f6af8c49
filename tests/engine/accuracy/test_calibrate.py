from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine.accuracy.calibrate import calibrate, calibrate_folder, choose_rates
from engine.accuracy.metrics import false_match_rate
from engine.accuracy.pairs import compare_all
from engine.accuracy.templates import single_templates
from engine.errors import CalibrationError, RateUnsupported
from engine.faces.extractor import Extractor, digest_embedding
from engine.matching.thresholds import Calibration, Comparison, ThresholdRates, Thresholds
from engine.models.catalog import CARDS_FOLDER, builtin_card

Faces = Callable[..., tuple[np.ndarray, np.ndarray]]


def test_a_calibration_keeps_the_rates_it_states(draw_faces: Faces, tmp_path: Path) -> None:
    vectors, people = draw_faces(80, 5)
    made = calibrate(vectors, people, model_digest="d" * 64, source="made for tests")
    assert (made.people, made.photographs) == (80, 400)
    nonmated = compare_all(single_templates(vectors, people)).nonmated
    for rate in (0.5, 0.1, 0.01, 0.001):
        threshold = made.threshold_at(rate, Comparison.ONE_TO_ONE)
        assert false_match_rate(nonmated, threshold) == pytest.approx(rate, rel=0.02)
    made.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json", "d" * 64) == made


def test_the_order_of_the_photographs_does_not_matter(draw_faces: Faces) -> None:
    vectors, people = draw_faces(30, 4)
    by_photograph = np.argsort(np.tile(np.arange(4), 30), kind="stable")
    one = calibrate(vectors, people, model_digest="d", source="s")
    other = calibrate(vectors[by_photograph], people[by_photograph], model_digest="d", source="s")
    for kind in Comparison:
        thresholds = [
            [point.threshold for point in made.curve(kind).points] for made in (one, other)
        ]
        assert np.allclose(*thresholds, atol=1e-6)


def test_too_few_photographs_of_a_person_are_refused(draw_faces: Faces) -> None:
    with pytest.raises(CalibrationError, match="no mated fused comparison"):
        calibrate(*draw_faces(30, 3), model_digest="d", source="s")
    with pytest.raises(CalibrationError, match="no mated one_to_one comparison"):
        calibrate(*draw_faces(30, 1), model_digest="d", source="s")
    with pytest.raises(CalibrationError, match="no face"):
        calibrate(*draw_faces(0, 1), model_digest="d", source="s")


def test_a_folder_is_calibrated_for_the_extractor_that_read_it(
    faces_folder: Path, extractor: Extractor
) -> None:
    made, population = calibrate_folder(faces_folder, extractor, source="free faces")
    assert made.model_digest == extractor.model_digest
    assert made.photographs == 24
    assert population is None
    with pytest.raises(CalibrationError, match="a population needs 1,000,000"):
        calibrate_folder(faces_folder, extractor, source="free faces", population=True)


def test_rates_are_the_usual_ones_where_the_data_support_them_and_else_rounded_up(
    draw_faces: Faces,
) -> None:
    made = calibrate(*draw_faces(80, 5), model_digest="d", source="s")
    rates = choose_rates(made)
    lowest = made.curve(Comparison.ONE_TO_ONE).lowest_fmr
    assert lowest == pytest.approx(10 / (400 * 395 / 2))
    assert rates.verify == 2e-4
    fused = made.curve(Comparison.FUSED).lowest_fmr
    assert 1e-6 < fused <= rates.review < 3 * fused
    Thresholds.from_calibration(made, rates)
    with pytest.raises(RateUnsupported):
        Thresholds.from_calibration(made)
    shipped = Calibration.load(
        CARDS_FOLDER / "sface.calibration.json", digest_embedding(builtin_card("sface"), flip=False)
    )
    assert choose_rates(shipped) == ThresholdRates()
