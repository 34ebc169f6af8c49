"""Plots of an evaluation, and the matplotlib helpers that the benchmarks' charts share.

matplotlib is heavy and optional, so it is imported when a figure is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.accuracy.evaluation_words import MEASURE_NAMES, REFERENCES, times, write_measure
from engine.errors import RequestError, advise_extra

INK, CURVE, BAND, GRID = "#1b2733", "#0b6e75", "#8cc5c4", "#d9e0e4"
SECOND, MUTED = "#c2571a", "#7b8a94"
DPI = 160
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.color": GRID,
    "xtick.color": INK,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.color": INK,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}

Report = Mapping[str, Any]
"""The result of `Evaluation.to_dict`."""

FNMR_TICKS = (1e-5, 1e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
MIN_FNMR, MAX_FNMR = 1e-6, 0.97
"""A logit axis has neither zero nor one."""
MIN_FNIR, MAX_FNIR = 5e-4, 1.0
REFERENCE_COLOURS = {"single": SECOND, "fused": CURVE}
END_OF_SCALE = 1e6
MOST_LEVEL_NAMES = 6
"""Of more, the names below a panel slant."""


def open_panels(
    width: float, height: float, columns: int = 1, rows: int = 1, **shared: Any
) -> tuple[Any, list[Any]]:
    """A figure, in inches, and its axes row by row; `shared`: options of `Figure.subplots`.

    Raises `RequestError` without matplotlib."""
    try:
        from matplotlib import rc_context  # noqa: PLC0415 - heavy, and optional
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise RequestError(f"a picture needs matplotlib: {advise_extra('bench')}") from error
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
        return figure, list(figure.subplots(rows, columns, squeeze=False, **shared).ravel())


def save_figure(figure: Any, path: Path, caption: str = "") -> None:
    """Write a PNG with a caption; raises `RequestError` where it cannot be written."""
    if caption:
        figure.supxlabel(caption, fontsize=7.5, color=MUTED)
    try:
        # Without matplotlib's version, the same figures give the same file for longer.
        figure.savefig(path, format="png", metadata={"Software": None})
    except OSError as error:
        raise RequestError(f"can't write {path.name}: {error.strerror}") from error


def title(axes: Any, text: str, below: str) -> None:
    """A bold line, and a plain one under it, above the axes."""
    axes.set_title(text, loc="left", pad=26, fontsize=13, color=INK, weight="bold")
    axes.text(0, 1.025, below, transform=axes.transAxes, fontsize=9.5, color=INK)


def note(axes: Any, text: str, x: float, y: float) -> None:
    """Small text to the right of a point."""
    axes.annotate(text, (x, y), (6, -3), textcoords="offset points", fontsize=7)


def write_percent(value: float, _place: int = 0) -> str:
    """A percentage, as a formatter of ticks."""
    return f"{value * 100:.3g} %"


def write_ticks(axis: Any, form: str | Callable[[float, int], str] = "{x:,g}") -> None:
    """By default plain numbers on a logarithmic axis, in steps of 1, 2 and 5."""
    from matplotlib.ticker import LogLocator  # noqa: PLC0415

    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axis.set_major_formatter(form)
    axis.set_minor_formatter("")


def draw_det(report: Report, path: Path) -> None:
    """Write a PNG of the DET curve with its 95 % band and the points of the report's table.

    Raises `RequestError` without matplotlib, or where there is no curve to draw.
    """
    if not report["det"]:
        raise RequestError("no DET curve: too few pairs of strangers for a false match rate of 0.1")
    figure, (axes,) = open_panels(8.4, 5.6)
    names = ("fmr", "fnmr", "fnmr_low", "fnmr_high")
    fmr, fnmr, low, high = np.array([[point[name] for name in names] for point in report["det"]]).T
    floor = max(float(fnmr.min()) / 3, MIN_FNMR)
    top = min(max(float(high.max()) * 1.3, floor * 10), MAX_FNMR)
    axes.set_xscale("log")
    # There the DET curve of Gaussian scores is nearly straight.
    axes.set_yscale("logit")
    axes.set_yticks(FNMR_TICKS, map(write_percent, FNMR_TICKS))
    axes.minorticks_off()
    axes.set_ylim(floor, top)
    fnmr, low, high = (np.clip(one, floor, top) for one in (fnmr, low, high))
    axes.fill_between(fmr, low, high, color=BAND, alpha=0.45, lw=0, label="95 % interval")
    axes.plot(fmr, fnmr, color=CURVE, lw=2.2, label="one photograph against one")
    marked = {name: point for name, point in report["fnmr_at_fmr"].items() if point is not None}
    for name, point in marked.items():
        place = float(name), max(point["fnmr"], floor)
        axes.plot(*place, "o", ms=7, mfc="white", mec=CURVE, mew=2, zorder=3, clip_on=False)
        text = f"{point['fnmr'] * 100:.2g} %\nscore ≥ {point['threshold']:.3f}"
        axes.annotate(text, place, (9, 9), textcoords="offset points", fontsize=9, color=INK)
    title(
        axes,
        "How often the right person is missed, for each false match rate",
        f"{report['people']:,} people, {report['photographs']:,} photographs, "
        f"{report['mated_pairs']:,} mated and {report['nonmated_pairs']:,} non-mated pairs",
    )
    axes.set_xlabel("false match rate (FMR)")
    axes.set_ylabel("false non-match rate (FNMR)")
    axes.legend(frameon=False, loc="upper right", labelcolor=INK)
    save_figure(figure, path)


def draw_growth(growth: Report, path: Path) -> None:
    """Write a PNG of FNIR by gallery size: a panel per FPIR, a line per kind of reference."""
    curves = growth["curves"]
    rates = sorted({curve["fpir"] for curve in curves}, reverse=True)
    figure, panels = open_panels(5.6 * len(rates) + 0.6, 5.0, len(rates), sharey=True)
    for axes, rate in zip(panels, rates, strict=True):
        _draw_panel(axes, [curve for curve in curves if curve["fpir"] == rate])
        title(
            axes,
            f"Missed at FPIR {rate * 100:g} %",
            f"one search in {1 / rate:g} of a stranger raises a candidate",
        )
        axes.set_xlabel("references in the gallery")
    panels[0].set_ylabel("share of enrolled people missed (FNIR)")
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=2, frameon=False, labelcolor=INK)
    save_figure(figure, path)


def _draw_panel(axes: Any, curves: list[Report]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(MIN_FNIR, MAX_FNIR)
    for curve in curves:
        _draw_line(axes, curve)
    largest = max(curve["measured"][-1]["gallery_size"] for curve in curves)
    axes.axvline(largest, color=MUTED, lw=0.9, ls=(0, (2, 3)))
    small = {"fontsize": 8, "color": MUTED}
    axes.text(largest * 0.93, 0.72, "measured to here", rotation=90, ha="right", va="top", **small)
    end = max(curve["supported_to"] for curve in curves)
    scale = max(END_OF_SCALE, end * 10)
    axes.axvspan(end, scale, color="#f1f4f5", lw=0)
    middle = (end * scale) ** 0.5, 0.02
    axes.text(*middle, "not supported\nby the data", ha="center", va="center", **small)
    axes.set_xlim(curves[0]["measured"][0]["gallery_size"] * 0.8, scale)
    write_ticks(axes.yaxis, write_percent)


def _draw_line(axes: Any, curve: Report) -> None:
    colour, name = REFERENCE_COLOURS[curve["reference"]], REFERENCES[curve["reference"]]
    measured = curve["measured"]
    beyond = [measured[-1], *curve["extrapolated"]]
    for points, dash, shade, label in ((measured, "-", 0.2, name), (beyond, "--", 0.1, None)):
        names = ("gallery_size", "fnir", "low", "high")
        rows = np.array([[point[key] for key in names] for point in points])
        size, (fnir, low, high) = rows[:, 0], np.maximum(rows[:, 1:], MIN_FNIR).T
        axes.fill_between(size, low, high, color=colour, alpha=shade, lw=0)
        axes.plot(size, fnir, dash, color=colour, lw=2, marker="o", ms=4, label=label)


def draw_quality(bands: Report, path: Path) -> None:
    """Write a PNG of FNMR by quality: a panel per measure, its bands from best to worst."""
    figure, panels = open_panels(11.6, 6.4, 4, 2, sharey=True)
    for axes, measure in zip(panels, bands["measures"], strict=True):
        # A unit in words does not fit below each band.
        unit = measure["unit"] if " " in measure["unit"] else ""
        named = measure | {"unit": ""} if unit else measure
        parts = measure["bands"]
        names = [f"{band['name']}\n{write_measure(named, band)}" for band in parts]
        _draw_rates(axes, [band["fnmr"] for band in parts], names, CURVE)
        if bands["overall"]["value"] > 0:
            axes.axhline(bands["overall"]["value"], color=MUTED, lw=1, ls=(0, (4, 3)))
        name = MEASURE_NAMES[measure["measure"]] + (f", {unit}" if unit else "")
        axes.set_title(name, loc="left", fontsize=10, color=INK)
    text = (
        "How often the right person is missed, by the quality of the worse photograph "
        f"(score ≥ {bands['threshold']:.3f}; dashed: over all)"
    )
    figure.suptitle(text, x=0.01, ha="left", fontsize=13, color=INK, weight="bold")
    figure.supylabel("false non-match rate (FNMR)", color=INK, fontsize=10)
    save_figure(figure, path)


def _draw_rates(
    axes: Any, rates: Sequence[Mapping[str, float] | None], names: Sequence[str], colour: str
) -> None:
    """Rates with intervals, side by side on a logarithmic axis, with their names below.

    A hollow point is the upper end where nothing happened."""
    axes.set_yscale("log")
    known = [rate for rate in rates if rate is not None]
    seen = [rate[end] for rate in known for end in ("low", "value", "high") if rate[end] > 0]
    floor = min(seen, default=1e-3) / 2
    for place, rate in enumerate(rates):
        if rate is None:
            where = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "bottom"}
            axes.text(place, 0.04, "too few", fontsize=7.5, color=MUTED, rotation=90, **where)
            continue
        low, high = max(rate["low"], floor), max(rate["high"], floor)
        axes.vlines(place, low, high, color=BAND, lw=7, zorder=2)
        shown, marker, face = (rate["value"], "o", colour) if rate["value"] else (high, "v", "w")
        axes.plot(place, shown, marker, mfc=face, mec=colour, ms=6, zorder=3)
    slant = {"rotation": 40, "ha": "right"} if len(names) > MOST_LEVEL_NAMES else {}
    axes.set_xticks(range(len(names)), names, fontsize=7, **slant)
    axes.set_xlim(-0.6, len(names) - 0.4)
    write_ticks(axes.yaxis, write_percent)


def draw_attribute(attribute: Report, path: Path) -> None:
    """Write a PNG of FNMR and FMR of every group at the common threshold."""
    groups = attribute["groups"]
    names = [f"{group['label'][:16]}\n{group['people']:,} people" for group in groups]
    figure, panels = open_panels(max(8.4, 1.1 * len(groups) + 3), 5.0, 2)
    ratios = (
        ("fnmr", "false_negative", "Right person missed (FNMR)", SECOND),
        ("fmr", "false_positive", "Stranger matched (FMR)", CURVE),
    )
    for axes, (rate, differential, heading, colour) in zip(panels, ratios, strict=True):
        _draw_rates(axes, [group[rate] for group in groups], names, colour)
        title(axes, heading, times(attribute[differential]).replace("`", ""))
    caption = (
        f"groups by `{attribute['column']}`, at one threshold (score ≥ "
        f"{attribute['threshold']:.3f}, FMR {attribute['common_fmr']:g} over all)"
    )
    save_figure(figure, path, caption)
