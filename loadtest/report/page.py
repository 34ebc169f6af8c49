"""The report as one HTML file that needs no other, and no network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from loadtest.figures import (
    Latencies,
    count_failures,
    measure,
    measure_rates,
    measure_traffics,
    slice_run,
    write_ms,
)
from loadtest.judging import Ruling
from loadtest.mix import PLANTED
from loadtest.order import Session, Step
from loadtest.report.charts import COLOURS, draw_knee, draw_latency, draw_rates, draw_tail
from loadtest.summary import add_rulings, describe_wrong

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
    return {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704 - our words, escaped


def _measure(step: Step) -> dict[str, Latencies]:
    return {traffic.value: one for traffic, one in measure_traffics(step.run.outcomes).items()}


def _list_legends(session: Session) -> dict[str, list[tuple[str, str]]]:
    names = list(_measure(_choose(session)))
    return {
        "latency": [("low", "p50"), ("middle", "p90"), ("high", "p99"), ("faint", "max")],
        "rates": [("faint", "offered"), ("low", "achieved"), ("high", "refused or failed")],
        "tail": [(COLOURS[place % len(COLOURS)], name) for place, name in enumerate(names)],
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
