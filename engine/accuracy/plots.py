"""Plots of an evaluation, and the matplotlib helpers that the benchmarks' charts share.

matplotlib is heavy and optional, so it is imported when a figure is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.accuracy.evaluation_words import (
    MEASURE_NAMES,
    REFERENCES,
    describe_span,
    times,
    write_measure,
)
from engine.errors import RequestError, advise_extra

INK, CURVE, BAND, GRID = "#1b2733", "#0b6e75", "#8cc5c4", "#d9e0e4"
SECOND, MUTED = "#c2571a", "#7b8a94"
DPI = 160

Report = Mapping[str, Any]
"""The result of `Evaluation.to_dict`."""

FNMR_TICKS = (1e-5, 1e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
MIN_SHOWN = 1e-6
"""A probit axis has no zero."""
MIN_FNIR = 5e-4
MAX_FNIR = 1.0
REFERENCE_COLOURS = {"single": SECOND, "fused": CURVE}
END_OF_SCALE = 1e6
MAX_UNIT_LENGTH = 2
MOST_LEVEL_NAMES = 6
"""Of more, the names below a panel slant."""


def open_figure(width: float, height: float) -> Any:
    """An empty figure, in inches; raises `RequestError` without matplotlib."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - heavy, and optional
    except ImportError as error:
        raise RequestError(f"a picture needs matplotlib: {advise_extra('bench')}") from error
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")


def open_panels(
    width: float, height: float, panels: int = 1, **shared: Any
) -> tuple[Any, list[Any]]:
    """A figure and its axes side by side; `shared`: options of `Figure.subplots`."""
    figure = open_figure(width, height)
    return figure, list(figure.subplots(1, panels, squeeze=False, **shared)[0])


def save_figure(figure: Any, path: Path, caption: str = "") -> None:
    """Write a PNG with a caption; raises `RequestError` where it cannot be written."""
    if caption:
        figure.supxlabel(caption, fontsize=7.5, color=MUTED)
    try:
        # Without matplotlib's version, the same figures give the same file for longer.
        figure.savefig(path, format="png", metadata={"Software": None})
    except OSError as error:
        raise RequestError(f"can't write {path.name}: {error.strerror}") from error


def style(axes: Any) -> None:
    """Light grid, no box, no ticks."""
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(colors=INK, length=0, which="both")


def title(axes: Any, text: str, below: str) -> None:
    """A bold line, and a plain one under it, above the axes."""
    axes.set_title(text, loc="left", pad=26, fontsize=13, color=INK, weight="bold")
    axes.text(0, 1.025, below, transform=axes.transAxes, fontsize=9.5, color=INK)


def note(axes: Any, text: str, x: float, y: float) -> None:
    """Small text to the right of a point."""
    axes.annotate(text, (x, y), (6, -3), textcoords="offset points", fontsize=7)


def write_numbers(axis: Any) -> None:
    """Plain numbers on a logarithmic axis, in steps of 1, 2 and 5."""
    _write_ticks(axis, lambda value, _: f"{value:,g}")


def write_percent(axis: Any) -> None:
    """Percentages on a logarithmic axis, in steps of 1, 2 and 5."""
    _write_ticks(axis, lambda value, _: f"{value * 100:.3g} %")


