"""How all pictures of reports look."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.direction import better
from bench.report import Figure
from bench.wording import write_number

OURS, OTHERS, LINE = "#D55E00", "#7F7F7F", "#000000"
GOOD, BAD = "#0072B2", "#CC3311"

_DPI = 130
_WIDTH, _PANEL_WIDTH = 9.0, 6.2


def open_panels(
    height: float, panels: int = 1, width: float | None = None
) -> tuple[Any, list[Any]]:
    """A picture so many inches high, and its panels side by side."""
    from matplotlib.figure import Figure as Canvas

    usual = _WIDTH if panels == 1 else _PANEL_WIDTH * panels
    figure = Canvas(figsize=(width or usual, height), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def close(figure: Any, path: Path, caption: str) -> None:
    """Writes it as a PNG."""
    for axis in figure.axes:
        axis.grid(visible=True, axis="both", color="#dddddd", linewidth=0.5)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    figure.supxlabel(caption, fontsize=7.5, color="#555555")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)


def draw_bars(axis: Any, labels: Sequence[str], values: Sequence[float], colours: Any) -> None:
    """Bars that begin at 1, on a logarithmic axis: better to the right, worse to the left."""
    places = range(len(labels))
    axis.barh(places, [value - 1 for value in values], left=1, color=colours, height=0.62)
    axis.set_yticks(places, labels, fontsize=8)
    axis.set_xscale("log")
    axis.axvline(1, color=LINE, linewidth=0.8)
    write_plainly(axis.xaxis)


def draw_dots(axis: Any, figures: Sequence[Figure]) -> None:
    """A dot a figure with its quartiles, the first on top; what is not of Sosie is grey."""
    for place, one in enumerate(reversed(figures)):
        colour = OURS if better(one) else OTHERS
        assert one.value is not None
        if one.low is not None and one.high is not None:
            axis.plot([one.low, one.high], [place, place], color=colour, linewidth=1.5)
        axis.plot(one.value, place, "o", color=colour, markersize=5)
        note(axis, write_number(one.value), max(one.value, one.high or 0.0), place)
    axis.set_yticks(range(len(figures)), [one.name for one in reversed(figures)], fontsize=7)
    axis.set_xscale("log")
    axis.margins(x=0.18)
    write_plainly(axis.xaxis)


def note(axis: Any, text: str, across: float, up: float) -> None:
    """Small text to the right of a point."""
    axis.annotate(text, (across, up), (6, -3), textcoords="offset points", fontsize=7)


def write_plainly(axis: Any) -> None:
    """Ticks of a logarithmic axis as people write numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,g}"))
    axis.set_minor_formatter(NullFormatter())
