"""Figures by matplotlib in one style, as a file or within a page.

matplotlib is heavy and optional, so it is imported when a figure is opened.
"""

import base64
import io
from pathlib import Path
from typing import Any

from markupsafe import Markup

from engine.errors import file_errors

INK, MUTED = "#1b2733", "#7b8a94"
# Seen on a light ground and on a dark one.
GRID = MUTED + "4d"
DPI = 160
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.sans-serif": ["DejaVu Sans"],
    "grid.color": GRID,
    "svg.fonttype": "none",
    "svg.hashsalt": "sosie",
    "text.color": INK,
    "xtick.color": INK,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.color": INK,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}


def open_panels(
    width: float, height: float, columns: int = 1, **shared: Any
) -> tuple[Any, list[Any]]:
    """A figure, in inches, and its axes in a row; `shared`: options of `Figure.subplots`."""
    from matplotlib import rcParams  # noqa: PLC0415 - heavy, and optional
    from matplotlib.figure import Figure  # noqa: PLC0415

    # For good, not by `rc_context`: it would end the style of another thread's figure.
    rcParams.update(STYLE)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False, **shared).ravel())


def save_figure(figure: Any, path: Path, caption: str = "", **texts: str) -> None:
    """Write a PNG with a caption, and with texts in the file; raises `RequestError` where it cannot
    be written."""
    if caption:
        figure.supxlabel(caption, fontsize=7.5, color=MUTED)
    with file_errors(f"can't write {path.name}"):
        # Without matplotlib's version, the same figures give the same file for longer.
        figure.savefig(path, format="png", metadata={"Software": None, **texts})


def embed_figure(figure: Any, words: str) -> Markup:
    """An element of a page that holds the figure, as an SVG without ground; `words` tell what it
    shows. The same figure gives the same element."""
    drawn = io.BytesIO()
    left_out = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(drawn, format="svg", transparent=True, metadata=left_out)
    source = base64.b64encode(drawn.getvalue()).decode()
    return Markup('<img src="data:image/svg+xml;base64,{}" alt="{}">').format(source, words)
