"""Everything in `docs` and the README that is made of committed reports, in one go."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from bench.pages.expressions import Figures
from bench.pages.figures import (
    README,
    Bindings,
    Line,
    Stated,
    find_problems,
    list_documents,
    load_bindings,
    update,
)
from bench.pages.performance import build_performance_page
from bench.pages.shown import refresh, run_sosie
from bench.reading import read_reports
from engine.errors import RequestError

ROOT = Path(__file__).parents[2]
"""The checkout; an installed package has no documents."""

Builder = Callable[[Path, Path], str]
"""A page from a folder of reports; its pictures go to another."""

_SHOWING = ("docs/capacity.md",)
_ACCURACY, _EVALUATION = "bench.pages.accuracy", "evaluation.json"


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
