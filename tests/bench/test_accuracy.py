import pytest

from bench.core.reports import load_goals
from bench.suites.accuracy import AccuracyConfig, run
from engine.errors import RequestError

NAMES = {goal.name for goal in load_goals() if goal.suite == "accuracy"}


def test_rates_that_a_small_folder_cannot_give_are_skipped_and_say_why(faces) -> None:
    results, measured = run(AccuracyConfig(faces=faces))
    assert set(measured) == NAMES
    assert measured["fta"] == 0
    assert measured["evaluate_seconds"] > 0
    assert "too few for this rate" in measured["fnmr_at_fmr_1e-4"].reason
    assert results[0].setup["people"] == 4


def test_only_the_first_people_are_evaluated(faces) -> None:
    results, _ = run(AccuracyConfig(faces=faces, people=2))
    assert results[0].setup["people"] == 2


def test_one_person_is_not_enough(faces) -> None:
    with pytest.raises(RequestError, match="two people"):
        run(AccuracyConfig(faces=faces, people=1))
