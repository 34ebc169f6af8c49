"""What decisions teach: what counts, with its interval, and the threshold that is proposed."""

import pytest

from engine.cases.decided import (
    ClosedCase,
    DecisionReader,
    Outcomes,
    count_by,
    measure_at,
    measure_fraud,
    measure_precision,
    propose_threshold,
)
from engine.registry.database import new_id
from engine.registry.sweeps import JudgedPair
from schema.cases import Ground, Outcome
from tests.engine.records import make_pair


def pair(
    outcome: Outcome, score: float, sweep_id: str | None = "s1", case_id: str = ""
) -> JudgedPair:
    given = {"outcome": outcome, "score": score, "sweep_id": sweep_id}
    return make_pair("a", "b", case_id=case_id or new_id(), **given)


PAIRS = [
    *[pair(Outcome.FRAUD, 0.8) for _ in range(8)],
    pair(Outcome.TWINS, 0.75),
    pair(Outcome.MISTAKE, 0.6),
    pair(Outcome.FRAUD, 0.6, "s2"),
    *[pair(Outcome.MISTAKE, 0.9, None)] * 5,
]


def test_twins_and_mistakes_count_against_a_sweep_and_other_cases_do_not_count() -> None:
    found = measure_precision(PAIRS)
    assert (found.judged, found.confirmed) == (11, 9)
    assert found.rate.value == pytest.approx(9 / 11)
    # Wilson's interval by hand: centre 0.7355, half width 0.2128.
    assert found.rate.low == pytest.approx(0.5230, abs=1e-4)
    assert found.rate.high == pytest.approx(0.9486, abs=1e-4)
    assert measure_precision([]).rate is None


def test_it_is_measured_for_one_sweep_and_at_thresholds() -> None:
    assert measure_precision(PAIRS, sweep_id="s2").judged == 1
    measured = measure_at(PAIRS, (0.6, 0.7, 0.8, 0.95), "s1")
    assert [(one.threshold, one.judged, one.confirmed) for one in measured] == [
        (0.6, 10, 8),
        (0.7, 9, 8),
        (0.8, 8, 8),
        (0.95, 0, 0),
    ]
    assert measured[2].rate.low < 0.7
    assert measured[2].rate.high == 1.0


def test_a_large_case_is_one_decision_to_an_interval() -> None:
    ring = [pair(Outcome.FRAUD, 0.8, case_id="ring") for _ in range(190)]
    found = measure_precision(ring)
    assert (found.judged, found.cases, found.effective) == (190, 1, 1.0)
    assert found.rate.low == pytest.approx(0.2065, abs=1e-4)
    mixed = measure_precision([*ring, pair(Outcome.TWINS, 0.7)])
    # (190 + 1)^2 / (190^2 + 1)
    assert mixed.effective == pytest.approx(1.0105, abs=1e-4)


def test_the_lowest_threshold_is_proposed_at_which_most_pairs_were_fraud() -> None:
    good = [pair(Outcome.FRAUD, 0.61 + 0.002 * n) for n in range(60)]
    bad = [pair(Outcome.MISTAKE, 0.50 + 0.002 * n) for n in range(40)]
    found = propose_threshold([*good, *bad])
    assert (found.ground, found.threshold) == (Ground.ENOUGH, 0.57)
    assert found.measured.rate.low >= 0.8
    [below] = measure_at([*good, *bad], [0.56])
    assert below.rate.low < 0.8
    assert propose_threshold([*good, *bad], wanted=0.9).threshold > 0.57


def test_few_decisions_and_bad_ones_propose_nothing() -> None:
    few = propose_threshold([pair(Outcome.FRAUD, 0.7) for _ in range(19)])
    assert (few.threshold, few.ground, few.measured.cases) == (None, Ground.TOO_FEW, 19)
    # A thousand pairs of one ring are not a thousand decisions.
    ring = [pair(Outcome.FRAUD, 0.7, case_id="ring") for _ in range(1000)]
    assert propose_threshold(ring).ground is Ground.TOO_FEW
    bad = propose_threshold([pair(Outcome.TWINS, 0.6 + 0.001 * n) for n in range(50)])
    assert (bad.threshold, bad.ground) == (None, Ground.NEVER)
    assert propose_threshold([]).ground is Ground.TOO_FEW


def test_closed_cases_are_counted_by_kind_and_by_month() -> None:
    cases = {
        ClosedCase("dispute", "2026-01", None, Outcome.UNFOUNDED): 1,
        ClosedCase("ring", "2026-01", "s1", Outcome.FRAUD): 1,
        ClosedCase("ring", "2026-02", None, Outcome.MISTAKE): 1,
    }
    assert count_by("kind", cases) == [
        Outcomes("ring", cases=2, fraud=1, twins=0, mistake=1, unfounded=0),
        Outcomes("dispute", cases=1, fraud=0, twins=0, mistake=0, unfounded=1),
    ]
    months = count_by("month", cases)
    assert [(one.name, one.cases) for one in months] == [("2026-02", 1), ("2026-01", 2)]
    assert measure_fraud(months[1]).value == 0.5
    assert [one.cases for one in count_by("kind", cases, "s1")] == [1]


def test_decisions_are_read_once_until_another_case_is_closed(
    service, make_pair, monkeypatch
) -> None:
    decisions = DecisionReader(service.store)
    assert not decisions.read().closed
    ids = [one.document_id for one in make_pair()]
    service.decide(service.open(*ids).id, Outcome.TWINS)
    found = decisions.read()
    assert [one.outcome for one in found.closed] == [Outcome.TWINS]
    assert len(found.pairs) == len(found.plain) == 1
    with monkeypatch.context() as patch:
        patch.setattr(type(service.store.cases), "whole_queue", None)
        patch.setattr(type(service.store), "judged_pairs", None)
        assert decisions.read() is found
    service.decide(service.open(*ids).id, Outcome.FRAUD)
    again = decisions.read()
    assert [one.outcome for one in again.pairs] == [Outcome.FRAUD]
    assert {one.outcome for one in again.closed} == {Outcome.TWINS, Outcome.FRAUD}
