"""The report as one HTML file that needs no other, and no network."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from engine.svg import Axis, Band, LineChart, Mark, Series, linear_ticks
from loadtest.config import Session, Step
from loadtest.criteria import (
    Latencies,
    Slice,
    Verdict,
    count_failures,
    count_rulings,
    measure,
    measure_rates,
    measure_traffics,
    quantile,
    slice_run,
    write_ms,
)
from loadtest.judging import Judged, Ruling
from loadtest.schedule import PLANTED, Kind

# What a load test draws: latency over time, rates, the tail by percentile, the steps of a knee.

STYLES_OVER_TIME = {"p50": "low", "p90": "middle", "p99": "high", "max": "faint"}
STYLES_BY_TRAFFIC = ("one", "two", "three", "four", "five")
NINES = (("0", 0.0), ("50", 50.0), ("90", 90.0), ("99", 99.0), ("99.9", 99.9), ("99.99", 99.99))
LEAST_MS = 0.5


def draw_latency(slices: Sequence[Slice], step: Step, objective_ms: float) -> Markup:
    """Percentiles of each slice, by when its visits were due."""
    most = max((one.latencies.at(100.0) for one in slices if one.latencies.count), default=1.0)
    least = min((one.latencies.at(50.0) for one in slices if one.latencies.count), default=1.0)
    middles = [one.start_s + one.width_s / 2 for one in slices]
    lines = [
        Series(
            name,
            STYLES_OVER_TIME[name],
            [(at, one.latencies.at(share)) for at, one in zip(middles, slices, strict=True)],
        )
        for name, share in (("max", 100.0), ("p50", 50.0), ("p90", 90.0), ("p99", 99.0))
    ]
    return LineChart(
        label="latency over time",
        x=_time_axis("seconds from the start, by when visits were due", slices),
        y=Axis.log("ms", max(LEAST_MS, least), max(most, objective_ms)),
        lines=lines,
        bands=_list_bands(step, _end(slices)),
        level=_objective(objective_ms),
    ).draw()


def draw_rates(slices: Sequence[Slice], step: Step) -> Markup:
    """Rates over time: offered, achieved, and refused or failed."""
    rates = {
        ("offered", "faint"): [one.offered for one in slices],
        ("achieved", "low"): [one.achieved for one in slices],
        ("refused or failed", "high"): [(one.refused + one.failed) / one.width_s for one in slices],
    }
    return LineChart(
        label="offered and achieved rate over time",
        x=_time_axis("seconds from the start", slices),
        y=Axis.linear("visits a second", max(max(one.offered, one.achieved) for one in slices), 6),
        lines=[
            Series(name, style, _list_steps_of(slices, values), is_step=True)
            for (name, style), values in rates.items()
        ],
        bands=_list_bands(step, _end(slices)),
    ).draw()


def draw_tail(found: Mapping[str, Latencies], objective_ms: float) -> Markup:
    """Latency by percentile, each nine as wide as the last (HdrHistogram's plot)."""
    measured = [one for one in found.values() if one.count]
    most = max((one.at(100.0) for one in measured), default=1.0)
    least = min((max(LEAST_MS, one.at(0.0)) for one in measured), default=1.0)
    ticks = [(_nines(share), label) for label, share in NINES]
    return LineChart(
        label="latency by percentile",
        x=Axis("percentile", 0.0, _nines(99.99), ticks),
        y=Axis.log("ms", least, max(most, objective_ms)),
        lines=[
            Series(name, style, _list_tail(found[name]))
            for style, name in _list_styles(found)
            if found[name].count
        ],
        level=_objective(objective_ms),
    ).draw()


def draw_knee(session: Session) -> Markup:
    """Each step: its rate against its p99, whether it held, and what it achieved. A step in which
    all were refused has no p99, and stands at the worst of the others."""
    steps = [(step, measure(step.run.outcomes).at(99.0)) for step in session.measured]
    objective_ms = session.order.objective.p99_ms
    known = [p99_ms for _, p99_ms in steps if not math.isnan(p99_ms)] or [objective_ms]
    worst, best = max(known), min(known)
    marks = [
        Mark(
            f"{step.rate:.1f}/s: p99 {write_ms(p99_ms, 0)} ms, "
            f"{measure_rates(step.run)[1]:.1f}/s achieved",
            "low" if step.verdict.is_passed else "high",
            (step.rate, worst if math.isnan(p99_ms) else p99_ms),
            is_cross=not step.verdict.is_passed,
        )
        for step, p99_ms in steps
    ]
    return LineChart(
        label="p99 against the rate of each step",
        x=Axis.linear("arrivals a second", max(step.rate for step, _ in steps), 6),
        y=Axis.log("p99, ms", max(LEAST_MS, best), max(worst, objective_ms)),
        marks=marks,
        level=_objective(objective_ms),
    ).draw()


def _time_axis(title: str, slices: Sequence[Slice]) -> Axis:
    """From zero to the end exactly."""
    end_s = _end(slices)
    return Axis(title, 0.0, end_s, [(at, f"{at:g}") for at in linear_ticks(0.0, end_s, 10)])


def _objective(objective_ms: float) -> tuple[float, str]:
    return objective_ms, f"p99 ≤ {objective_ms:g} ms"


def _list_styles(found: Iterable[str]) -> list[tuple[str, str]]:
    return list(zip(cycle(STYLES_BY_TRAFFIC), found, strict=False))


def _list_tail(found: Latencies) -> list[tuple[float, float]]:
    """No further out than there are visits: of a hundred, the slowest is at the second nine."""
    furthest = min(99.99, 100 * (1 - 1 / (found.count + 1)))
    return [(_nines(min(share, furthest)), ms) for share, ms in found.by_percentile.items()]


def _list_bands(step: Step, end_s: float) -> list[Band]:
    """Stretches that are not judged, and what follows the last arrival."""
    bands, start = [], 0.0
    for one in step.stretches:
        if not one.is_judged:
            bands.append(Band(start, start + one.seconds, one.name))
        start += one.seconds
    return [*bands, Band(start, end_s, "over")] if end_s > start else bands


def _list_steps_of(slices: Sequence[Slice], values: Sequence[float]) -> list[tuple[float, float]]:
    points = [(one.start_s, value) for one, value in zip(slices, values, strict=True)]
    return [*points, (_end(slices), values[-1])]


def _end(slices: Sequence[Slice]) -> float:
    return slices[-1].start_s + slices[-1].width_s


def _nines(share: float) -> float:
    """0 at 0 %, 1 at 90 %, 2 at 99 %."""
    return -math.log10(1 - share / 100)


# A load test as one JSON document: no name, no number, no face, no key in it.

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


TEMPLATES = Path(__file__).with_name("templates")
COLUMNS = (50.0, 90.0, 99.0, 99.9, 100.0)


def write_page(session: Session, summary: Mapping[str, Any]) -> str:
    """The whole document; every value from outside is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    return environment.get_template("report.html").render(
        session=session,
        summary=summary,
        style=Markup(style),  # noqa: S704 - our own file
        step=_choose(session),
        figures=_list_figures(_choose(session)),
        rates=measure_rates(_choose(session).run),
        failures=count_failures(_choose(session).run.outcomes),
        charts=_draw(session),
        legends=_list_legends(session),
        rulings=list(Ruling),
        planted=set(PLANTED),
        decisions=add_rulings(session),
        steps=_list_steps(session),
        wrong=[describe_wrong(one) for one in session.wrong],
    )


def _choose(session: Session) -> Step:
    """The run itself; of a knee the last step that held, else the last."""
    held = [step for step in session.measured if step.verdict.is_passed]
    return (held or list(session.measured))[-1]


def _draw(session: Session) -> dict[str, Markup]:
    step, objective_ms = _choose(session), session.order.objective.p99_ms
    slices = slice_run(step.run)
    drawn = {
        "latency": draw_latency(slices, step, objective_ms),
        "rates": draw_rates(slices, step),
        "tail": draw_tail(_measure(step), objective_ms),
    }
    if session.knee is not None:
        drawn["knee"] = draw_knee(session)
    return drawn


def _measure(step: Step) -> dict[str, Latencies]:
    return {traffic.value: one for traffic, one in measure_traffics(step.run.outcomes).items()}


def _list_legends(session: Session) -> dict[str, list[tuple[str, str]]]:
    return {
        "latency": [(style, name) for name, style in STYLES_OVER_TIME.items()],
        "rates": [("faint", "offered"), ("low", "achieved"), ("high", "refused or failed")],
        "tail": _list_styles(_measure(_choose(session))),
        "knee": [("low", "held"), ("high", "did not hold")],
    }


def _list_figures(step: Step) -> list[tuple[str, int, list[str]]]:
    rows = {"all": measure(step.run.outcomes), **_measure(step)}
    return [
        (name, one.count, [write_ms(one.at(share)) for share in COLUMNS])
        for name, one in rows.items()
    ]


def _list_steps(session: Session) -> list[dict[str, Any]]:
    rows = []
    for step in session.measured:
        offered, achieved = measure_rates(step.run)
        rows.append(
            {
                "rate": f"{step.rate:.1f}",
                "offered": f"{offered:.1f}",
                "achieved": f"{achieved:.1f}",
                "p99": write_ms(measure(step.run.outcomes).at(99.0), 0),
                "refused": sum(one.answer.is_refusal for one in step.run.outcomes),
                "is_passed": step.verdict.is_passed,
                "failures": ", ".join(one.name for one in step.verdict.failures),
            }
        )
    return rows
