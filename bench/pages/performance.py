"""`docs/performance.md`, made of the committed reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.charts.drawing import draw_all
from bench.pages.markdown import count_promises, render
from bench.plots import draw_plots
from bench.reading import read_reports
from bench.report import Report, Result
from engine.errors import RequestError

PREFIX = "performance-"


@dataclass(frozen=True, slots=True)
class Chapter:
    """What the page shows of a report: results by how their names begin, pictures by name."""

    name: str
    title: str
    command: str
    words: str
    results: tuple[str, ...] = ("",)
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A chapter with its report and the results that it shows."""

    chapter: Chapter
    report: Report
    results: tuple[Result, ...]


CHAPTERS = (
    Chapter(
        "search",
        "One against all",
        "search",
        "A gallery of a million, searched by everybody in turn. [Exact search](exact-search.md) "
        "says why ours finds all that brute force finds.",
        ("One query", "A batch", "The memory's limit", "Recall", "PostgreSQL"),
        ("searches", "latency", "recall"),
    ),
    Chapter(
        "search-512",
        "One against all, 512 dimensions",
        "search --n 250000 --dim 512",
        "The same for templates as most other models make them.",
        ("One query", "A batch", "Recall"),
    ),
    Chapter("join", "All against all", "join --n 1000000", "The engine of a sweep."),
    Chapter(
        "kernels",
        "Kernels",
        "kernels",
        "The scans and sums of `indexes` by one thread, each held against numpy's answer, beside "
        "what a bare product or a reading takes on the same core.",
        pictures=("kernels",),
    ),
    Chapter(
        "gallery",
        "The gallery",
        "gallery",
        "Memory, growth, snapshots, erasure and shards; searching while everything changes.",
    ),
    Chapter(
        "extract",
        "From photographs to vectors",
        "extract",
        "Sosie and the usual alternatives on the same photographs, in rounds in turn.",
    ),
    Chapter(
        "registrar",
        "Decisions",
        "registrar",
        "Enrollments decided, durable, each held against an oracle that compares with everybody.",
    ),
    Chapter(
        "serve",
        "The service",
        "serve",
        "`sosie serve` over HTTP with the load's generator on the same cores; an open loop, so a "
        "latency counts from the moment its request was due.",
        pictures=("service",),
    ),
    Chapter("sweep", "Sweeps", "sweep", "Rings and chains hidden in a million references."),
    Chapter(
        "import",
        "Import",
        "import",
        "An existing base taken in by `sosie import`, beside what the extractor alone could do.",
    ),
)
"""In the order of the page. Accuracy has a page of its own."""


def build_performance_page(reports: Path, images: Path) -> str:
    """The page; its pictures are written to `images`."""
    found = read_reports(reports)
    shown = {one.name: found[one.name] for one in CHAPTERS if one.name in found}
    if not shown:
        raise RequestError(f"no report of a suite in {reports}")
    pictures = {name: path.name for name, path in draw_all(shown, images, PREFIX).items()}
    if "curves" in found:
        for path in draw_plots(reports / "curves.json", images):
            pictures[path.stem] = path.name
    kept, measured = count_promises(shown)
    sections = [_section(one, shown[one.name]) for one in CHAPTERS if one.name in shown]
    return render(
        "performance.md.j2",
        reports=shown,
        sections=sections,
        pictures=pictures,
        kept=kept,
        measured=measured,
    )


def _section(chapter: Chapter, report: Report) -> Section:
    results = tuple(one for one in report.results if one.name.startswith(chapter.results))
    return Section(chapter, report, results)
