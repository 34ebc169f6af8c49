"""The DET curve of an evaluation, and the matplotlib helpers that the benchmarks' charts share.

matplotlib is heavy and optional, so it is imported when a figure is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import RequestError, advise_extra

INK, CURVE, BAND, GRID = "#1b2733", "#0b6e75", "#8cc5c4", "#d9e0e4"
MUTED = "#7b8a94"
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
