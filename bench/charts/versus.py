"""How many times as fast as others, each in the same run."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.charts.canvas import LINE, OURS, close, draw_bars, note, open_panels
from bench.charts.origin import name_machines, name_sizes
from bench.direction import Better, better
from bench.lookup import find_figure, find_result
from bench.report import Figure, Report

_CAPTION_WIDTH = 120


@dataclass(frozen=True, slots=True)
class Versus:
    """Ours beside one other in the same run, and how both are told.

    `promise`: the ratio round by round, where a suite promises it.
    """

    suite: str
    result: str
    ours: str
    other: str
    label: str
    promise: str = ""


VERSUS = (
    Versus("search", "One query", "exact8, the gallery", "FAISS Flat", "one query / FAISS Flat"),
    Versus(
        "search",
        "One query, range",
        "exact8, the gallery",
        "FAISS Flat",
        "one range query / FAISS Flat",
    ),
    Versus("search", "A batch", "exact8, the gallery", "FAISS Flat", "batch / FAISS Flat"),
    Versus(
        "search",
        "A batch",
        "exact8, the gallery",
        "FAISS Flat by BLAS",
        "batch / FAISS Flat tuned to use BLAS",
    ),
    Versus(
        "search",
        "A batch",
        "exact8, the gallery",
        "FAISS PQ4fs+refine, k_factor 20",
        "batch / FAISS PQ fast scan (misses some)",
        "batch_fastscan_speedup",
    ),
    Versus(
        "search",
        "A batch",
        "exact8, the gallery",
        "usearch int8, exact",
        "batch / usearch int8 (misses some)",
    ),
    Versus(
        "join",
        "The same references by everybody",
        "one segment",
        "FAISS Flat, range search",
        "all pairs / FAISS Flat's range search",
    ),
    Versus(
        "extract",
        "SFace graphs, 16 a call",
        "rewritten",
        "dequantised",
        "SFace, rewritten / dequantised",
    ),
    Versus("extract", "Pairs of photographs", "Sosie, cpu", "deepface", "pairs / deepface"),
    Versus(
        "extract",
        "Pairs of photographs",
        "Sosie, cpu",
        "face_recognition",
        "pairs / face_recognition",
    ),
    Versus(
        "registrar",
        "Decisions",
        "batches of 32",
        "one a transaction",
        "decisions in batches / one a transaction",
    ),
    Versus(
        "serve",
        "Matches, one 1:1 item a request",
        "as it comes",
        "behind Serve's own proxy",
        "matches / behind Ray Serve's own proxy",
        "proxy_speedup",
    ),
)
"""Comparisons that a person would ask for first."""


@dataclass(frozen=True, slots=True)
class Times:
    """How many times as good, and between what its quartiles lie."""

    label: str
    value: float
    low: float
    high: float


def draw_versus(reports: Mapping[str, Report], path: Path) -> bool:
    """Bars with whiskers; False where nothing was compared."""
    bars = list(list_times(reports))[::-1]
    if not bars:
        return False
    figure, (axis,) = open_panels(0.34 * len(bars) + 1.3)
    values = [bar.value for bar in bars]
    draw_bars(axis, [bar.label for bar in bars], values, OURS)
    errors = [[bar.value - bar.low for bar in bars], [bar.high - bar.value for bar in bars]]
    axis.errorbar(values, range(len(bars)), xerr=errors, fmt="none", ecolor=LINE, capsize=2)
    for place, bar in enumerate(bars):
        note(axis, f"{bar.value:.3g} x", bar.high, place)
    axis.set_xlim(right=max(bar.high for bar in bars) * 1.8)
    axis.set_title("Times as fast as the alternative, each in the same run")
    close(
        figure,
        path,
        "bars: medians over rounds of the ratio, or of both where they were not in turn; whiskers: "
        f"quartiles of both against each other\n{name_origins(reports)}",
    )
    return True


def name_origins(reports: Mapping[str, Report]) -> str:
    """Whose machine each suite was on, and of what sizes its largest comparison is."""
    sizes: dict[str, str] = {}
    for one in VERSUS:
        result = find_result(reports, one.suite, one.result)
        if result is not None:
            sizes.setdefault(one.suite, name_sizes(result.setup))
    told = "; ".join(f"{suite}: {text}" for suite, text in sizes.items() if text)
    return f"{name_machines(reports, sizes)}\n{textwrap.fill(told, _CAPTION_WIDTH)}"


def list_times(reports: Mapping[str, Report]) -> Iterator[Times]:
    """Those of `VERSUS` that the reports have."""
    for one in VERSUS:
        ours = find_figure(reports, one.suite, one.result, one.ours)
        other = find_figure(reports, one.suite, one.result, one.other)
        if ours is None or other is None or not ours.value or not other.value:
            continue
        is_rate = better(ours) is Better.MORE
        checks = reports[one.suite].checks
        promised = next((check.value for check in checks if check.name == one.promise), None)
        value = promised or _divide(ours, other, is_rate=is_rate)
        low, high = _bound(ours, other, value, is_rate=is_rate)
        yield Times(one.label, value, min(low, value), max(high, value))


def _divide(ours: Figure, other: Figure, *, is_rate: bool) -> float:
    """By the ratios of both to one base, which are medians over rounds, where there are any."""
    if ours.ratio and other.ratio:
        return ours.ratio / other.ratio
    assert ours.value
    assert other.value
    return ours.value / other.value if is_rate else other.value / ours.value


def _bound(ours: Figure, other: Figure, value: float, *, is_rate: bool) -> tuple[float, float]:
    """The ratio of the near quartiles and that of the far ones."""
    if ours.low is None or ours.high is None or other.low is None or other.high is None:
        return value, value
    if is_rate:
        return ours.low / other.high, ours.high / other.low
    return other.low / ours.high, other.high / ours.low
