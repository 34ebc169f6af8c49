"""Error rates with their intervals, side by side: by quality, and by the groups of an attribute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
from engine.accuracy.writing import write_times

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from engine.accuracy.pictures.canvas import Report

MEASURE_NAMES = {
    "inter_eye_px": "distance of the eyes",
    "sharpness": "sharpness",
    "exposure": "exposure",
    "contrast": "contrast",
    "yaw_deg": "turned left or right",
    "pitch_deg": "turned up or down",
    "roll_deg": "tilted",
    "detection_score": "detection score",
}

LONGEST_UNIT = 2


def draw_quality(report: Report, path: Path) -> None:
    """Write a PNG: a panel a measure, FNMR of its bands from the best to the worst."""
    bands = report["quality_bands"]
    figure = open_figure(11.6, 6.4)
    panels = figure.subplots(2, 4, sharey=True).ravel()
    for axes, measure in zip(panels, bands["measures"], strict=True):
        _draw_measure(axes, measure, bands["overall"]["value"])
    figure.suptitle(
        f"How often the right person is missed, by the quality of the worse photograph "
        f"(score ≥ {bands['threshold']:.3f}; dashed: over all)",
        x=0.01, ha="left", fontsize=13, color=INK, weight="bold",
    )  # fmt: skip
    figure.supylabel("false non-match rate (FNMR)", color=INK, fontsize=10)
    save_figure(figure, path)


def _draw_measure(axes: Any, measure: Mapping[str, Any], overall: float) -> None:
    axes.set_yscale("log")
    bands = measure["bands"]
    # A unit of words has no room below each band.
    is_long = len(measure["unit"]) > LONGEST_UNIT
    named = {**measure, "unit": ""} if is_long else measure
    names = [f"{band['name']}\n{write_measure(named, band)}" for band in bands]
    draw_rates(axes, [band["fnmr"] for band in bands], CURVE)
    if overall > 0:
        axes.axhline(overall, color=MUTED, lw=1, ls=(0, (4, 3)))
    axes.set_xticks(range(len(names)), names, fontsize=7)
    name = MEASURE_NAMES[measure["measure"]] + (f", {measure['unit']}" if is_long else "")
    axes.set_title(name, loc="left", fontsize=10, color=INK)
    axes.set_xlim(-0.6, len(names) - 0.4)
    style(axes)
    write_percent(axes.yaxis)


def write_measure(measure: Mapping[str, Any], band: Mapping[str, Any]) -> str:
    """How far a band reaches, with its unit."""
    unit = measure["unit"]
    gap = "" if unit in {"", "°"} else " "
    return f"{band['worst']:.3g}{gap}{unit}"


def draw_rates(axes: Any, rates: Sequence[Mapping[str, float] | None], colour: str) -> None:
    """A point with its interval each; a hollow one at the upper end where nothing happened."""
    known = [rate for rate in rates if rate is not None]
    seen = [rate[end] for rate in known for end in ("low", "value", "high") if rate[end] > 0]
    floor = min(seen, default=1e-3) / 2
    for place, rate in enumerate(rates):
        if rate is None:
            axes.annotate(
                "too few", (place, 0.04), xycoords=("data", "axes fraction"), fontsize=7.5,
                color=MUTED, ha="center", rotation=90, va="bottom",
            )  # fmt: skip
            continue
        low, high = max(rate["low"], floor), max(rate["high"], floor)
        axes.plot([place, place], [low, high], color=BAND, lw=7, solid_capstyle="butt", zorder=2)
        if rate["value"] > 0:
            axes.plot(place, rate["value"], "o", color=colour, ms=6, zorder=3)
        else:
            axes.plot(place, high, "v", mfc="white", mec=colour, ms=6, zorder=3)


def draw_attribute(attribute: Mapping[str, Any], path: Path) -> None:
    """Write a PNG: FNMR and FMR of every group at the common threshold."""
    groups = attribute["groups"]
    figure = open_figure(max(8.4, 1.1 * len(groups) + 3), 5.0)
    panels = figure.subplots(1, 2)
    ratios = (
        ("fnmr", "false_negative", "Right person missed (FNMR)", SECOND),
        ("fmr", "false_positive", "Stranger taken for them (FMR)", CURVE),
    )
    for axes, (rate, differential, heading, colour) in zip(panels, ratios, strict=True):
        axes.set_yscale("log")
        draw_rates(axes, [group[rate] for group in groups], colour)
        _name_groups(axes, groups)
        title(axes, heading, describe_differential(attribute[differential]))
        style(axes)
        write_percent(axes.yaxis)
    figure.supxlabel(
        f"groups by `{attribute['column']}`, at one threshold (score ≥ "
        f"{attribute['threshold']:.3f}, FMR {attribute['common_fmr']:g} over all)",
        fontsize=9.5, color=INK,
    )  # fmt: skip
    save_figure(figure, path)


def _name_groups(axes: Any, groups: Sequence[Mapping[str, Any]]) -> None:
    names = [f"{group['label'][:16]}\n{group['people']:,} people" for group in groups]
    slant = {"rotation": 40, "ha": "right"} if len(names) > 4 else {}
    axes.set_xticks(range(len(names)), names, fontsize=8, **slant)
    axes.set_xlim(-0.6, len(names) - 0.4)


def describe_differential(found: Mapping[str, Any] | None) -> str:
    """Worst over best, in a line."""
    if found is None:
        return "fewer than two groups are large enough"
    if found["ratio"] is None and found["low"] <= 1:
        return f"{found['best']} shows no error: no number"
    told, ends = write_times(found)
    return f"{found['worst']} {told} {found['best']} ({ends})"
