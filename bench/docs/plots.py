"""How many times as fast as others, each in the same run."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.compare import Better, better
from bench.core.render import write_number
from bench.core.reports import (
    Check,
    Direction,
    Figure,
    Goal,
    Report,
    Result,
    Setup,
    find_figure,
    find_result,
    load_goals,
)
from bench.docs.markdown import write_goal, write_value
from bench.suites.curves import LATENCY_BATCH, LATENCY_ONE, RECALL, SPEED
from engine.errors import RequestError

# How all pictures of reports look.

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


# Where the figures of a picture come from: whose machine, of what sizes, with which seed.

_KEPT = ("rows", "queries", "people", "pairs", "batch", "threads", "seed")


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
    known = ((name, setup[name]) for name in _KEPT if name in setup)
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


# How far each promise of a size or a speed is kept or missed.

_LABEL_WIDTH, _LABEL_LINES = 74, 2


@dataclass(frozen=True, slots=True)
class Kept:
    """A promise and what came of it; `margin` says how many times as good, None for no number."""

    label: str
    told: str
    holds: bool
    margin: float | None


def draw_goals(reports: Mapping[str, Report], path: Path) -> bool:
    """Bars from 1, where the goal is, and crosses; False where no promise was measured."""
    found = list(list_kept(reports))
    # What was missed without a number of times has no bar, and is told all the same.
    missed = [one for one in found if one.margin is None and not one.holds]
    bars = sorted((one for one in found if one.margin), key=lambda one: one.margin or 0)
    rows = [*missed, *bars]
    if not rows:
        return False
    figure, (axis,) = open_panels(0.34 * len(rows) + 1.6, width=12.0)
    # A cross stands where a bar of no length would end.
    values = [one.margin or 1.0 for one in rows]
    draw_bars(
        axis, [one.label for one in rows], values, [GOOD if one.holds else BAD for one in rows]
    )
    for place, one in enumerate(rows):
        if one.margin is None:
            axis.plot(1, place, "x", color=BAD, markersize=9, markeredgewidth=2)
        note(axis, one.told, max(values[place], 1), place)
    axis.tick_params(axis="y", labelsize=7)
    axis.set_xlim(right=max(values) * 4)
    axis.set_ylim(-0.8, len(rows) - 0.2)
    axis.set_title("Promises: times as good as the goal")
    close(
        figure,
        path,
        f"{_explain(len(found) - len(rows))}\n{name_machines(reports, reports)}\n"
        f"{name_seeds(reports)}; sizes as the promises say",
    )
    return True


def _explain(undrawn: int) -> str:
    return (
        "left of 1: missed; crosses: missed where the goal is none at all, or never reached; "
        f"{undrawn} kept goals that have no number of times are not drawn"
    )


def list_kept(reports: Mapping[str, Report]) -> Iterator[Kept]:
    """Each promise that was measured."""
    goals = {(goal.suite, goal.name): goal for goal in load_goals()}
    for suite, report in reports.items():
        for check in report.checks:
            goal = goals.get((report.suite or suite, check.name))
            if goal is not None and check.holds is not None:
                label = textwrap.wrap(f"{suite}: {goal.description}", _LABEL_WIDTH)
                text = "\n".join(label[:_LABEL_LINES]) + (" …" if label[_LABEL_LINES:] else "")
                yield Kept(text, _tell(check, goal), check.holds, _find_margin(check, goal))


def _tell(check: Check, goal: Goal) -> str:
    measured = "never" if check.value is None else write_value(check.value, goal.unit)
    return f"{measured} (goal {write_goal(goal)})"


def _find_margin(check: Check, goal: Goal) -> float | None:
    """How many times as good as the goal; None where either is nothing."""
    if goal.counts_errors or check.value is None or check.value <= 0 or check.goal <= 0:
        return None
    is_least = goal.direction is Direction.AT_LEAST
    return check.value / check.goal if is_least else check.goal / check.value


# Times of searches and kernels beside others', and of the service under load.

RATES = "Rate"
"""How the results of the kernels begin that are drawn."""

_PARTS = {
    "70 %: p50": ("70 %\np50", GOOD),
    "70 %: p99": ("70 %\np99", GOOD),
    "accepted, p50": ("3 times\np50", OURS),
    "accepted, p99": ("3 times\np99", OURS),
    "refused, p99": ("3 times\n429, p99", OTHERS),
}


def draw_searches(reports: Mapping[str, Report], path: Path) -> bool:
    """Milliseconds a query, one by one and in a batch, of everybody asked."""
    results = [find_result(reports, "search", name) for name in ("One query", "A batch")]
    known = [one for one in results if one is not None]
    if len(known) < len(results):
        return False
    figure, axes = open_panels(0.3 * len(known[0].figures) + 1.4, 2)
    for axis, result in zip(axes, known, strict=True):
        figures = [one for one in result.figures if one.value is not None and one.unit == "ms"]
        draw_dots(axis, figures)
        batch = result.setup.get("batch")
        axis.set_title(result.name + (f" of {batch}" if batch else ""))
        axis.set_xlabel("milliseconds a query")
    close(
        figure,
        path,
        f"{name_machines(reports, ('search',))}; {name_sizes(known[0].setup)}; whiskers: "
        "quartiles; grey: others, some of them approximate (see recall)",
    )
    return True


def draw_kernels(reports: Mapping[str, Report], path: Path) -> bool:
    """What each kernel reads or multiplies in a second, beside what the core could."""
    report = reports.get("kernels")
    results = [one for one in report.results if one.name.startswith(RATES)] if report else []
    if not results:
        return False
    figure, axes = open_panels(3.6, len(results))
    for axis, result in zip(axes, results, strict=True):
        draw_dots(axis, [one for one in result.figures if one.value is not None])
        axis.set_title(result.name, fontsize=9)
        axis.set_xlabel(result.figures[0].unit)
    sizes = "; ".join(dict.fromkeys(name_sizes(one.setup) for one in results))
    close(figure, path, f"{name_machines(reports, ('kernels',))}\n{sizes}; whiskers: quartiles")
    return True


def draw_service(reports: Mapping[str, Report], path: Path) -> bool:
    """Latency at 70 % of the load, and of what is accepted and refused far above it."""
    panels, sizes = [], ""
    for name in ("Matches", "Enrollments"):
        result = find_result(reports, "serve", f"{name} below and far above what it can do")
        if result is not None:
            panels.append((name, list(_find_parts(result))))
            sizes = name_sizes(result.setup)
    if not panels:
        return False
    figure, axes = open_panels(3.2, len(panels))
    for axis, (name, found) in zip(axes, panels, strict=True):
        labels, values = [label for label, _, _ in found], [value for _, value, _ in found]
        axis.bar(labels, values, color=[colour for _, _, colour in found])
        for place, value in enumerate(values):
            axis.annotate(
                write_number(value), (place, value), (-8, 2), textcoords="offset points", fontsize=8
            )
        axis.set_title(name)
        axis.set_ylabel("ms from the moment it was due")
        axis.tick_params(axis="x", labelsize=8)
    close(
        figure,
        path,
        "open loop, the generator on the same cores: at 70 % of what the service can do, and at 3 "
        f"times as much\n{name_machines(reports, ('serve',))}; {sizes}",
    )
    return True


def _find_parts(result: Result) -> Iterator[tuple[str, float, str]]:
    """Label, milliseconds and colour of each bar."""
    for ending, (label, colour) in _PARTS.items():
        for one in result.figures:
            if one.name.endswith(ending) and one.value is not None:
                yield label, one.value, colour


# All pictures that a set of reports has the figures for.

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


# Pictures of the curves: latency against size, recall against speed.

# Okabe and Ito's colours, which people with any colour vision can tell apart; each kind has a mark
# of its own besides.
_STYLES = {
    "exact8": ("#D55E00", "o"),
    "FAISS Flat": ("#000000", "s"),
    "FAISS Flat by BLAS": ("#7F7F7F", "s"),
    "FAISS PQ4fs+refine": ("#0072B2", "^"),
    "FAISS IVF": ("#009E73", "v"),
    "hnswlib": ("#CC79A7", "D"),
}
_OTHER = ("#56B4E9", "x")
_HEIGHT = 4.6

Point = tuple[float, float, str]
"""Across, up, and what is written beside it."""
Lines = dict[str, list[Point]]


def draw_plots(report: Path, folder: Path) -> tuple[Path, Path]:
    """Writes `latency.png` and `recall.png`; `RequestError` where the report has no curves."""
    results, machine = _read(report)
    latency, recall = folder / "latency.png", folder / "recall.png"
    caption = _describe(results, machine)
    _draw_latency(results, latency, caption)
    _draw_recall(results, recall, caption)
    return latency, recall


def _read(report: Path) -> tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]]:
    try:
        document = json.loads(report.read_text("utf-8"))
        results: Sequence[Mapping[str, Any]] = document["results"]
        names = {result["name"] for result in results}
    except OSError as error:
        raise RequestError(f"cannot read {report}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{report} is no report: write it by `curves --json`") from error
    if not {LATENCY_ONE, LATENCY_BATCH, SPEED} <= names:
        raise RequestError(f"{report} has no curves: write it by `curves --json`")
    return results, document.get("machine", {})


def _draw_latency(results: Sequence[Mapping[str, Any]], path: Path, caption: str) -> None:
    plots = ((LATENCY_ONE, "One query"), (LATENCY_BATCH, "A batch of {batch}"))
    figure, axes = open_panels(_HEIGHT, len(plots))
    for axis, (name, title) in zip(axes, plots, strict=True):
        chosen = [result for result in results if result["name"] == name]
        for line, points in _latencies(chosen):
            _plot(axis, line, points)
        axis.set_title(title.format(**chosen[0]["setup"]))
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("references in the gallery")
        axis.set_ylabel("milliseconds a query")
    axes[0].legend(fontsize=8)
    _close(figure, path, caption)


def _latencies(results: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Point]]]:
    """A line a searcher; IVF's has fewer lists in a small gallery, and is the same line."""
    lines: Lines = {}
    for result in results:
        size = float(result["setup"]["references"])
        for figure in result["figures"]:
            kind, _, setting = figure["name"].partition(", ")
            line = f"FAISS IVF, {setting}" if kind.startswith("FAISS IVF") else figure["name"]
            lines.setdefault(line, []).append((size, figure["value"], ""))
    yield from lines.items()


