"""A run fails on a wrong decision, on errors, and on latency; each alone is enough."""

from __future__ import annotations

from dataclasses import replace

from loadtest.criteria import Objective, Run, Verdict, decide
from loadtest.judging import judge
from loadtest.oracle import APPROVED, REJECTED, Answer
from loadtest.schedule import Kind, Outcome, Stretch
from tests.loadtest.making import decided, make_outcome, make_visit

STEADY = (Stretch("steady", 100, 1),)
GOOD, REFUSED = decided(APPROVED), Answer(429, is_refusal=True)


def outcome(number: int, answer: Answer = GOOD, latency_s: float = 0.1, **changes: int) -> Outcome:
    return make_outcome(
        make_visit(number, due_s=number % 100, **changes), answer, latency_s=latency_s
    )


def verdict_on(
    outcomes: list[Outcome],
    stretches: tuple[Stretch, ...] = STEADY,
    **objective: float,
) -> Verdict:
    run = Run(tuple(outcomes), 100, 101, 0.1)
    return decide(run, judge(outcomes), stretches, Objective(**objective))


def failures(verdict: Verdict) -> list[str]:
    return [one.name for one in verdict.failures]


def test_a_good_run_passes() -> None:
    assert verdict_on([outcome(number) for number in range(100)]).is_passed


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
    stretches = (Stretch("before", 50, 1), Stretch("spike", 50, 1, is_judged=False))
    calm = [outcome(number) for number in range(50)]
    spike = [outcome(number, latency_s=9, stretch=1) for number in range(50, 100)]
    refused = [outcome(number, REFUSED, stretch=1) for number in range(100, 150)]
    assert verdict_on([*calm, *spike, *refused], stretches).is_passed

    wrong = replace(spike[0], answer=decided(REJECTED, "BLURRED"))
    assert failures(verdict_on([*calm, wrong, *refused], stretches)) == ["wrong decisions"]
    lost = [outcome(number, Answer(0), stretch=1) for number in range(150, 160)]
    named = failures(verdict_on([*calm, *spike, *lost], stretches))
    assert named == ["errors in the spike, refusals apart"]
    assert verdict_on([*calm, *spike, *lost], stretches, most_errors=0.2).is_passed


def test_what_was_planted_and_never_decided_fails_it() -> None:
    planted = make_outcome(make_visit(1000, Kind.DUPLICATE, due_s=5), REFUSED)
    verdict = verdict_on([*(outcome(number) for number in range(200)), planted])
    assert failures(verdict) == ["decided: planted duplicate"]


def test_a_knee_must_keep_up() -> None:
    late = [
        outcome(number, latency_s=101.5 - number if number > 90 else 0.1) for number in range(100)
    ]
    assert failures(verdict_on(late, p99_ms=60_000, kept_up=0.97)) == ["keeps up"]


def test_an_idle_service_keeps_up_however_long_it_takes_for_each() -> None:
    def load(rate: int, answered: int, wait_s: float) -> Verdict:
        """Ten seconds of a service that takes so long for each, and does so many a second."""
        outcomes = []
        for number in range(10 * rate):
            due_s = (number + 0.5) / rate
            done_s = max(due_s, number / answered) + wait_s
            visit = make_visit(number, due_s=due_s)
            outcomes.append(make_outcome(visit, GOOD, latency_s=done_s - due_s))
        run, stretches = Run(tuple(outcomes), 10, 12, 0.1), (Stretch("knee", 10, rate),)
        return decide(run, judge(outcomes), stretches, Objective(kept_up=0.97))

    for rate in (10, 100):
        assert load(rate, answered=rate, wait_s=0.9).is_passed
        assert failures(load(rate, answered=rate * 9 // 10, wait_s=0.01)) == [
            "enroll: p99",
            "keeps up",
        ]
    # By little, and yet work gathers.
    assert failures(load(100, answered=95, wait_s=0.01)) == ["keeps up"]


def test_a_soak_must_not_grow_slower() -> None:
    outcomes = [
        make_outcome(
            make_visit(number, due_s=number / 10),
            GOOD,
            latency_s=0.1 if number < 750 else 0.3,
        )
        for number in range(1000)
    ]
    assert failures(verdict_on(outcomes, drift=2)) == ["p99 of the last quarter"]
    assert verdict_on(outcomes, drift=4).is_passed


def test_a_late_generator_is_a_warning() -> None:
    outcomes = [
        make_outcome(make_visit(number, due_s=number), GOOD, started_s=number + 0.2, latency_s=0.3)
        for number in range(100)
    ]
    verdict = verdict_on(outcomes)
    assert verdict.is_passed
    assert "200 ms late" in verdict.warnings[0]
