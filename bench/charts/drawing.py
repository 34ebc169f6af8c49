"""All pictures that a set of reports has the figures for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from bench.charts.goals import draw_goals
from bench.charts.latency import draw_kernels, draw_searches, draw_service
from bench.charts.versus import draw_versus
from bench.report import Report

DRAWINGS: Mapping[str, Callable[[Mapping[str, Report], Path], bool]] = {
    "versus": draw_versus,
    "goals": draw_goals,
    "searches": draw_searches,
    "kernels": draw_kernels,
    "service": draw_service,
}


def draw_all(reports: Mapping[str, Report], folder: Path, prefix: str = "") -> dict[str, Path]:
    """Writes `PREFIXname.png` into the folder; the paths by what they show."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for name, draw in DRAWINGS.items():
        path = folder / f"{prefix}{name}.png"
        if draw(reports, path):
            drawn[name] = path
    return drawn
