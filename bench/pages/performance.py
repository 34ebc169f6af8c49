"""`docs/performance.md`, made of the committed reports."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from bench.charts.drawing import draw_all
from bench.pages.markdown import count_promises, render
from bench.pages.stamping import stamp
from bench.plots import draw_plots
from bench.reading import read_reports
from bench.report import Report, Result
from engine.errors import RequestError

PREFIX, CURVES = "performance-", "curves.json"


@dataclass(frozen=True, slots=True)
class Chapter:
    """What the page shows of a report: main results by patterns of names, pictures by name."""

    name: str
    title: str
    command: str
    words: str
    results: tuple[str, ...] = ("*",)
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A chapter with its report, the results that it shows, and the names of all others."""

    chapter: Chapter
    report: Report
    results: tuple[Result, ...]
    others: tuple[str, ...]


CHAPTERS = (
    Chapter(
        "search",
        "One against all",
        "search",
        "A gallery of a million, searched by everybody in turn. [Exact search](exact-search.md) "
        "says why ours finds all that brute force finds.",
        ("One query", "A batch", "Recall of mates, score 0.45*", "PostgreSQL*, one query"),
        ("searches", "latency", "recall"),
    ),
    Chapter(
        "search-512",
        "One against all, 512 dimensions",
        "search --n 250000 --dim 512",
        "The same for templates as most other models make them.",
        ("One query", "A batch"),
    ),
    Chapter(
        "join",
        "All against all",
        "join --n 1000000",
        "The engine of a sweep.",
        ("All pairs", "The same references by everybody"),
    ),
    Chapter(
        "kernels",
        "Kernels",
        "kernels",
        "The scans and sums of `indexes` by one thread, each held against numpy's answer, beside "
        "what a bare product or a reading takes on the same core.",
        ("Scan of 262,144*", "True scores*"),
        pictures=("kernels",),
    ),
    Chapter(
        "gallery",
        "The gallery",
        "gallery",
        "Memory, growth, snapshots, erasure and shards; searching while everything changes.",
        ("Memory", "Snapshot", "Growth", "Searching while everything changes"),
    ),
    Chapter(
        "extract",
        "From photographs to vectors",
        "extract",
        "Sosie and the usual alternatives on the same photographs, in rounds in turn.",
        ("SFace graphs, 16 a call", "Pairs of photographs", "One pair at a time", "Start"),
    ),
    Chapter(
        "registrar",
        "Decisions",
        "registrar",
        "Enrollments decided, durable, each held against an oracle that compares with everybody.",
        ("Decisions", "Stages*"),
    ),
    Chapter(
        "serve",
        "The service",
        "serve",
        "`sosie serve` over HTTP with the load's generator on the same cores; an open loop, so a "
        "latency counts from the moment its request was due.",
        (
            "Enrollments with two photographs",
            "Matches, one 1:1 item a request",
            "* below and far above what it can do",
            "Start of the service",
        ),
        pictures=("service",),
    ),
    Chapter(
        "sweep",
        "Sweeps",
        "sweep",
        "Rings and chains hidden in a million references.",
        ("A sweep of everything", "A sweep of what is new"),
    ),
    Chapter(
        "import",
        "Import",
        "import",
        "An existing base taken in by `sosie import`, beside what the extractor alone could do.",
        ("Photographs", "Vectors"),
    ),
)
"""In the order of the page. Accuracy has a page of its own."""


def build_performance_page(reports: Path, images: Path) -> str:
    """The page; its pictures are written to `images`."""
    found = read_reports(reports)
    shown = {one.name: found[one.name] for one in CHAPTERS if one.name in found}
    if not shown:
        raise RequestError(f"no report of a suite in {reports}")
    drawn = draw_all(shown, images, PREFIX)
    for path in drawn.values():
        stamp(path, list_sources(reports, path.name))
    if "curves" in found:
        for path in draw_plots(reports / CURVES, images):
            stamp(path, list_sources(reports, path.name))
            drawn[path.stem] = path
    pictures = {name: path.name for name, path in drawn.items()}
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


def list_sources(reports: Path, picture: str) -> list[Path]:
    """The reports that a picture of the page is drawn from, by its file's name."""
    if not picture.startswith(PREFIX):
        return [reports / CURVES]
    paths = (reports / f"{one.name}.json" for one in CHAPTERS)
    return [path for path in paths if path.is_file()]


def _section(chapter: Chapter, report: Report) -> Section:
    shown = tuple(one for one in report.results if _is_main(one, chapter))
    names = dict.fromkeys(one.name for one in report.results if not _is_main(one, chapter))
    return Section(chapter, report, shown, tuple(names))


def _is_main(result: Result, chapter: Chapter) -> bool:
    return any(fnmatchcase(result.name, pattern) for pattern in chapter.results)