def _write_ticks(axis: Any, write: Callable[[float, int], str]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415

    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axis.set_major_formatter(FuncFormatter(write))
    axis.set_minor_formatter(NullFormatter())


def draw_det(report: Report, path: Path) -> None:
    """Write a PNG of the DET curve with its 95 % band and the points of the report's table.

    Raises `RequestError` without matplotlib, or where there is no curve to draw.
    """
    if not report["det"]:
        raise RequestError("no DET curve: too few pairs of strangers for a false match rate of 0.1")
    figure, (axes,) = open_panels(8.4, 5.6)
    _draw_curve(axes, report["det"])
    _mark_points(axes, report["fnmr_at_fmr"])
    title(
        axes,
        "How often the right person is missed, for each false match rate",
        f"{report['people']:,} people, {report['photographs']:,} photographs, "
        f"{report['mated_pairs']:,} mated and {report['nonmated_pairs']:,} non-mated pairs",
    )
    axes.set_xlabel("false match rate (FMR)", color=INK)
    axes.set_ylabel("false non-match rate (FNMR)", color=INK)
    style(axes)
    axes.legend(frameon=False, loc="upper right", labelcolor=INK)
    save_figure(figure, path)


def _draw_curve(axes: Any, points: Sequence[Mapping[str, float]]) -> None:
    from scipy.special import ndtr, ndtri  # noqa: PLC0415 - heavy, and optional

    fmr, fnmr, low, high = (
        np.array([point[name] for point in points])
        for name in ("fmr", "fnmr", "fnmr_low", "fnmr_high")
    )
    shown_low = max(float(fnmr.min()) / 3, MIN_SHOWN)
    shown_high = min(max(float(high.max()) * 1.3, shown_low * 10), 0.97)
    axes.set_xscale("log")
    # In quantiles of the normal distribution the DET curve of Gaussian scores is straight.
    axes.set_yscale(
        "function", functions=(lambda rates: ndtri(np.clip(rates, 1e-9, 1 - 1e-9)), ndtr)
    )
    low = np.maximum(low, shown_low)
    axes.fill_between(fmr, low, high, color=BAND, alpha=0.45, lw=0, label="95 % interval")
    axes.plot(
        fmr, np.maximum(fnmr, shown_low), color=CURVE, lw=2.2, label="one photograph against one"
    )
    axes.set_xlim(fmr[-1] * 0.8, fmr[0] * 1.1)
    axes.set_ylim(shown_low, shown_high)
    ticks = [tick for tick in FNMR_TICKS if shown_low <= tick <= shown_high]
    axes.set_yticks(ticks, [f"{tick * 100:.3g} %" for tick in ticks])
    axes.minorticks_off()


def _mark_points(axes: Any, rates: Mapping[str, Mapping[str, float] | None]) -> None:
    floor = axes.get_ylim()[0]
    for name, point in rates.items():
        if point is None:
            continue
        rate, fnmr = float(name), max(point["fnmr"], floor)
        axes.plot(rate, fnmr, "o", ms=7, mfc="white", mec=CURVE, mew=2, zorder=3, clip_on=False)
        axes.annotate(
            f"{point['fnmr'] * 100:.2g} %\nscore ≥ {point['threshold']:.3f}",
            (rate, fnmr),
            xytext=(9, 9),
            textcoords="offset points",
            fontsize=9,
            color=INK,
            linespacing=1.35,
        )


def draw_growth(growth: Report, path: Path) -> None:
    """Write a PNG of FNIR by gallery size: a panel per FPIR, a line per kind of reference."""
    curves = growth["curves"]
    rates = sorted({curve["fpir"] for curve in curves}, reverse=True)
    figure, panels = open_panels(5.6 * len(rates) + 0.6, 5.0, len(rates), sharey=True)
    for axes, rate in zip(panels, rates, strict=True):
        chosen = [curve for curve in curves if curve["fpir"] == rate]
        _draw_panel(axes, chosen)
        title(
            axes,
            f"Missed at FPIR {rate * 100:g} %",
            f"one search in {1 / rate:g} of a stranger raises a candidate",
        )
        axes.set_xlabel("references in the gallery", color=INK)
    panels[0].set_ylabel("share of enrolled people missed (FNIR)", color=INK)
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=2, frameon=False, labelcolor=INK)
    save_figure(figure, path)


