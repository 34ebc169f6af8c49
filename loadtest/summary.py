"""A load test as one JSON document: no name, no number, no face, no key in it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from loadtest.figures import (
    Latencies,
    Slice,
    count_failures,
    measure,
    measure_rates,
    measure_traffics,
    quantile,
    slice_run,
)
from loadtest.judging import Judged, Ruling
from loadtest.mix import Kind
from loadtest.order import Session, Step
from loadtest.verdict import Verdict, count_rulings

FORMAT = 1


def summarize(session: Session) -> dict[str, Any]:
    """Everything that was asked, measured and decided."""
    order, cast = session.order, session.cast
    return {
        "format": FORMAT,
        "passed": session.is_passed,
        "shape": order.shape.value,
        "url": session.url,
        "version": session.version,
        "model_digest": session.model_digest,
        "begun": session.begun.isoformat(timespec="seconds"),
        "seconds": round(session.seconds, 3),
        "asked": _describe_order(session),
        "cast": {
            "photographs": session.crowd,
            "residents": len(cast.residents),
            "newcomers": len(cast.newcomers),
            "racers": len(cast.racers),
            "outsiders": len(cast.outsiders),
            "had_references": cast.had_references,
            "dropped": dict(cast.dropped),
            "left_enrolled": session.left_enrolled,
        },
        "knee": _describe_knee(session),
        "steps": [_describe_step(step) for step in session.steps],
        "wrong": [describe_wrong(one) for one in session.wrong],
    }


def add_rulings(session: Session) -> dict[Kind, Counter[Ruling]]:
    """Of all steps together."""
    added: dict[Kind, Counter[Ruling]] = {kind: Counter() for kind in Kind}
    for step in session.steps:
        for kind, counted in count_rulings(step.judged).items():
            added[kind] += counted
    return {kind: counted for kind, counted in added.items() if counted}


def describe_wrong(one: Judged) -> dict[str, Any]:
    """By its plan number; the key finds the record at `GET /v1/enrollments?idempotency_key=`."""
    visit, answer = one.outcome.visit, one.outcome.answer
    return {
        "number": visit.number,
        "partner": visit.partner,
        "kind": visit.kind.value,
        "due_s": round(visit.due_s, 3),
        "expected": one.expected,
        "answered": answer.describe(),
        "idempotency_key": visit.call.idempotency_key,
    }


def _describe_order(session: Session) -> dict[str, Any]:
    order = session.order
    course, objective, pace = order.course, order.objective, order.pace
    return {
        "rate": course.rate,
        "step_or_run_s": course.seconds,
        "peak": course.peak or None,
        "peak_s": course.peak_s or None,
        "most_rate": course.most_rate or None,
        "arrivals": course.process.value,
        "loop": "closed" if pace.closed_users else "open",
        "closed_users": pace.closed_users or None,
        "in_flight": pace.in_flight,
        "timeout_s": order.timeout_s,
        "mix": {traffic.value: round(share, 4) for traffic, share in order.mix.items()},
        "references": order.references,
        "seed": order.seed,
        "p99_ms": objective.p99_ms,
        "max_errors": objective.most_errors,
    }


def _describe_knee(session: Session) -> dict[str, Any] | None:
    knee = session.knee
    if knee is None:
        return None
    return {
        "rate": knee.rate,
        "lowest_rate_that_failed": knee.failed,
        "confirmed": knee.is_confirmed,
        "steps": knee.steps,
        "ended_early": knee.trouble or None,
    }


def _describe_step(step: Step) -> dict[str, Any]:
    run = step.run
    offered, achieved = measure_rates(run)
    outcomes = run.outcomes
    return {
        "rate": step.rate,
        "warm_up": step.is_warm,
        "passed": step.verdict.is_passed,
        "seconds": run.seconds,
        "visits": len(outcomes),
        "omitted": run.omitted,
        "offered_per_second": round(offered, 3),
        "achieved_per_second": round(achieved, 3),
        "refused": sum(one.answer.is_refusal for one in outcomes),
        "failures": count_failures(outcomes),
        "generator": {
            "cores": round(run.generator_share, 3),
            "late_ms_p99": _round(quantile((one.lateness_s for one in outcomes), 0.99) * 1e3),
        },
        "latency": {
            "all": describe_latencies(measure(outcomes)),
            **{
                traffic.value: describe_latencies(found)
                for traffic, found in measure_traffics(outcomes).items()
            },
        },
        "over_time": [_describe_slice(one) for one in slice_run(run)],
        "decisions": {
            kind.value: {ruling.value: counted[ruling] for ruling in Ruling}
            for kind, counted in count_rulings(step.judged).items()
        },
        **_describe_verdict(step.verdict),
    }


def describe_latencies(found: Latencies) -> dict[str, Any]:
    """Milliseconds by percentile, and the whole histogram in HdrHistogram's encoding (V2, us)."""
    return {
        "count": found.count,
        "ms": {f"p{share:g}": _round(value) for share, value in found.by_percentile.items()},
        "histogram": found.histogram,
    }


def _describe_verdict(verdict: Verdict) -> Mapping[str, Any]:
    return {
        "criteria": [
            {
                "name": one.name,
                "met": one.is_met,
                "measured": one.measured,
                "objective": one.objective,
            }
            for one in verdict.criteria
        ],
        "warnings": list(verdict.warnings),
    }


def _describe_slice(one: Slice) -> dict[str, Any]:
    return {
        "start_s": one.start_s,
        "width_s": one.width_s,
        "offered_per_second": round(one.offered, 3),
        "achieved_per_second": round(one.achieved, 3),
        "refused": one.refused,
        "failed": one.failed,
        "ms": {f"p{share:g}": _round(ms) for share, ms in one.latencies.by_percentile.items()},
    }


def _round(value: float) -> float | None:
    """None where nothing was measured."""
    return None if math.isnan(value) else round(value, 3)
