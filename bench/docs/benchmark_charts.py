"""Charts of reports: ours against others, and what degraded photographs lose."""

from __future__ import annotations

import hashlib
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.core.reports import Figure, Report, Setup, find_figure, find_result
from bench.suites.degraded import DEGRADED, LOSSES
from engine.accuracy.plots import note, open_panels, save_figure, write_ticks
from schema.decisions import Interval

OURS, LINE = "#D55E00", "#000000"
GOOD, BAD = "#0072B2", "#CC3311"

_WIDTH, _WIDE, _CAPTION_WIDTH = 9.0, 12.0, 120
_SIZES = ("rows", "queries", "people", "pairs", "batch", "threads", "seed")
_STAMP = "reports"


@dataclass(frozen=True, slots=True)
class Versus:
    """Ours beside one other in the same run, and how both are named.

    `promise`: the ratio round by round, where a suite promises it.
    """

    suite: str
    result: str
    ours: str
    other: str
    label: str
    promise: str = ""


def load_contents() -> dict[str, Any]:
    """The chapters of docs/performance.md, and the comparisons of its first chart."""
    return tomllib.loads(Path(__file__).with_name("performance.toml").read_text(encoding="utf-8"))


VERSUS = msgspec.convert(load_contents()["comparison"], tuple[Versus, ...])
"""Comparisons that a person would ask for first."""


class Times(Interval, frozen=True):
    """How many times as good, and between what its quartiles lie."""

    label: str


def draw_versus(reports: Mapping[str, Report], path: Path) -> bool:
    """Bars with whiskers: times as fast as others; False where nothing was compared."""
    bars = list(list_times(reports))[::-1]
    if not bars:
        return False
    figure, (axes,) = open_panels(_WIDTH, 0.34 * len(bars) + 1.3)
    values = [bar.value for bar in bars]
    _draw_bars(axes, [bar.label for bar in bars], values, OURS)
    errors = [[bar.value - bar.low for bar in bars], [bar.high - bar.value for bar in bars]]
    axes.errorbar(values, range(len(bars)), xerr=errors, fmt="none", ecolor=LINE, capsize=2)
    for place, bar in enumerate(bars):
        note(axes, f"{bar.value:.3g} x", bar.high, place)
    axes.set_xlim(right=max(bar.high for bar in bars) * 1.8)
    axes.set_title("Times as fast as the alternative, each in the same run")
    sizes: dict[str, str] = {}
    for one in VERSUS:
        result = find_result(reports, one.suite, one.result)
        if result is not None:
            sizes.setdefault(one.suite, name_sizes(result.setup))
    text = "; ".join(f"{suite}: {text}" for suite, text in sizes.items() if text)
    caption = (
        "bars: medians over rounds of the ratio, or of both where they were not in turn; whiskers: "
        f"quartiles of both against each other\n{name_machines(reports, sizes)}\n"
        f"{textwrap.fill(text, _CAPTION_WIDTH)}"
    )
    save_figure(figure, path, caption)
    return True


def list_times(reports: Mapping[str, Report]) -> Iterator[Times]:
    """Those of `VERSUS` that the reports have."""
    for one in VERSUS:
        ours = find_figure(reports, one.suite, one.result, one.ours)
        other = find_figure(reports, one.suite, one.result, one.other)
        if ours is not None and other is not None and ours.value and other.value:
            checks = {check.name: check.value for check in reports[one.suite].checks}
            yield _compare(ours, other, one.label, checks.get(one.promise))


def _compare(ours: Figure, other: Figure, label: str, promised: float | None) -> Times:
    # Times are better where they are smaller.
    fast, slow = (other, ours) if ours.unit.endswith("/s") else (ours, other)
    assert fast.value
    assert slow.value
    # Ratios of both to one base are medians over rounds, where there are any.
    paired = ours.ratio / other.ratio if ours.ratio and other.ratio else None
    value = low = high = promised or paired or slow.value / fast.value
    if fast.low and fast.high and slow.low and slow.high:
        low, high = slow.low / fast.high, slow.high / fast.low
    return Times(value, min(low, value), max(high, value), is_bound=False, label=label)


