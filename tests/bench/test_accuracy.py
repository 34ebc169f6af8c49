import numpy as np
import pytest

from bench.core.reports import load_goals
from bench.suites import accuracy
from bench.suites.accuracy import (
    FOLDS,
    MEASURED,
    REPEATS,
    AccuracyConfig,
    check_verify,
    run,
    split_people,
)
from engine.accuracy.pair_scores import TemplateSet, single_templates
from engine.errors import RequestError

NAMES = {goal.name for goal in load_goals() if goal.suite == "accuracy"}


def test_rates_that_a_small_folder_cannot_give_are_skipped_and_say_why(faces) -> None:
    results, measured = run(AccuracyConfig(faces=faces))
    assert set(measured) == NAMES
    assert measured["fta"] == 0
    assert measured["evaluate_seconds"] > 0
    assert "too few for this rate" in measured["fnmr_at_fmr_1e-4"].reason
    assert results[0].setup["people"] == 4


def test_only_the_first_people_are_evaluated_and_one_is_not_enough(faces) -> None:
    results, _ = run(AccuracyConfig(faces=faces, people=2))
    assert results[0].setup["people"] == 2
    with pytest.raises(RequestError, match="two people"):
        run(AccuracyConfig(faces=faces, people=1))


@pytest.fixture(scope="module")
def singles() -> TemplateSet:
    """A hundred people with three photographs."""
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(100), 3)
    rows = rng.standard_normal((100, 24))[people] + 0.6 * rng.standard_normal((300, 24))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return single_templates(rows.astype(np.float32), people)


def test_everybody_is_measured_on_once_in_a_repeat_and_never_fitted_on_then(singles) -> None:
    folds = list(split_people(singles, seed=1))
    assert len(folds) == REPEATS * FOLDS
    for fitted, held in folds:
        assert not set(fitted.people) & set(held.people)
        assert set(fitted.people) | set(held.people) == set(range(100))
    for start in range(0, len(folds), FOLDS):
        held = np.concatenate([fold[1].people for fold in folds[start : start + FOLDS]])
        assert sorted(held) == sorted(singles.people)


def test_verify_is_measured_on_people_it_was_not_fitted_on(singles, monkeypatch) -> None:
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
