"""The report of a load test: one JSON document, and one HTML file without any other resource.

Neither holds a name, a number, a face or a key of the service.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hdrh.histogram import HdrHistogram
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from engine.svg import Axis, Band, LineChart, Series, linear_ticks
from loadtest.config import LoadStep, LoadTestResult
from loadtest.criteria import (
    Slice,
    count_correctness,
    count_good,
    divide_by_traffic,
    is_failed,
    measure,
    read_ms,
    slice_run,
    write_ms,
)
from loadtest.judging import Correctness, JudgedVisit
from loadtest.schedule import PLANTED, Kind

STYLES_OVER_TIME = {"p50": "low", "p90": "middle", "p99": "high", "max": "faint"}
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 100.0)
LEAST_MS = 0.5


def draw_latency(slices: Sequence[Slice], step: LoadStep, objective_ms: float) -> Markup:
    """Percentiles of each slice, by when its visits were due."""
    middles = [one.start_s + one.width_s / 2 for one in slices]
    found = {
        name: [read_ms(one.latencies, share) for one in slices]
        for name, share in (("max", 100), ("p50", 50), ("p90", 90), ("p99", 99))
    }
    most = max(filter(math.isfinite, found["max"]), default=1.0)
    least = min(filter(math.isfinite, found["p50"]), default=1.0)
    return LineChart(
        label="latency over time",
        x=_time_axis("seconds from the start, by when visits were due", slices),
        y=Axis.log("ms", max(LEAST_MS, least), max(most, objective_ms)),
        lines=[
            Series(name, STYLES_OVER_TIME[name], [*zip(middles, values, strict=True)])
            for name, values in found.items()
        ],
        bands=_list_bands(step, _end(slices)),
        level=(objective_ms, f"p99 ≤ {objective_ms:g} ms"),
    ).draw()


def draw_rates(slices: Sequence[Slice], step: LoadStep) -> Markup:
    """Rates over time: offered, achieved, and refused or failed."""
    starts, end_s = [one.start_s for one in slices], _end(slices)
    most = max(max(one.offered, one.achieved) for one in slices)
    rates = (
        ("offered", "faint", [one.offered for one in slices]),
        ("achieved", "low", [one.achieved for one in slices]),
        ("refused or failed", "high", [(one.refused + one.failed) / one.width_s for one in slices]),
    )
    return LineChart(
        label="offered and achieved rate over time",
        x=_time_axis("seconds from the start", slices),
        y=Axis.linear("visits per second", most, 6),
        lines=[
            Series(
                name, style, [*zip(starts, values, strict=True), (end_s, values[-1])], is_step=True
            )
            for name, style, values in rates
        ],
        bands=_list_bands(step, end_s),
    ).draw()


def _time_axis(title: str, slices: Sequence[Slice]) -> Axis:
    """From zero to the end exactly."""
    end_s = _end(slices)
    return Axis(title, 0.0, end_s, [(at, f"{at:g}") for at in linear_ticks(0.0, end_s, 10)])


def _list_bands(step: LoadStep, end_s: float) -> list[Band]:
    """Phases that are not judged, and the time after the last arrival."""
    bands, start = [], 0.0
    for one in step.phases:
        if not one.is_judged:
            bands.append(Band(start, start + one.seconds, one.name))
        start += one.seconds
    return [*bands, Band(start, end_s, "over")] if end_s > start else bands


def _end(slices: Sequence[Slice]) -> float:
    return slices[-1].start_s + slices[-1].width_s


FORMAT = 2


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
        "loop": "closed" if pace.closed_users else "open",
        "closed_users": pace.closed_users or None,
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
        "omitted": run.omitted,
        "offered_per_second": round((len(outcomes) + run.omitted) / run.seconds, 3),
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
        "over_time": [_describe_slice(one) for one in slice_run(run)],
        "decisions": {
            kind.value: {correctness.value: counted[correctness] for correctness in Correctness}
            for kind, counted in count_correctness(step.judged).items()
        },
        "criteria": [asdict(one) for one in step.verdict.criteria],
        "warnings": list(step.verdict.warnings),
    }


def _describe_slice(one: Slice) -> dict[str, Any]:
    return {
        "start_s": one.start_s,
        "width_s": one.width_s,
        "offered_per_second": round(one.offered, 3),
        "achieved_per_second": round(one.achieved, 3),
        "refused": one.refused,
        "failed": one.failed,
        "ms": _list_percentiles(one.latencies),
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


TEMPLATES = Path(__file__).with_name("templates")


def write_page(result: LoadTestResult, summary: Mapping[str, Any]) -> str:
    """The HTML page; every value is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    # The last step that held, else the last.
    held = [one for one in result.measured if one.verdict.is_passed]
    step = (held or list(result.measured))[-1]
    slices = slice_run(step.run)
    return environment.get_template("report.html").render(
        summary=summary,
        style=Markup(style),  # noqa: S704 - our own file
        step=summary["steps"][result.steps.index(step)],
        charts={
            "latency": draw_latency(slices, step, result.options.objective.p99_ms),
            "rates": draw_rates(slices, step),
        },
        legends={
            "latency": [(style, name) for name, style in STYLES_OVER_TIME.items()],
            "rates": [("faint", "offered"), ("low", "achieved"), ("high", "refused or failed")],
        },
        correctness_values=list(Correctness),
        planted=set(PLANTED),
        decisions=sum_decisions(summary),
        write_ms=write_ms,
    )