def _draw_bars(axes: Any, labels: Sequence[str], values: Sequence[float], colours: Any) -> None:
    """Bars that begin at 1, on a logarithmic axis: better to the right, worse to the left."""
    places = range(len(labels))
    axes.barh(places, [value - 1 for value in values], left=1, color=colours, height=0.62)
    axes.set_yticks(places, labels, fontsize=8)
    axes.set_xscale("log")
    axes.axvline(1, color=LINE, linewidth=0.8)
    write_ticks(axes.xaxis)


def name_machines(reports: Mapping[str, Report], suites: Iterable[str]) -> str:
    """A line a machine, with the suites that were measured on it."""
    owners: dict[str, list[str]] = {}
    for suite in dict.fromkeys(suites):
        if suite in reports:
            machine = reports[suite].machine
            owners.setdefault(f"{machine.cpu}, {machine.cores} cores", []).append(suite)
    return "\n".join(f"{', '.join(names)}: {machine}" for machine, names in owners.items())


def name_sizes(setup: Setup) -> str:
    """References and dimensions, then whatever else sizes it, and the seed."""
    parts = []
    if "references" in setup:
        dim = f" x {setup['dim']}" if "dim" in setup else " references"
        parts.append(f"{setup['references']:,}{dim}")
    elif "dim" in setup:
        parts.append(f"{setup['dim']} dimensions")
    known = ((name, setup[name]) for name in _SIZES if name in setup)
    counted = (f"{name} {value:,}" for name, value in known if isinstance(value, int))
    return ", ".join((*parts, *counted))


def stamp(picture: Path, reports: Iterable[Path]) -> None:
    """Write the digest of the reports that a PNG was drawn from into it."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(_STAMP, digest_reports(reports))
    with Image.open(picture) as image:
        image.load()
        image.save(picture, pnginfo=info)


def read_stamp(picture: Path) -> str | None:
    """The digest in a picture; None where it has none."""
    from PIL import Image

    with Image.open(picture) as image:
        return image.info.get(_STAMP)


def digest_reports(reports: Iterable[Path]) -> str:
    """SHA-256 of their bytes, in this order."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in reports)).hexdigest()


def draw_degraded(reports: Mapping[str, Report], path: Path) -> bool:
    """Stacked bars of what becomes of honest pairs at each level of each degradation."""
    result = find_result(reports, "accuracy", DEGRADED)
    if result is None:
        return False
    shares = {figure.name: 100 * (figure.value or 0.0) for figure in result.figures}
    levels = [name.removesuffix(", lost") for name in shares if name.endswith(", lost")]
    size = -(-len(levels) // _LEVEL_COLUMNS)
    figure, panels = open_panels(_WIDE, 0.19 * size + 1.2, _LEVEL_COLUMNS)
    for axes, start in zip(panels, range(0, len(levels), size), strict=True):
        shown = levels[start : start + size]
        left = np.zeros(len(shown))
        for label, color, of in _OUTCOMES:
            widths = np.array([of(*(shares[f"{one}, {kind}"] for kind in LOSSES)) for one in shown])
            axes.barh(shown, widths, left=left, height=0.7, color=color, label=label)
            left += widths
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.tick_params(axis="y", labelsize=7)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    caption = (
        "per cent of a person's first photograph against the second, degraded; "
        f"{name_sizes(result.setup)}, none of them used for fitting"
    )
    save_figure(figure, path, caption)
    return True


_LEVEL_COLUMNS = 3
# Of (lost, silent, needless), as `sosie bench accuracy` reports them.
_OUTCOMES: tuple[tuple[str, str, Callable[[float, float, float], float]], ...] = (
    ("below the threshold, no reason told", BAD, lambda _lost, silent, _needless: silent),
    ("below the threshold, sent back with a reason", GOOD, lambda lost, silent, _: lost - silent),
    ("sent back, would have matched", "#E69F00", lambda _lost, _silent, needless: needless),
)
