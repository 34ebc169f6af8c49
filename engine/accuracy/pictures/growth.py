"""FNIR against the size of the gallery: measured, extrapolated, and where that ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from engine.accuracy.pictures.canvas import (
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
    from collections.abc import Mapping
    from pathlib import Path

    from engine.accuracy.pictures.canvas import Report

LEAST_SHOWN = 5e-4
HIGHEST_SHOWN = 1.0
NAMES = {"single": "reference of one photograph", "fused": "reference fused of two"}
COLOURS = {"single": SECOND, "fused": CURVE}
END_OF_SCALE = 1e6


def draw_growth(report: Report, path: Path) -> None:
    """Write a PNG: a panel an FPIR, a line a kind of reference; solid where measured."""
    curves = report["gallery_growth"]["curves"]
    rates = sorted({curve["fpir"] for curve in curves}, reverse=True)
    figure = open_figure(5.6 * max(len(rates), 1) + 0.6, 5.0)
    panels = figure.subplots(1, len(rates), sharey=True, squeeze=False)[0]
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
    axes.set_ylim(LEAST_SHOWN, HIGHEST_SHOWN)
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
        (end * scale) ** 0.5, 0.02, "the data\nsay nothing", fontsize=9, color=MUTED,
        ha="center", va="center",
    )  # fmt: skip
    axes.set_xlim(curves[0]["measured"][0]["gallery_size"] * 0.8, scale)
    style(axes)
    write_percent(axes.yaxis)


def _draw_line(axes: Any, curve: Mapping[str, Any]) -> None:
    colour, name = COLOURS[curve["reference"]], NAMES[curve["reference"]]
    measured = curve["measured"]
    beyond = [measured[-1], *curve["extrapolated"]]
    for points, dash, label in ((measured, "-", name), (beyond, "--", None)):
        size, fnir, low, high = (
            np.array([point[key] for point in points])
            for key in ("gallery_size", "fnir", "low", "high")
        )
        shade = 0.2 if dash == "-" else 0.1
        low = np.maximum(low, LEAST_SHOWN)
        axes.fill_between(size, low, np.maximum(high, low), color=colour, alpha=shade, lw=0)
        shown = np.maximum(fnir, LEAST_SHOWN)
        axes.plot(size, shown, dash, color=colour, lw=2, marker="o", ms=4, label=label)
