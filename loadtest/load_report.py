"""The report of a load test: one JSON document, and one HTML file without any other resource.

Neither holds a name, a number, a face or a key of the service.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from engine.svg import Axis, Band, LineChart, Series, linear_ticks
from loadtest.config import LoadStep, LoadTestResult
from loadtest.criteria import (
    LatencyFigures,
    Slice,
    count_correctness,
    count_failures,
    measure,
    measure_rates,
    measure_traffics,
    quantile,
    slice_run,
    write_ms,
)
from loadtest.judging import Correctness, JudgedVisit
from loadtest.schedule import PLANTED, Kind

STYLES_OVER_TIME = {"p50": "low", "p90": "middle", "p99": "high", "max": "faint"}
LEAST_MS = 0.5


def draw_latency(slices: Sequence[Slice], step: LoadStep, objective_ms: float) -> Markup:
    """Percentiles of each slice, by when its visits were due."""
    measured = [one.latencies for one in slices if one.latencies.count]
    most = max((one.at(100.0) for one in measured), default=1.0)
    least = min((one.at(50.0) for one in measured), default=1.0)
    lines = [
        Series(
            name,
            STYLES_OVER_TIME[name],
            [(one.start_s + one.width_s / 2, one.latencies.at(share)) for one in slices],
        )
        for name, share in (("max", 100.0), ("p50", 50.0), ("p90", 90.0), ("p99", 99.0))
    ]
    return LineChart(
        label="latency over time",
        x=_time_axis("seconds from the start, by when visits were due", slices),
        y=Axis.log("ms", max(LEAST_MS, least), max(most, objective_ms)),
        lines=lines,
        bands=_list_bands(step, _end(slices)),
        level=(objective_ms, f"p99 ≤ {objective_ms:g} ms"),
    ).draw()


def draw_rates(slices: Sequence[Slice], step: LoadStep) -> Markup:
    """Rates over time: offered, achieved, and refused or failed."""
    end_s = _end(slices)
    rates = {
        ("offered", "faint"): [one.offered for one in slices],
        ("achieved", "low"): [one.achieved for one in slices],
        ("refused or failed", "high"): [(one.refused + one.failed) / one.width_s for one in slices],
    }
    starts = [one.start_s for one in slices]
    return LineChart(
        label="offered and achieved rate over time",
        x=_time_axis("seconds from the start", slices),
        y=Axis.linear(
            "visits per second", max(max(one.offered, one.achieved) for one in slices), 6
        ),
        lines=[
            Series(
                name, style, [*zip(starts, values, strict=True), (end_s, values[-1])], is_step=True
            )
            for (name, style), values in rates.items()
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
    options, participants, knee = result.options, result.participants, result.knee
    return {
        "format": FORMAT,
        "passed": result.is_passed,
        "shape": options.shape.value,
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
            "all": _describe_latencies(measure(outcomes)),
            **{
                traffic.value: _describe_latencies(found)
                for traffic, found in measure_traffics(outcomes).items()
            },
        },
        "over_time": [_describe_slice(one) for one in slice_run(run)],
        "decisions": {
            kind.value: {correctness.value: counted[correctness] for correctness in Correctness}
            for kind, counted in count_correctness(step.judged).items()
        },
        "criteria": [
            {
                "name": one.name,
                "met": one.is_met,
                "measured": one.measured,
                "objective": one.objective,
            }
            for one in step.verdict.criteria
        ],
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
        "ms": _write_percentiles(one.latencies),
    }


def _describe_latencies(found: LatencyFigures) -> dict[str, Any]:
    """Milliseconds by percentile, and the histogram in HdrHistogram's encoding (V2, us)."""
    return {"count": found.count, "ms": _write_percentiles(found), "histogram": found.histogram}


def _write_percentiles(found: LatencyFigures) -> dict[str, float | None]:
    return {f"p{share:g}": _round(value) for share, value in found.by_percentile.items()}


def _round(value: float) -> float | None:
    """None if nothing was measured."""
    return None if math.isnan(value) else round(value, 3)


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
