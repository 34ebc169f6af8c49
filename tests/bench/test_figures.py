"""Figures in documents: found, held to the reports, and written anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.core.reports import REPORTS
from bench.docs.figures import (
    Bindings,
    Figures,
    Line,
    Stated,
    find_numbers,
    find_problems,
    list_calibrated,
    load_bindings,
    update,
)
from bench.docs.pages import ROOT, build_documents, list_problems, read_figures
from engine.errors import RequestError
from engine.matching.calibration import CalibrationCurve, Comparison
from engine.sweeps.estimate import FALSE_PAIRS_PER_REFERENCE, GallerySize, propose
from serving.compose import load_calibration
from serving.settings import Settings
from tests.bench.frozen import each_suite

TIMES = "\u00d7"
PAGE = f"""# A page

One query takes 4.1 ms, and
a batch is 36 {TIMES} as fast.

| kind | one query, ms |
|---|---|
| ours | 4.10 |

```
took 99 ms
```

It waits 15 ms for others.
"""
QUERY = "search > One query > exact8, the gallery"
LINES = (
    Line("page.md", f"takes {{{QUERY}|.1f}} ms, and a batch"),
    Line(
        "page.md",
        "a batch is {search > A batch > FAISS Flat / search > A batch > exact8, the gallery|.0f} "
        + TIMES,
    ),
    Line("page.md", f"| ours | {{{QUERY}|.2f}} |"),
)
WAITS = Stated("page.md", "waits 15 ms", "setting")


@pytest.fixture(scope="module")
def figures() -> Figures:
    return Figures(dict(each_suite()))


def default_curve() -> CalibrationCurve:
    return load_calibration(Settings()).curve(Comparison.FUSED)


def test_the_largest_sweep_is_about_the_last_that_is_not_refused() -> None:
    """Above it no threshold that is supported keeps to the budget."""
    largest = list_calibrated()["largest sweep, about"]

    def is_within(references: int) -> bool:
        size = GallerySize(references=references, new=references, sequence=1, dim=128)
        return propose(size, default_curve(), FALSE_PAIRS_PER_REFERENCE).is_within_budget

    assert is_within(round(largest * 0.6))
    assert not is_within(round(largest * 1.6))


def problems(page: str, figures: Figures, *lines: Line, stated: tuple[Stated, ...]) -> list[str]:
    return list(find_problems(page, Bindings(lines, stated, ()), figures))


def test_a_page_whose_figures_are_the_reports_has_no_problem(figures: Figures) -> None:
    assert problems(PAGE, figures, *LINES, stated=(WAITS,)) == []


def test_a_figure_that_the_report_does_not_have_is_told_with_the_right_one(
    figures: Figures,
) -> None:
    (problem,) = problems(PAGE.replace("4.1 ms", "3.9 ms"), figures, *LINES, stated=(WAITS,))
    assert problem.startswith(f"says 3.9 where {QUERY} is 4.1")


def test_a_number_that_nothing_binds_is_told_with_its_line(figures: Figures) -> None:
    found = problems(PAGE, figures, *LINES[:2], stated=())
    assert found == [
        "comes from no report: It waits 15 ms for others.",
        "comes from no report: | ours | 4.10 |",
    ]


def test_what_a_code_block_says_is_read_where_it_is_asked_for(figures: Figures) -> None:
    bindings = Bindings(LINES, (WAITS,), ())
    assert list(find_problems(PAGE, bindings, figures, with_blocks=True)) == [
        "comes from no report: took 99 ms"
    ]
    stated = Stated("page.md", "took 99 ms", "example")
    known = Bindings(LINES, (WAITS, stated), ())
    assert list(find_problems(PAGE, known, figures, with_blocks=True)) == []


def test_a_binding_of_what_is_not_there_any_more_is_told(figures: Figures) -> None:
    gone = Line("page.md", f"takes {{{QUERY}|.1f}} s")
    stale = Stated("page.md", "waits 16 ms", "setting")
    found = problems(PAGE, figures, *LINES, gone, stated=(WAITS, stale))
    assert any(problem.startswith("is there 0 times") for problem in found)
    assert "is stated, and not there any more: waits 16 ms" in found


def test_figures_are_written_anew_and_nothing_else_changes(figures: Figures) -> None:
    bindings = Bindings(LINES, (WAITS,), ())
    stale = PAGE.replace("4.1 ms", "9,000.25 ms").replace("36 ", "2 ").replace("4.10", "1")
    assert stale != PAGE
    assert update(stale, bindings, figures) == PAGE


@pytest.mark.parametrize(
    "expression",
    [
        "search > One query > nobody",
        "search > One question > FAISS Flat",
        "nosuch > One query > FAISS Flat",
        "search > setup > One query > population",
        "search > One query > FAISS Flat > skipped",
        "goal > search > nosuch",
        "model > nosuch",
        "search",
    ],
)
def test_a_figure_that_is_not_in_the_reports_is_named(expression: str, figures: Figures) -> None:
    with pytest.raises(RequestError, match="no figure"):
        figures.write(expression, ".1f")


def test_a_figure_is_written_as_asked(figures: Figures) -> None:
    assert figures.write("gallery > Snapshot > save [MB]", ".0f") == "652"
    assert figures.write("gallery > Snapshot > save [s]", ".2f") == "0.88"
    assert figures.write("goal > accuracy > accuracy", ".1fp") == "99.3"
    assert figures.write("accuracy > setup > Accuracy > nonmated_pairs", ".0fM") == "24"
    assert figures.find("model > highest threshold") == default_curve().points[-1].threshold
    with pytest.raises(RequestError, match="no format"):
        figures.write("goal > accuracy > accuracy", "z!")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("takes 4.1 ms a query", ["4.1 ms"]),
        (f"3.9 times, 36 {TIMES}; 1,000,000 {TIMES} 128", ["3.9 times", f"36 {TIMES}"]),
        ("82.6 /s of 24 million, 42 %", ["82.6 /s", "42 %"]),
        ("657 bytes, 27 µs, 865 GOPS, 36 GB/s", ["657 bytes", "27 µs", "865 GOPS", "36 GB/s"]),
        ("batches of 256, FMR 1e-5, Python 3.11, --n 10", []),
        ("`sleep 30 s` and [what](a 7 ms)", []),
    ],
)
def test_numbers_with_a_unit_are_found_outside_code(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in find_numbers(text)] == expected


def test_the_knee_of_a_load_test_is_within_a_tenth_of_the_benchmark() -> None:
    committed = read_figures(REPORTS)
    over_http = "serve-throughput > Enrollments with two photographs > over HTTP"
    assert committed.find(f"knee > rate / {over_http}") == pytest.approx(1, abs=0.1)
    assert committed.knee["confirmed"]


def test_a_wrong_file_of_bindings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "figures.toml"
    with pytest.raises(RequestError, match="cannot read"):
        load_bindings(path)
    path.write_text("generated = []\nline = [3]\nstated = []\n")
    with pytest.raises(RequestError, match="no list of figures"):
        load_bindings(path)
    stated = '[[stated]]\nin = "a.md"\nwhy = "because"\ntexts = ["1 ms"]\n'
    path.write_text(f"generated = []\nline = []\n{stated}")
    with pytest.raises(RequestError, match="because"):
        load_bindings(path)


def test_every_figure_of_readme_and_docs_is_that_of_a_committed_report() -> None:
    assert list(list_problems(ROOT, REPORTS)) == []


def test_the_committed_pages_are_what_the_reports_make(tmp_path: Path) -> None:
    made = build_documents(ROOT, REPORTS, tmp_path)
    for name, text in made.items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, f"{name}: run make docs"
    drawn = {picture.stem for picture in tmp_path.iterdir()}
    assert {f"performance-{name}" for name in ("versus", "goals", "searches", "service")} <= drawn
    images = ROOT / "docs" / "img"
    for picture in tmp_path.iterdir():
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert (images / picture.name).is_file(), f"{picture.name}: run make docs"


def test_without_documents_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="checkout"):
        build_documents(tmp_path, REPORTS, tmp_path)
