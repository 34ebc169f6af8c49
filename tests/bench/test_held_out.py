"""Cross-validation over people: nobody is fitted on and measured on at once."""

from dataclasses import replace

import numpy as np
import pytest

from bench.core.reports import Skipped
from bench.suites import accuracy
from bench.suites.accuracy import (
    FOLDS,
    FUSED_FMR,
    FUSED_FNMR,
    GAIN_OF_THREE,
    GAINED,
    MEASURED,
    MIXED,
    REFUSED,
    REPEATS,
    SINGLE_FNMR,
    check_frames,
    check_transform,
    check_verify,
    name_frames,
    split_people,
)
from engine.accuracy.pair_scores import TemplateSet, compare_all, single_templates
from engine.matching.calibration import Thresholds


@pytest.fixture(scope="module")
def singles() -> TemplateSet:
    """A hundred people with three photographs."""
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(100), 3)
    rows = rng.standard_normal((100, 24))[people] + 0.6 * rng.standard_normal((300, 24))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return single_templates(rows.astype(np.float32), people)


def test_everybody_is_measured_on_once_in_a_repeat_and_never_fitted_on_then(
    singles: TemplateSet,
) -> None:
    folds = list(split_people(singles, seed=1))
    assert len(folds) == REPEATS * FOLDS
    for fitted, held in folds:
        assert not set(fitted.people) & set(held.people)
        assert set(fitted.people) | set(held.people) == set(range(100))
    for start in range(0, len(folds), FOLDS):
        held = np.concatenate([fold[1].people for fold in folds[start : start + FOLDS]])
        assert sorted(held) == sorted(singles.people)


def test_verify_is_measured_on_people_it_was_not_fitted_on(
    singles: TemplateSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, few = check_verify(singles, 0.5, seed=0)
    assert {one.reason for one in few.values()} == {
        "100 people are too few for FMR 1e-04 in half of them"
    }
    monkeypatch.setattr(accuracy, "VERIFY_FMR", 1e-2)
    result, measured = check_verify(singles, 0.42, seed=0)
    assert tuple(measured) == MEASURED
    assert 0.001 < measured["verify_fmr_least"] < 0.01 < measured["verify_fmr_most"] < 0.05
    fmr = next(figure for figure in result.figures if figure.name == "verify, FMR")
    assert fmr.value == pytest.approx(0.01, rel=0.5)


def test_frames_are_measured_on_people_that_did_not_set_the_thresholds(
    singles: TemplateSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    people = np.repeat(np.arange(120), 6)
    rows = rng.standard_normal((120, 24))[people] + 0.9 * rng.standard_normal((720, 24))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    many = single_templates(rows.astype(np.float32), people)
    monkeypatch.setattr(accuracy, "VERIFY_FMR", 1e-2)
    (verify,) = compare_all(many).thresholds_at(np.array([1e-2]))
    shipped = Thresholds(
        verify=verify, same_document=0.5, review=0.6, certain=0.7, verify_fused=verify
    )
    result, measured = check_frames(many, shipped, seed=0)
    found = {figure.name: figure.value for figure in result.figures}
    for frames in (2, 3, 5):
        one, fused, fmr, refused, mixed = (
            found[name_frames(frames, name)]
            for name in (SINGLE_FNMR, FUSED_FNMR, FUSED_FMR, REFUSED, MIXED)
        )
        assert fused < one / 2
        # Strangers score higher against a mean, at one threshold.
        assert fmr > 0.01
        assert 0 <= refused < mixed + 0.2 < 0.6
    assert measured[GAIN_OF_THREE] == pytest.approx(
        found[name_frames(3, SINGLE_FNMR)] / max(found[name_frames(3, FUSED_FNMR)], 1 / 4800)
    )
    # Nobody of these has a fourth photograph.
    _, few = check_frames(singles, shipped, seed=0)
    assert isinstance(few[GAIN_OF_THREE], Skipped)


def test_a_transform_is_measured_on_people_it_was_not_fitted_on(
    singles: TemplateSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of vectors that all lean one way, subtracting their mean gains."""
    _, few = check_transform(singles, seed=0)
    assert {one.reason for one in few.values()} == {
        "100 people are too few for FMR 1e-05 in half of them"
    }
    monkeypatch.setattr(accuracy, "TRANSFORM_FMR", 1e-2)
    leaning = singles.vectors + np.eye(24, dtype=np.float32)[0]
    leaning /= np.linalg.norm(leaning, axis=1, keepdims=True)
    result, measured = check_transform(replace(singles, vectors=leaning), seed=0)
    assert tuple(measured) == GAINED
    without, with_it, gain = (figure.value for figure in result.figures)
    assert gain == pytest.approx(without - with_it)
    assert measured["transform_gain"] == gain
    assert gain > 0
