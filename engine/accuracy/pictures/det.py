"""The DET curve of an evaluation as a picture (Martin et al. 1997): FNMR against FMR."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.accuracy.pictures.canvas import (
    BAND,
    CURVE,
    INK,
    open_figure,
    save_figure,
    style,
    title,
)
from engine.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from engine.accuracy.pictures.canvas import Report

FNMR_TICKS = (1e-5, 1e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
LEAST_SHOWN = 1e-6
"""A probit axis has no nought."""


def draw_det(report: Report, path: Path) -> None:
    """Write a PNG: the curve, its 95 % band and the points of the report's table.

    Raises `RequestError` without matplotlib, or where there is no curve to draw.
    """
    if not report["det"]:
        raise RequestError("no DET curve: too few pairs of strangers for a false match rate of 0.1")
    figure = open_figure(8.4, 5.6)
    axes = figure.subplots()
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
    fmr, fnmr, low, high = (
        np.array([point[name] for point in points])
        for name in ("fmr", "fnmr", "fnmr_low", "fnmr_high")
    )
    shown_low, shown_high = _visible_range(fnmr, high)
    axes.set_xscale("log")
    axes.set_yscale("function", functions=(_probit, _phi))
    low = np.maximum(low, shown_low)
    axes.fill_between(fmr, low, high, color=BAND, alpha=0.45, lw=0, label="95 % interval")
    axes.plot(fmr, np.maximum(fnmr, shown_low), color=CURVE, lw=2.2, label="all pairs")
    axes.set_xlim(fmr[-1] * 0.8, fmr[0] * 1.1)
    axes.set_ylim(shown_low, shown_high)
    ticks = [tick for tick in FNMR_TICKS if shown_low <= tick <= shown_high]
    axes.set_yticks(ticks, [f"{tick * 100:.3g} %" for tick in ticks])
    axes.minorticks_off()


def _visible_range(fnmr: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[float, float]:
    lowest = max(float(fnmr.min()) / 3, LEAST_SHOWN)
    return lowest, min(max(float(high.max()) * 1.3, lowest * 10), 0.97)


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


def _probit(rates: ArrayLike) -> NDArray[np.float64]:
    """Quantiles of the normal distribution, in which the DET of Gaussian scores is straight."""
    clipped = np.clip(np.asarray(rates, dtype=np.float64), 1e-9, 1 - 1e-9)
    deviates: NDArray[np.float64] = np.vectorize(NormalDist().inv_cdf, otypes=[float])(clipped)
    return deviates


def _phi(deviates: ArrayLike) -> NDArray[np.float64]:
    rates: NDArray[np.float64] = np.vectorize(NormalDist().cdf, otypes=[float])(deviates)
    return rates
