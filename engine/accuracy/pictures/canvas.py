"""How the pictures of an evaluation look, and where they are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

INK, CURVE, BAND, GRID = "#1b2733", "#0b6e75", "#8cc5c4", "#d9e0e4"
SECOND, MUTED = "#c2571a", "#7b8a94"
DPI = 160

Report = Mapping[str, Any]
"""What `Evaluation.to_dict` gives."""


def open_figure(width: float, height: float) -> Any:
    """An empty figure; raises `RequestError` without matplotlib."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - heavy, and optional
    except ImportError as error:
        raise RequestError("a picture needs matplotlib: pip install 'sosie[bench]'") from error
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG; raises `RequestError` where it can't be written."""
    try:
        # Without the library's version in it, the same figures give the same file for longer.
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


def write_percent(axis: Any) -> None:
    """Ticks of a logarithmic axis as percentages, in steps of 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415

    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:.3g} %"))
    axis.set_minor_formatter(NullFormatter())
