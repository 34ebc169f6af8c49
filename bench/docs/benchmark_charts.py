"""Charts of reports: against others, against the goals, latencies, and the curves of the docs."""

from __future__ import annotations

import hashlib
import re
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.core.render import list_promises, write_goal, write_value
from bench.core.reports import Direction, Figure, Report, Result, Setup, find_figure, find_result
from bench.suites.curves import LATENCY_BATCH, LATENCY_ONE, RECALL, SPEED
from bench.suites.degraded import DEGRADED, LOSSES
from engine.accuracy.plots import note, open_panels, save_figure, style, write_numbers
from engine.errors import RequestError
from engine.formatting import number

OURS, OTHERS, LINE = "#D55E00", "#7F7F7F", "#000000"
GOOD, BAD = "#0072B2", "#CC3311"

_WIDTH, _PANEL_WIDTH, _WIDE = 9.0, 6.2, 12.0
_CAPTION_WIDTH, _LABEL_WIDTH, _LABEL_LINES = 120, 74, 2
_SIZES = ("rows", "queries", "people", "pairs", "batch", "threads", "seed")
# Okabe and Ito's colours, which people with any colour vision can tell apart; each kind has a mark
# of its own besides.
_STYLES = {
    "exact8": (OURS, "o"),
    "FAISS Flat": (LINE, "s"),
    "FAISS Flat by BLAS": (OTHERS, "s"),
    "FAISS PQ4fs+refine": (GOOD, "^"),
    "FAISS IVF": ("#009E73", "v"),
    "hnswlib": ("#CC79A7", "D"),
}
_OTHER_STYLE = ("#56B4E9", "x")
_OTHERS = re.compile("FAISS|usearch|NumKong|hnswlib|numpy|MatMulInteger|reading|late|sent$|offered")
_STAMP = "reports"

Point = tuple[float, float, str]
"""Across, up, and what is written beside it."""


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


@dataclass(frozen=True, slots=True)
class Times:
    """How many times as good, and between what its quartiles lie."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Kept:
    """A promise and its result; `margin` is how many times as good it is, None without a number."""

    label: str
    text: str
    holds: bool
    margin: float | None


def draw_all(reports: Mapping[str, Report], folder: Path, prefix: str = "") -> dict[str, Path]:
    """Write `PREFIXname.png` into the folder where there are figures; the paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for name, draw in _CHARTS.items():
        path = folder / f"{prefix}{name}.png"
        if draw(reports, path):
            drawn[name] = path
    return drawn


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
        if ours is None or other is None or not ours.value or not other.value:
            continue
        # Times are better where they are smaller.
        fast, slow = (other, ours) if ours.unit.endswith("/s") else (ours, other)
        assert fast.value
        assert slow.value
        checks = reports[one.suite].checks
        promised = next((check.value for check in checks if check.name == one.promise), None)
        # Ratios of both to one base are medians over rounds, where there are any.
        paired = ours.ratio / other.ratio if ours.ratio and other.ratio else None
        value = promised or paired or slow.value / fast.value
        low = high = value
        if fast.low and fast.high and slow.low and slow.high:
            low, high = slow.low / fast.high, slow.high / fast.low
        yield Times(one.label, value, min(low, value), max(high, value))


def draw_goals(reports: Mapping[str, Report], path: Path) -> bool:
    """Bars from 1, where the goal is, and crosses; False where no promise was measured."""
    found = list(list_kept(reports))
    # What was missed without a number of times has no bar, and is drawn as a cross.
    missed = [one for one in found if one.margin is None and not one.holds]
    bars = sorted((one for one in found if one.margin), key=lambda one: one.margin or 0)
    rows = [*missed, *bars]
    if not rows:
        return False
    figure, (axes,) = open_panels(_WIDE, 0.34 * len(rows) + 1.6)
    # A cross stands where a bar of no length would end.
    values = [one.margin or 1.0 for one in rows]
    colours = [GOOD if one.holds else BAD for one in rows]
    _draw_bars(axes, [one.label for one in rows], values, colours)
    for place, one in enumerate(rows):
        if one.margin is None:
            axes.plot(1, place, "x", color=BAD, markersize=9, markeredgewidth=2)
        note(axes, one.text, max(values[place], 1), place)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlim(right=max(values) * 4)
    axes.set_ylim(-0.8, len(rows) - 0.2)
    axes.set_title("Promises: times as good as the goal")
    caption = (
        "left of 1: missed; crosses: missed where the goal is none at all, or never reached; "
        f"{len(found) - len(rows)} kept goals that have no number of times are not drawn\n"
        f"{name_machines(reports, reports)}\n{name_seeds(reports)}; sizes as the promises say"
    )
    save_figure(figure, path, caption)
    return True


