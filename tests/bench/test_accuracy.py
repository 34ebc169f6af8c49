from pathlib import Path

import numpy as np
import pytest

from bench.core.reports import load_goals
from bench.suites.accuracy import AccuracyConfig, fold_accuracy, run
from engine.errors import RequestError

NAMES = {goal.name for goal in load_goals() if goal.suite == "accuracy"}


def test_rates_that_a_small_folder_cannot_give_are_skipped_and_say_why(faces: Path) -> None:
    results, measured = run(AccuracyConfig(faces=faces))
    assert set(measured) == NAMES
    assert measured["fta"] == 0
    assert measured["evaluate_seconds"] > 0
    assert "pairs file" in measured["accuracy"].reason
    assert "too few for this rate" in measured["fnmr_at_fmr_1e-4"].reason
    assert "too few people" in measured["fused_to_one_gain"].reason
    assert results[0].setup["people"] == 4
    assert results[0].setup["photographs"] == 16


def test_a_pairs_file_gives_the_accuracy(faces: Path, tmp_path: Path) -> None:
    mated = [f"Person_{i}\t1\t2" for i in (0, 1)]
    nonmated = [f"Person_{i}\t1\tPerson_{i + 1}\t1" for i in (0, 1)]
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("\n".join(["2\t2", *mated, *nonmated, *mated, *nonmated]) + "\n")
    _, measured = run(AccuracyConfig(faces=faces, pairs=pairs))
    assert measured["accuracy"] == 1
    pairs.write_text("\n".join(["2\t2", *mated, *nonmated]) + "\n")
    with pytest.raises(RequestError, match=r"is not LFW's pairs\.txt"):
        run(AccuracyConfig(faces=faces, pairs=pairs))


def test_a_fold_is_judged_by_the_thresholds_of_the_others() -> None:
    # Fold 1 alone would choose 0.1 and be right; the others' threshold, 0.5, misses one of it.
    scores = np.array([0.5, 0.4, 0.1, 0.0, 0.5, 0.4], np.float32)
    mated = np.array([True, False] * 3)
    found = fold_accuracy(scores, mated, np.array([0, 0, 1, 1, 2, 2]))
    assert found.tolist() == [1.0, 0.5, 1.0]


def test_only_the_first_people_are_evaluated(faces: Path) -> None:
    results, _ = run(AccuracyConfig(faces=faces, people=2))
    assert results[0].setup["people"] == 2


def test_one_person_is_not_enough(faces: Path) -> None:
    with pytest.raises(RequestError, match="two people"):
        run(AccuracyConfig(faces=faces, people=1))
