"""Mated scores and FNMR against the years between two photographs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.accuracy.pictures.bars import draw_rates
from engine.accuracy.pictures.canvas import (
    BAND,
    CURVE,
    INK,
    MUTED,
    SECOND,
    open_figure,
    save_figure,
    style,
    title,
    write_percent,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from engine.accuracy.pictures.canvas import Report


def draw_ageing(report: Report, path: Path) -> None:
    """Write a PNG: quantiles of the scores beside FNMR, a column a span of years."""
    ageing = report["ageing"]
    spans = ageing["spans"]
    figure = open_figure(10.6, 5.0)
    scores, rates = figure.subplots(1, 2)
    for place, span in enumerate(spans):
        low, lower, middle, upper, high = span["scores"]
        scores.plot([place, place], [low, high], color=BAND, lw=2, zorder=2)
        scores.plot([place, place], [lower, upper], color=BAND, lw=14, solid_capstyle="butt")
        scores.plot(place, middle, "o", color=CURVE, ms=7, zorder=3)
    draw_rates(rates, [span["fnmr"] for span in spans], SECOND)
    scores.axhline(ageing["threshold"], color=MUTED, lw=1, ls=(0, (4, 3)))
    title(scores, "Scores of one person's photographs", _describe_slope(ageing["slope"]))
    score = f"at score ≥ {ageing['threshold']:.3f} (dashed on the left)"
    title(rates, "Right person missed (FNMR)", score)
    rates.set_yscale("log")
    for axes in (scores, rates):
        _name_spans(axes, spans)
        style(axes)
    write_percent(rates.yaxis)
    save_figure(figure, path)


def _name_spans(axes: Any, spans: Sequence[Mapping[str, Any]]) -> None:
    names = [f"{describe_span(span)}\npeople: {span['people']:,}" for span in spans]
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_xlabel("years between the photographs", color=INK)


def describe_span(span: Mapping[str, Any]) -> str:
    """As "2 to 5", "20 or more"."""
    if span["to_years"] is None:
        return f"{span['from_years']:g} or more"
    return f"{span['from_years']:g} to {span['to_years']:g}"


def _describe_slope(slope: Mapping[str, float] | None) -> str:
    if slope is None:
        return "bars: half and 90 % of the scores"
    return (
        f"{slope['score_a_year']:+.4f} a year within people "
        f"({slope['low']:+.4f} to {slope['high']:+.4f})"
    )