def _draw_panel(axes: Any, curves: list[Mapping[str, Any]]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(MIN_FNIR, MAX_FNIR)
    for curve in curves:
        _draw_line(axes, curve)
    largest = max(curve["measured"][-1]["gallery_size"] for curve in curves)
    axes.axvline(largest, color=MUTED, lw=0.9, ls=(0, (2, 3)))
    axes.text(
        largest * 0.93, 0.72, "measured to here", rotation=90, fontsize=8, color=MUTED,
        ha="right", va="top",
    )  # fmt: skip
    end = max(curve["supported_to"] for curve in curves)
    scale = max(END_OF_SCALE, end * 10)
    axes.axvspan(end, scale, color="#f1f4f5", lw=0)
    axes.text(
        (end * scale) ** 0.5, 0.02, "not supported\nby the data", fontsize=9, color=MUTED,
        ha="center", va="center",
    )  # fmt: skip
    axes.set_xlim(curves[0]["measured"][0]["gallery_size"] * 0.8, scale)
    style(axes)
    write_percent(axes.yaxis)


def _draw_line(axes: Any, curve: Mapping[str, Any]) -> None:
    colour, name = REFERENCE_COLOURS[curve["reference"]], REFERENCES[curve["reference"]]
    measured = curve["measured"]
    beyond = [measured[-1], *curve["extrapolated"]]
    for points, dash, label in ((measured, "-", name), (beyond, "--", None)):
        size, fnir, low, high = (
            np.array([point[key] for point in points])
            for key in ("gallery_size", "fnir", "low", "high")
        )
        shade = 0.2 if dash == "-" else 0.1
        low = np.maximum(low, MIN_FNIR)
        axes.fill_between(size, low, np.maximum(high, low), color=colour, alpha=shade, lw=0)
        shown = np.maximum(fnir, MIN_FNIR)
        axes.plot(size, shown, dash, color=colour, lw=2, marker="o", ms=4, label=label)


def draw_quality(bands: Report, path: Path) -> None:
    """Write a PNG of FNMR by quality: a panel per measure, its bands from best to worst."""
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
    bands = measure["bands"]
    # A unit in words does not fit below each band.
    is_long = len(measure["unit"]) > MAX_UNIT_LENGTH
    named = {**measure, "unit": ""} if is_long else measure
    names = [f"{band['name']}\n{write_measure(named, band)}" for band in bands]
    _draw_panel_of_rates(axes, [band["fnmr"] for band in bands], names, CURVE)
    if overall > 0:
        axes.axhline(overall, color=MUTED, lw=1, ls=(0, (4, 3)))
    name = MEASURE_NAMES[measure["measure"]] + (f", {measure['unit']}" if is_long else "")
    axes.set_title(name, loc="left", fontsize=10, color=INK)


def _draw_panel_of_rates(
    axes: Any, rates: Sequence[Mapping[str, float] | None], names: Sequence[str], colour: str
) -> None:
    """Rates with intervals, side by side on a logarithmic axis, with their names below."""
    axes.set_yscale("log")
    draw_rates(axes, rates, colour)
    slant = {"rotation": 40, "ha": "right"} if len(names) > MOST_LEVEL_NAMES else {}
    axes.set_xticks(range(len(names)), names, fontsize=7, **slant)
    axes.set_xlim(-0.6, len(names) - 0.4)
    style(axes)
    write_percent(axes.yaxis)


def draw_rates(axes: Any, rates: Sequence[Mapping[str, float] | None], colour: str) -> None:
    """Draw points with intervals; a hollow one at the upper end where nothing happened."""
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
    """Write a PNG of FNMR and FMR of every group at the common threshold."""
    groups = attribute["groups"]
    names = [f"{group['label'][:16]}\n{group['people']:,} people" for group in groups]
    figure, panels = open_panels(max(8.4, 1.1 * len(groups) + 3), 5.0, 2)
    ratios = (
        ("fnmr", "false_negative", "Right person missed (FNMR)", SECOND),
        ("fmr", "false_positive", "Stranger matched (FMR)", CURVE),
    )
    for axes, (rate, differential, heading, colour) in zip(panels, ratios, strict=True):
        _draw_panel_of_rates(axes, [group[rate] for group in groups], names, colour)
        title(axes, heading, times(attribute[differential]).replace("`", ""))
    figure.supxlabel(
        f"groups by `{attribute['column']}`, at one threshold (score ≥ "
        f"{attribute['threshold']:.3f}, FMR {attribute['common_fmr']:g} over all)",
        fontsize=9.5, color=INK,
    )  # fmt: skip
    save_figure(figure, path)


def draw_ageing(ageing: Report, path: Path) -> None:
    """Write a PNG of FNMR by the years between the photographs."""
    spans = ageing["spans"]
    figure, (axes,) = open_panels(7.4, 5.0)
    names = [f"{describe_span(span)}\npeople: {span['people']:,}" for span in spans]
    _draw_panel_of_rates(axes, [span["fnmr"] for span in spans], names, SECOND)
    axes.set_xlabel("years between the photographs", color=INK)
    title(axes, "Right person missed (FNMR)", f"at score ≥ {ageing['threshold']:.3f}")
    save_figure(figure, path)