def list_kept(reports: Mapping[str, Report]) -> Iterator[Kept]:
    """Every promise that was measured."""
    for suite, check, goal in list_promises(reports):
        if check.holds is None:
            continue
        value = "never" if check.value is None else write_value(check.value, goal.unit)
        lines = textwrap.wrap(f"{suite}: {goal.description}", _LABEL_WIDTH)
        label = "\n".join(lines[:_LABEL_LINES]) + (" …" if lines[_LABEL_LINES:] else "")
        margin = None
        if not goal.counts_errors and check.value and min(check.value, check.goal) > 0:
            is_least = goal.direction is Direction.AT_LEAST
            margin = check.value / check.goal if is_least else check.goal / check.value
        yield Kept(label, f"{value} (goal {write_goal(goal)})", check.holds, margin)


def draw_searches(reports: Mapping[str, Report], path: Path) -> bool:
    """Milliseconds a query, one by one and in a batch, of all searchers."""
    results = [find_result(reports, "search", name) for name in ("One query", "A batch")]
    known = [one for one in results if one is not None]
    if len(known) < len(results):
        return False
    panels = []
    for result in known:
        batch = result.setup.get("batch")
        figures = [one for one in result.figures if one.unit == "ms"]
        panels.append((result.name + (f" of {batch}" if batch else ""), figures))
    caption = (
        f"{name_machines(reports, ('search',))}; {name_sizes(known[0].setup)}; whiskers: "
        "quartiles; grey: others, some of them approximate (see recall)"
    )
    _draw_dots(path, panels, "milliseconds a query", caption)
    return True


def draw_kernels(reports: Mapping[str, Report], path: Path) -> bool:
    """What each kernel takes, beside what the core could."""
    report = reports.get("kernels")
    results = [one for one in report.results if one.name.startswith("Scan of ")] if report else []
    if not results:
        return False
    panels = [(one.name, list(one.figures)) for one in results]
    sizes = "; ".join(dict.fromkeys(name_sizes(one.setup) for one in results))
    caption = f"{name_machines(reports, ('kernels',))}\n{sizes}; whiskers: quartiles"
    _draw_dots(path, panels, results[0].figures[0].unit, caption)
    return True


def draw_service(reports: Mapping[str, Report], path: Path) -> bool:
    """Latency at 70 % of the load, and of what is accepted and refused far above it."""
    panels, sizes = [], ""
    for name in ("Matches", "Enrollments"):
        result = find_result(reports, "serve", f"{name} below and far above what it can do")
        if result is not None:
            timed = [one for one in result.figures if one.name.endswith((": p50", ": p99"))]
            timed += [one for one in result.figures if one.name.endswith((", p50", ", p99"))]
            panels.append((name, [one for one in timed if "late" not in one.name]))
            sizes = name_sizes(result.setup)
    if not panels:
        return False
    caption = (
        "open loop, the generator on the same cores: at 70 % of what the service can do, and at 3 "
        f"times as much\n{name_machines(reports, ('serve',))}; {sizes}"
    )
    _draw_dots(path, panels, "ms from the moment it was due", caption)
    return True


