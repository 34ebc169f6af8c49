"""A run fails on a wrong decision, on errors or on latency."""

from dataclasses import replace

import pytest

from loadtest.criteria import (
    LoadRun,
    Objective,
    RunVerdict,
    count_good,
    decide,
    is_failed,
    judge,
    measure,
    read_ms,
)
from loadtest.exchange import NOT_STARTED, OVERDUE
from loadtest.schedule import Kind, LoadPhase, Outcome
from loadtest.service_calls import APPROVED, IN_FLIGHT, MISMATCH, REJECTED, Answer
from tests.loadtest.making import decided, make_outcome, make_visit

STEADY = (LoadPhase("steady", 100, 1),)
GOOD, REFUSED = decided(APPROVED), Answer(429, is_refusal=True)


def outcome(number: int, answer: Answer = GOOD, latency_s: float = 0.1, **changes: int) -> Outcome:
    return make_outcome(
        make_visit(number, due_s=number % 100, **changes), answer, latency_s=latency_s
    )


def at(due_s: float, latency_s: float, answer: Answer = GOOD, **more: float) -> Outcome:
    visit = make_visit(round(due_s * 1e4) + 1, due_s=due_s)
    return make_outcome(visit, answer, latency_s=latency_s, **more)


def verdict_on(
    outcomes: list[Outcome], phases: tuple[LoadPhase, ...] = STEADY, **objective: float
) -> RunVerdict:
    run = LoadRun(tuple(outcomes), 100, 0.1)
    return decide(run, judge(outcomes), phases, Objective(**objective))


def failures(verdict: RunVerdict) -> list[str]:
    return [one.name for one in verdict.criteria if not one.met]


def test_one_wrong_decision_of_a_thousand_fails_it() -> None:
    outcomes = [outcome(number) for number in range(1, 1000)]
    verdict = verdict_on([*outcomes, outcome(1000, decided(REJECTED, "FACE_MISMATCH"))])
    assert failures(verdict) == ["wrong decisions"]
    assert [one.outcome.visit.number for one in verdict.wrong] == [1000]


def test_errors_and_refusals_above_their_share_fail_it() -> None:
    outcomes = [outcome(number) for number in range(97)]
    refused = [outcome(number, REFUSED) for number in range(97, 100)]
    assert failures(verdict_on([*outcomes, *refused])) == ["errors and refusals"]
    assert verdict_on([*outcomes, *refused], most_errors=0.03).is_passed


def test_a_slow_tail_fails_it() -> None:
    outcomes = [outcome(number, latency_s=0.1 if number < 98 else 2) for number in range(100)]
    assert failures(verdict_on(outcomes)) == ["enroll: p99"]
    assert verdict_on(outcomes, p99_ms=2_500).is_passed


def test_a_spike_may_be_refused_and_slow_and_must_be_right() -> None:
    phases = (LoadPhase("before", 50, 1), LoadPhase("spike", 50, 1, is_judged=False))
    calm = [outcome(number) for number in range(50)]
    spike = [outcome(number, latency_s=9, phase=1) for number in range(50, 100)]
    refused = [outcome(number, REFUSED, phase=1) for number in range(100, 150)]
    assert verdict_on([*calm, *spike, *refused], phases).is_passed

    wrong = replace(spike[0], answer=decided(REJECTED, "BLURRED"))
    assert failures(verdict_on([*calm, wrong, *refused], phases)) == ["wrong decisions"]
    lost = [outcome(number, Answer(0), phase=1) for number in range(150, 160)]
    named = failures(verdict_on([*calm, *spike, *lost], phases))
    assert named == ["errors in the spike, refusals apart"]
    assert verdict_on([*calm, *spike, *lost], phases, most_errors=0.2).is_passed


def test_what_was_planted_and_never_decided_fails_it() -> None:
    planted = make_outcome(make_visit(1000, Kind.DUPLICATE, due_s=5), REFUSED)
    verdict = verdict_on([*(outcome(number) for number in range(200)), planted])
    assert failures(verdict) == ["decided: planted duplicate"]


def test_a_knee_must_keep_up() -> None:
    late = [
        outcome(number, latency_s=101.5 - number if number > 90 else 0.1) for number in range(100)
    ]
    assert failures(verdict_on(late, p99_ms=60_000, kept_up=0.97)) == ["keeps up"]


def test_an_idle_service_keeps_up_however_slow_each_answer_is() -> None:
    def load(rate: int, answered: int, wait_s: float) -> RunVerdict:
        """Ten seconds of a service with a delay of `wait_s` that gives `answered` a second."""
        outcomes = []
        for number in range(10 * rate):
            due_s = (number + 0.5) / rate
            done_s = max(due_s, number / answered) + wait_s
            outcomes.append(at(due_s, done_s - due_s))
        run, phases = LoadRun(tuple(outcomes), 10, 0.1), (LoadPhase("knee", 10, rate),)
        return decide(run, judge(outcomes), phases, Objective(kept_up=0.97))

    for rate in (10, 100):
        assert load(rate, answered=rate, wait_s=0.9).is_passed
        assert failures(load(rate, answered=rate * 9 // 10, wait_s=0.01)) == [
            "enroll: p99",
            "keeps up",
        ]
    # By little, and yet work accumulates.
    assert failures(load(100, answered=95, wait_s=0.01)) == ["keeps up"]


def test_a_soak_must_not_grow_slower() -> None:
    outcomes = [at(number / 10, 0.1 if number < 750 else 0.3) for number in range(1000)]
    assert failures(verdict_on(outcomes, drift=2)) == ["p99 of the last quarter"]
    assert verdict_on(outcomes, drift=4).is_passed


def test_a_late_generator_is_a_warning() -> None:
    outcomes = [at(number, 0.3, started_s=number + 0.2) for number in range(100)]
    verdict = verdict_on(outcomes)
    assert verdict.is_passed
    assert "200 ms late" in verdict.warnings[0]


def test_late_and_unstarted_visits_count_and_refusals_do_not() -> None:
    outcomes = [
        *(at(place, 0.01) for place in range(8)),
        at(8, 10.0, Answer(OVERDUE)),
        at(9, 10.0, Answer(NOT_STARTED)),
        at(9.5, 0.001, REFUSED),
    ]
    found = measure(outcomes)
    assert found.get_total_count() == 10
    assert read_ms(found, 99.0) == pytest.approx(10_000, rel=2e-3)
    assert [is_failed(one) for one in outcomes] == [False] * 8 + [True] * 3


def test_achieved_counts_good_answers_before_the_schedule_ends() -> None:
    outcomes = (at(0, 0.1), at(1, 0.1), at(9, 5.0), at(9, 0.1, REFUSED))
    assert count_good(LoadRun(outcomes, 10, 0.1)) == 2


def test_a_conflict_of_a_repeated_key_is_no_failure() -> None:
    visit = make_visit(2, Kind.CONFLICT, partner=1)
    assert not is_failed(make_outcome(visit, Answer(422, MISMATCH)))
    assert is_failed(make_outcome(visit, Answer(422, "REQUEST.INVALID")))
    # Its first may have been overtaken.
    first = make_visit(1, Kind.RETURNING, has_repeat=True)
    assert not is_failed(make_outcome(first, Answer(409, IN_FLIGHT)))
    assert is_failed(make_outcome(make_visit(1, Kind.RETURNING), Answer(409, IN_FLIGHT)))
    race = make_visit(3, Kind.RACE, partner=1)
    assert is_failed(make_outcome(race, Answer(422, MISMATCH)))
