"""Times of searches and kernels beside others', and of the service under load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.charts.canvas import GOOD, OTHERS, OURS, close, draw_dots, open_panels
from bench.charts.origin import name_machines, name_sizes
from bench.lookup import find_result
from bench.report import Report, Result
from bench.wording import write_number

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
