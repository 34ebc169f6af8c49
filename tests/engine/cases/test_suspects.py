"""The measured precision of sweeps: what counts, with its interval."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from engine.cases.case import Outcome
from engine.cases.suspects import measure_precision
from engine.registry.records import JudgedPair


def pair(outcome: Outcome, score: float, sweep_id: str | None = "s1") -> JudgedPair:
    return JudgedPair(
        left_document="a",
        right_document="b",
        outcome=outcome,
        score=score,
        case_id="c",
        sweep_id=sweep_id,
        decided_at=datetime(2026, 1, 1, tzinfo=UTC),
        decided_by="key:anna",
    )


PAIRS = [
    *[pair(Outcome.FRAUD, 0.8)] * 8,
    pair(Outcome.TWINS, 0.75),
    pair(Outcome.MISTAKE, 0.6),
    pair(Outcome.FRAUD, 0.6, "s2"),
    *[pair(Outcome.MISTAKE, 0.9, None)] * 5,
]


def test_twins_and_mistakes_count_against_a_sweep_and_other_cases_do_not_count() -> None:
    found = measure_precision(PAIRS)
    assert (found.judged, found.confirmed) == (11, 9)
    assert found.rate is not None
    assert found.rate.value == pytest.approx(9 / 11)
    # Wilson's interval by hand: centre 0.7355, half width 0.2128.
    assert found.rate.low == pytest.approx(0.5230, abs=1e-4)
    assert found.rate.high == pytest.approx(0.9486, abs=1e-4)


def test_it_is_measured_for_one_sweep_and_at_thresholds() -> None:
    assert measure_precision(PAIRS, sweep_id="s2").judged == 1
    measured = [measure_precision(PAIRS, at, "s1") for at in (0.6, 0.7, 0.8, 0.95)]
    assert [(one.threshold, one.judged, one.confirmed) for one in measured] == [
        (0.6, 10, 8),
        (0.7, 9, 8),
        (0.8, 8, 8),
        (0.95, 0, 0),
    ]
    assert measured[2].rate is not None
    assert measured[2].rate.low < 0.7
    assert measured[2].rate.high == 1.0


def test_nothing_judged_has_no_rate() -> None:
    assert measure_precision([]).rate is None
