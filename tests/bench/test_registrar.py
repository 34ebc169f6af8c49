import msgspec
import numpy as np
import pytest

from bench.core.reports import load_goals
from bench.suites import workload
from bench.suites.registrar import RegistrarSuiteConfig, run
from bench.suites.workload import Expected, is_right
from engine.errors import RequestError
from engine.matching.requests import Answer
from schema.decisions import DecidedEnrollment
from schema.reasons import Decision, Reason

TINY = {"references": 300, "decisions": 128, "single_decisions": 4, "rounds": 3}


def answer(decision: str, *reasons: str) -> Answer:
    decided = {
        "enrollment_id": "one",
        "decision": decision,
        "reasons": [{"reason": reason, "decision": decision} for reason in reasons],
        "thresholds": {"verify": 0.4, "same_document": 0.4, "review": 0.5, "certain": 0.6},
        "decided_at": "2026-01-01T00:00:00+00:00",
        "model_digest": "",
        "calibration_version": None,
        "policy_version": "5",
    }
    return Answer(msgspec.convert(decided, DecidedEnrollment))


def test_every_decision_of_a_small_day_is_right_and_nothing_is_lost(tmp_path) -> None:
    results, measured = run(RegistrarSuiteConfig(folder=tmp_path, **TINY))
    assert measured["wrong_decisions"] == 0
    assert measured["gallery_difference"] == 0
    assert set(measured) == {goal.name for goal in load_goals() if goal.suite == "registrar"}
    assert [result.name for result in results] == ["Decisions"]
    assert all(result.setup["references"] == 300 for result in results)
    single, full = results[0].figures
    assert (single.name, full.name) == ("one a transaction", "batches of 32")
    assert len(single.samples) == len(full.samples) == results[0].setup["rounds"] == 3
    assert (single.low or 0) <= (single.value or 0) <= (single.high or 0)
    assert results[0].setup["decisions"] >= 90
    assert results[0].setup["single_decisions"] == 3
    assert not list(tmp_path.iterdir()), "the database is gone afterwards"


def test_too_few_decisions_for_the_rounds_are_refused(tmp_path) -> None:
    with pytest.raises(RequestError, match="too few decisions"):
        run(RegistrarSuiteConfig(folder=tmp_path, **TINY | {"single_decisions": 3}))


def test_a_wrong_engine_fails_the_suite(tmp_path, monkeypatch) -> None:
    # An engine that enrolls other faces than it is told to: its gallery knows nobody.
    load = workload.admit_holders
    monkeypatch.setattr(
        workload, "admit_holders", lambda home, faces: load(home, np.roll(faces, 1, axis=1))
    )
    _, measured = run(RegistrarSuiteConfig(folder=tmp_path, **TINY))
    assert measured["wrong_decisions"] > 0


def test_decision_and_reasons_must_both_be_those_expected() -> None:
    expected = Expected(
        Decision.REJECTED, frozenset({Reason.DUPLICATE_IDENTITY}), adds_reference=False
    )
    assert is_right(answer("rejected", "DUPLICATE_IDENTITY"), expected)
    assert not is_right(answer("rejected", "FACE_MISMATCH"), expected)
    assert not is_right(answer("rejected", "DUPLICATE_IDENTITY", "FACE_MISMATCH"), expected)
    assert not is_right(answer("approved"), expected)
    assert not is_right(RequestError("no answer"), expected)
