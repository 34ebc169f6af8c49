"""The DET curve of an evaluation as a picture (Martin et al. 1997): FNMR against FMR."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from engine.accuracy.evaluate import Evaluation
    from engine.matching.thresholds import OperatingPoint

INK, CURVE, BAND, GRID = "#1b2733", "#0b6e75", "#8cc5c4", "#d9e0e4"
FNMR_TICKS = (1e-5, 1e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
MARKED_RATES = (1e-3, 1e-4, 1e-5, 1e-6)
LEAST_SHOWN = 1e-6
"""A probit axis has no nought."""


def plot_det(evaluation: Evaluation, path: Path) -> None:
    """Write a PNG: the curve, its 95 % band and the points at FMR 1e-3 to 1e-6.

    Raises `RequestError` without matplotlib, or where there is no curve to draw.
    """
    if not evaluation.points:
        raise RequestError("no DET curve: too few pairs of strangers for a false match rate of 0.1")
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - heavy, and optional
    except ImportError as error:
        raise RequestError("a picture needs matplotlib: pip install 'sosie[bench]'") from error
    figure = Figure(figsize=(8.4, 5.6), dpi=160, facecolor="white", layout="constrained")
    axes = figure.subplots()
    _draw_curve(axes, evaluation.points)
    _mark_points(axes, evaluation)
    _label(axes, evaluation)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise RequestError(f"can't write {path.name}: {error.strerror}") from error


def _draw_curve(axes: Any, points: tuple[OperatingPoint, ...]) -> None:
    fmr, fnmr, low, high = (
        np.array([getattr(point, name) for point in points])
        for name in ("fmr", "fnmr", "fnmr_low", "fnmr_high")
    )
    shown_low, shown_high = _visible_range(fnmr, high)
    axes.set_xscale("log")
    axes.set_yscale("function", functions=(_probit, _phi))
    low = np.maximum(low, shown_low)
    axes.fill_between(fmr, low, high, color=BAND, alpha=0.45, lw=0, label="95 % interval")
    axes.plot(fmr, np.maximum(fnmr, shown_low), color=CURVE, lw=2.2, label="all pairs")
    axes.set_xlim(points[-1].fmr * 0.8, points[0].fmr * 1.1)
    axes.set_ylim(shown_low, shown_high)
    ticks = [tick for tick in FNMR_TICKS if shown_low <= tick <= shown_high]
    axes.set_yticks(ticks, [f"{tick * 100:.3g} %" for tick in ticks])
    axes.minorticks_off()


def _visible_range(fnmr: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[float, float]:
    lowest = max(float(fnmr.min()) / 3, LEAST_SHOWN)
    return lowest, min(max(float(high.max()) * 1.3, lowest * 10), 0.97)


def _mark_points(axes: Any, evaluation: Evaluation) -> None:
    floor = axes.get_ylim()[0]
    for rate in MARKED_RATES:
        point = evaluation.point_at(rate)
        if point is None:
            continue
        fnmr = max(point.fnmr, floor)
        axes.plot(rate, fnmr, "o", ms=7, mfc="white", mec=CURVE, mew=2, zorder=3, clip_on=False)
        axes.annotate(
            f"{point.fnmr * 100:.2g} %\nscore ≥ {point.threshold:.3f}",
            (rate, fnmr),
            xytext=(9, 9),
            textcoords="offset points",
            fontsize=9,
            color=INK,
            linespacing=1.35,
        )


def _label(axes: Any, evaluation: Evaluation) -> None:
    axes.set_title(
        "How often the right person is missed, for each false match rate",
        loc="left", pad=26, fontsize=13, color=INK, weight="bold",
    )  # fmt: skip
    axes.text(
        0, 1.025,
        f"{evaluation.people:,} people, {evaluation.photographs:,} photographs, "
        f"{evaluation.mated_pairs:,} mated and {evaluation.nonmated_pairs:,} non-mated pairs",
        transform=axes.transAxes, fontsize=9.5, color=INK,
    )  # fmt: skip
    axes.set_xlabel("false match rate (FMR)", color=INK)
    axes.set_ylabel("false non-match rate (FNMR)", color=INK)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(colors=INK, length=0)
    axes.legend(frameon=False, loc="upper right", labelcolor=INK)


def _probit(rates: ArrayLike) -> NDArray[np.float64]:
    """Quantiles of the normal distribution, in which the DET of Gaussian scores is straight."""
    clipped = np.clip(np.asarray(rates, dtype=np.float64), 1e-9, 1 - 1e-9)
    deviates: NDArray[np.float64] = np.vectorize(NormalDist().inv_cdf, otypes=[float])(clipped)
    return deviates


def _phi(deviates: ArrayLike) -> NDArray[np.float64]:
    rates: NDArray[np.float64] = np.vectorize(NormalDist().cdf, otypes=[float])(deviates)
    return rates
