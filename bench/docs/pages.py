"""`docs/performance.md`, made of the committed reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from bench.core.reports import Report, Result, read_reports
from bench.docs.figures import (
    README,
    Bindings,
    Figures,
    Line,
    Stated,
    find_problems,
    list_documents,
    load_bindings,
    refresh,
    run_sosie,
    stamp,
    update,
)
from bench.docs.markdown import count_promises, render
from bench.docs.plots import draw_all, draw_plots
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
        "Memory, growth, snapshots, erasure; searching while everything changes.",
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


# Everything in `docs` and the README that is made of committed reports, in one go.

ROOT = Path(__file__).parents[2]
"""The checkout; an installed package has no documents."""

Builder = Callable[[Path, Path], str]
"""A page from a folder of reports; its pictures go to another."""

_SHOWING = ("docs/capacity.md",)
_ACCURACY, _EVALUATION = "bench.docs.accuracy_pages", "evaluation.json"


def build_documents(root: Path, reports: Path, images: Path) -> dict[str, str]:
    """Every document by its place under `root`, as the reports say it should be.

    Pictures are written to `images`. `RequestError` where a figure is in no report.
    """
    if not (root / "docs").is_dir():
        raise RequestError(f"no docs in {root}: they are made in a checkout")
    bindings, figures = _open(root, reports)
    made = {name: build(reports, images) for name, build in _builders(reports).items()}
    for name, path in list_documents(root, bindings).items():
        text = path.read_text(encoding="utf-8")
        made[name] = update(text, bindings.of(name), figures)
    return made


def show_commands(documents: Mapping[str, str]) -> dict[str, str]:
    """Those whose commands need the checkout alone, with what they print now."""
    return {name: refresh(documents[name], run_sosie) for name in _SHOWING if name in documents}


def list_problems(root: Path, reports: Path) -> Iterator[str]:
    """What is wrong with the figures of documents that people write."""
    bindings, figures = _open(root, reports)
    documents = list_documents(root, bindings)
    pieces: tuple[Line | Stated, ...] = (*bindings.lines, *bindings.stated)
    for one in pieces:
        if one.document not in documents:
            yield f"docs/figures.toml: no document {one.document}"
    for name, path in documents.items():
        text = path.read_text(encoding="utf-8")
        of_it, with_blocks = bindings.of(name), name == README
        for problem in find_problems(text, of_it, figures, with_blocks=with_blocks):
            yield f"{name} {problem}"


def _open(root: Path, reports: Path) -> tuple[Bindings, Figures]:
    return load_bindings(root / "docs" / "figures.toml"), read_figures(reports)


def read_figures(reports: Path) -> Figures:
    """Of a folder of reports, and of the load test beside them where there is one."""
    path = reports / "knee.json"
    knee = json.loads(path.read_text(encoding="utf-8"))["knee"] if path.is_file() else {}
    return Figures(read_reports(reports), knee)


def _builders(reports: Path) -> Mapping[str, Builder]:
    """Pages that are made as a whole; those of error rates where there is an evaluation."""
    builders: dict[str, Builder] = {"docs/performance.md": build_performance_page}
    if (reports / _EVALUATION).is_file() and find_spec(_ACCURACY) is not None:
        accuracy = import_module(_ACCURACY)
        builders["docs/accuracy.md"] = accuracy.build_accuracy_page
        builders["docs/model-card.md"] = accuracy.build_model_card
    return builders