def _draw_recall(results: Sequence[Mapping[str, Any]], path: Path, caption: str) -> None:
    (speeds,) = (result for result in results if result["name"] == SPEED)
    milliseconds = {figure["name"]: figure["value"] for figure in speeds["figures"]}
    bands = [result for result in results if result["name"].startswith(RECALL)]
    figure, axes = open_panels(_HEIGHT, len(bands))
    for axis, band in zip(axes, bands, strict=True):
        lines: Lines = {}
        for one in band["figures"]:
            if one["value"] is not None:
                kind, _, setting = one["name"].partition(", ")
                note = setting.rpartition(" ")[2] if kind != "exact8" else ""
                point = (1e3 / milliseconds[one["name"]], one["value"], note)
                lines.setdefault(_family(kind), []).append(point)
        for line, points in lines.items():
            _plot(axis, line, points)
        axis.set_title(f"Mates with a {band['name'].removeprefix(RECALL).lstrip(', ')}")
        axis.set_xscale("log")
        axis.set_xlabel("queries a second, in batches")
        axis.set_ylabel("share of the mates that are found")
        axis.set_ylim(top=1.03)
        if lines:
            axis.legend(fontsize=8, loc="lower left", title="numbers: k_factor, nprobe, ef")
    _close(figure, path, caption)