def draw_curves(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write `latency.png` and `recall.png`; `RequestError` where the report has no curves."""
    if not {LATENCY_ONE, LATENCY_BATCH, SPEED} <= {one.name for one in report.results}:
        raise RequestError("a report without curves: write it by `sosie bench curves --json`")
    setup = report.results[-1].setup
    caption = (
        f"{report.machine.cpu}, {report.machine.cores} cores; {setup['dim']} dimensions, "
        f"{setup['population']}, seed {setup['seed']}, {setup['threads']} threads, kernel "
        f"{setup['kernel']}; recall at {setup['references']:,} references"
    )
    latency, recall = folder / "latency.png", folder / "recall.png"
    _draw_latency(report.results, latency, caption)
    _draw_recall(report.results, recall, caption)
    return latency, recall


def _draw_latency(results: Sequence[Result], path: Path, caption: str) -> None:
    """A line a searcher; IVF's has fewer lists in a small gallery, and is the same line."""
    figure, panels = open_panels(2 * _PANEL_WIDTH, 4.6, 2)
    for axes, name, title in zip(
        panels, (LATENCY_ONE, LATENCY_BATCH), ("One query", "A batch of {batch}"), strict=True
    ):
        chosen = [one for one in results if one.name == name]
        lines: dict[str, list[Point]] = {}
        for result in chosen:
            for one in result.figures:
                kind, _, setting = one.name.partition(", ")
                line = f"FAISS IVF, {setting}" if kind.startswith("FAISS IVF") else one.name
                assert one.value is not None
                point = (float(result.setup["references"]), one.value, "")
                lines.setdefault(line, []).append(point)
        _plot(axes, lines)
        axes.set_title(title.format(**chosen[0].setup))
        axes.set_yscale("log")
        write_numbers(axes.yaxis)
        axes.set_xlabel("references in the gallery")
        axes.set_ylabel("milliseconds a query")
    panels[0].legend(fontsize=8)
    save_figure(figure, path, caption)


def _draw_recall(results: Sequence[Result], path: Path, caption: str) -> None:
    speeds = next(one for one in results if one.name == SPEED)
    milliseconds = {one.name: one.value for one in speeds.figures}
    bands = [one for one in results if one.name.startswith(RECALL)]
    figure, panels = open_panels(_PANEL_WIDTH * len(bands), 4.6, len(bands))
    for axes, band in zip(panels, bands, strict=True):
        lines: dict[str, list[Point]] = {}
        for one in band.figures:
            took_ms = milliseconds.get(one.name)
            if one.value is None or not took_ms:
                continue
            kind, _, setting = one.name.partition(", ")
            beside = setting.rpartition(" ")[2] if kind != "exact8" else ""
            family = "FAISS IVF" if kind.startswith("FAISS IVF") else kind
            lines.setdefault(family, []).append((1e3 / took_ms, one.value, beside))
        _plot(axes, lines)
        axes.set_title(f"Mates with a {band.name.removeprefix(RECALL).lstrip(', ')}")
        axes.set_xlabel("queries a second, in batches")
        axes.set_ylabel("share of the mates that are found")
        axes.set_ylim(top=1.03)
        if lines:
            axes.legend(fontsize=8, loc="lower left", title="numbers: k_factor, nprobe, ef")
    save_figure(figure, path, caption)


def _plot(axes: Any, lines: Mapping[str, Sequence[Point]]) -> None:
    for line, points in lines.items():
        kind, _, setting = line.partition(", ")
        colour, mark = _STYLES.get(kind, _OTHER_STYLE)
        dash = ":" if setting.endswith("256") else "-"
        across, up = [point[0] for point in points], [point[1] for point in points]
        size = 7 if kind == "exact8" else 5
        axes.plot(across, up, dash, color=colour, marker=mark, markersize=size, label=line)
        for x, y, text in points:
            axes.annotate(text, (x, y), (4, -11), textcoords="offset points", fontsize=7)
    style(axes)
    axes.set_xscale("log")
    write_numbers(axes.xaxis)


def _draw_bars(axes: Any, labels: Sequence[str], values: Sequence[float], colours: Any) -> None:
    """Bars that begin at 1, on a logarithmic axis: better to the right, worse to the left."""
    places = range(len(labels))
    axes.barh(places, [value - 1 for value in values], left=1, color=colours, height=0.62)
    axes.set_yticks(places, labels, fontsize=8)
    axes.set_xscale("log")
    axes.axvline(1, color=LINE, linewidth=0.8)
    style(axes)
    write_numbers(axes.xaxis)


def _draw_dots(
    path: Path, panels: Sequence[tuple[str, Sequence[Figure]]], unit: str, caption: str
) -> None:
    """A dot a figure with its quartiles, the first on top; what is not of Sosie is grey."""
    most = max(len(figures) for _, figures in panels)
    figure, all_axes = open_panels(_PANEL_WIDTH * len(panels), 0.3 * most + 1.4, len(panels))
    for axes, (title, figures) in zip(all_axes, panels, strict=True):
        known = [one for one in reversed(figures) if one.value is not None]
        for place, one in enumerate(known):
            assert one.value is not None
            colour = OTHERS if _OTHERS.search(one.name) else OURS
            if one.low is not None and one.high is not None:
                axes.plot([one.low, one.high], [place, place], color=colour, linewidth=1.5)
            axes.plot(one.value, place, "o", color=colour, markersize=5)
            note(axes, number(one.value), max(one.value, one.high or 0.0), place)
        axes.set_yticks(range(len(known)), [one.name for one in known], fontsize=7)
        axes.set_xscale("log")
        axes.margins(x=0.18)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(unit)
        style(axes)
        write_numbers(axes.xaxis)
    save_figure(figure, path, caption)


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


def name_seeds(reports: Mapping[str, Report]) -> str:
    """The seed of all results that have one."""
    seeds = {
        result.setup["seed"]
        for report in reports.values()
        for result in report.results
        if "seed" in result.setup
    }
    return f"seed {', '.join(str(one) for one in sorted(seeds))}" if seeds else "no seed"


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
        style(axes)
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
_CHARTS: Mapping[str, Callable[[Mapping[str, Report], Path], bool]] = {
    "versus": draw_versus,
    "goals": draw_goals,
    "searches": draw_searches,
    "kernels": draw_kernels,
    "service": draw_service,
}
