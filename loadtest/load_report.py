"""The report of a load test: one JSON document, without a name, a number, a face or a key."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hdrh.histogram import HdrHistogram

from loadtest.config import LoadStep, LoadTestResult
from loadtest.criteria import (
    count_correctness,
    count_good,
    divide_by_traffic,
    is_failed,
    measure,
    read_ms,
)
from loadtest.judging import Correctness, JudgedVisit
from loadtest.schedule import Kind

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)
FORMAT = 3


def summarize(result: LoadTestResult) -> dict[str, Any]:
    """The JSON document: options, participants, and all that was measured and decided."""
    participants, knee = result.participants, result.knee
    return {
        "format": FORMAT,
        "passed": result.is_passed,
        "shape": result.options.shape.value,
        "url": result.url,
        "version": result.version,
        "model_digest": result.model_digest,
        "begun": result.begun.isoformat(timespec="seconds"),
        "seconds": round(result.seconds, 3),
        "asked": _describe_options(result),
        "cast": {
            "photographs": result.dataset,
            "residents": len(participants.holders),
            "newcomers": len(participants.newcomers),
            "racers": len(participants.racers),
            "outsiders": len(participants.outsiders),
            "had_references": participants.had_references,
            "dropped": dict(participants.dropped),
            "left_enrolled": result.left_enrolled,
        },
        "knee": knee
        and {
            "rate": knee.rate,
            "lowest_rate_that_failed": knee.failed,
            "confirmed": knee.is_confirmed,
            "steps": knee.steps,
            "ended_early": knee.trouble or None,
        },
        "steps": [_describe_step(step) for step in result.steps],
        "wrong": [_describe_wrong(one) for one in result.wrong],
    }


def sum_decisions(summary: Mapping[str, Any]) -> dict[str, Counter[str]]:
    """Right, wrong and other answers of all steps together, for each kind of visit."""
    added: dict[str, Counter[str]] = {kind.value: Counter() for kind in Kind}
    for step in summary["steps"]:
        for kind, counted in step["decisions"].items():
            added[kind].update(counted)
    return {kind: counted for kind, counted in added.items() if counted.total()}


def _describe_wrong(one: JudgedVisit) -> dict[str, Any]:
    """A wrong answer; its key finds the record at `GET /v1/enrollments?idempotency_key=`."""
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


def _describe_options(result: LoadTestResult) -> dict[str, Any]:
    options = result.options
    profile, objective, pace = options.profile, options.objective, options.pace
    return {
        "rate": profile.rate,
        "step_or_run_s": profile.seconds,
        "peak": profile.peak or None,
        "peak_s": profile.peak_s or None,
        "most_rate": profile.most_rate or None,
        "arrivals": profile.process.value,
        "in_flight": pace.in_flight,
        "timeout_s": pace.timeout_s,
        "mix": {traffic.value: round(share, 4) for traffic, share in options.mix.items()},
        "references": options.references,
        "seed": options.seed,
        "p99_ms": objective.p99_ms,
        "max_errors": objective.most_errors,
    }


def _describe_step(step: LoadStep) -> dict[str, Any]:
    run = step.run
    outcomes = run.outcomes
    failures = Counter(one.answer.describe() for one in outcomes if is_failed(one))
    return {
        "rate": step.rate,
        "warm_up": step.is_warm,
        "passed": step.verdict.is_passed,
        "seconds": run.seconds,
        "visits": len(outcomes),
        "offered_per_second": round(len(outcomes) / run.seconds, 3),
        "achieved_per_second": round(count_good(run) / run.seconds, 3),
        "refused": sum(one.answer.is_refusal for one in outcomes),
        "failures": dict(failures.most_common()),
        "generator": {
            "cores": round(run.generator_share, 3),
            "late_ms_p99": None if math.isnan(run.late_ms) else round(run.late_ms, 3),
        },
        "latency": {
            name: _describe_latencies(measure(mine))
            for name, mine in ({"all": outcomes} | divide_by_traffic(outcomes)).items()
        },
        "decisions": {
            kind.value: {correctness.value: counted[correctness] for correctness in Correctness}
            for kind, counted in count_correctness(step.judged).items()
        },
        "criteria": [asdict(one) for one in step.verdict.criteria],
        "warnings": list(step.verdict.warnings),
    }


def _describe_latencies(found: HdrHistogram) -> dict[str, Any]:
    """Milliseconds by percentile, and the histogram in HdrHistogram's encoding (V2, us)."""
    count = found.get_total_count()
    encoded = found.encode().decode() if count else ""
    return {"count": count, "ms": _list_percentiles(found), "histogram": encoded}


def _list_percentiles(found: HdrHistogram) -> dict[str, float]:
    """Milliseconds; empty if nothing was measured."""
    shares = PERCENTILES if found.get_total_count() else ()
    return {f"p{share:g}": round(read_ms(found, share), 3) for share in shares}


def write_page(result: LoadTestResult) -> str:
    """Locust's report of the last step that held, else of the last."""
    held = [one for one in result.measured if one.verdict.is_passed]
    return (held or list(result.measured))[-1].run.page