def _family(kind: str) -> str:
    return "FAISS IVF" if kind.startswith("FAISS IVF") else kind


def _plot(axis: Any, line: str, points: Sequence[Point]) -> None:
    kind, _, setting = line.partition(", ")
    colour, mark = _STYLES.get(kind, _OTHER)
    dash = ":" if setting.endswith("256") else "-"
    across, up = [point[0] for point in points], [point[1] for point in points]
    axis.plot(
        across,
        up,
        dash,
        color=colour,
        marker=mark,
        markersize=7 if kind == "exact8" else 5,
        label=line,
    )
    for x, y, note in points:
        if note:
            axis.annotate(note, (x, y), (4, -11), textcoords="offset points", fontsize=7)


def _close(figure: Any, path: Path, caption: str) -> None:
    for axis in figure.axes:
        write_plainly(axis.xaxis)
        if axis.get_yscale() == "log":
            write_plainly(axis.yaxis)
    close(figure, path, caption)


def _describe(results: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> str:
    setup = results[-1]["setup"]
    where = f"{machine['cpu']}, {machine['cores']} cores; " if machine else ""
    return (
        f"{where}{setup['dim']} dimensions, {setup['population']}, seed {setup['seed']}, "
        f"{setup['threads']} threads, kernel {setup['kernel']}; recall at "
        f"{setup['references']:,} references"
    )
