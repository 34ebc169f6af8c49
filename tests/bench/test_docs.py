"""README.md and docs/*.md hold what the committed reports say."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.core.machine import look
from bench.core.reports import REPORTS, Check, Figure, Report, Result, write_report
from bench.docs.pages import (
    ROOT,
    WIDTH,
    Figures,
    build_documents,
    build_performance_page,
    digest_report,
    fill_blocks,
    find_shown,
    print_words,
    refresh,
    run_sosie,
)
from engine.errors import RequestError
from engine.matching.calibration import CalibrationCurve
from engine.sweeps.estimate import FALSE_PAIRS_PER_REFERENCE, GallerySize, propose
from schema.decisions import Comparison
from serving.deployment.models import load_calibration
from serving.settings.settings import Settings

IMAGES = ROOT / "docs" / "img"
SHOWN = find_shown((ROOT / "docs" / "capacity.md").read_text(encoding="utf-8"))
SHOWN_OF_GALLERY = "Searching while everything changes"
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?")
NEAR = 0.1
"""Another processor rounds sums otherwise, and the order of two events may change."""

Run = Callable[[list[str]], str]


@pytest.fixture
def figures(tmp_path) -> Figures:
    save = (Figure("save", "s", 0.876), Figure("save", "MB", 652.3))
    batches = (Figure("batches of 32", "decisions/s", 981.0, ratio=6.4),)
    queries = (Figure("FAISS Flat", "ms", 54.4), Figure("exact8, the gallery", "ms", 4.1))
    for suite, result in {
        "search": Result("One query", {"population": "synthetic"}, queries),
        "gallery": Result("Snapshot", {"references": 23_752_290}, save),
        "registrar": Result("Decisions", {}, batches),
    }.items():
        checks = (Check("one_query_speedup", 13.3, 6.0, holds=True),)
        write_report(tmp_path / f"{suite}.json", Report(look(), (result,), checks, suite))
    return Figures(tmp_path)


@pytest.fixture
def run(monkeypatch) -> Run:
    """As the page is made: in the checkout, as wide, with nothing of this machine's settings."""
    from serving.cli.main import app

    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("SOSIE_HOME", raising=False)
    environment = {"COLUMNS": str(WIDTH)}

    def sosie(words: list[str]) -> str:
        done = CliRunner().invoke(app, words, env=environment)
        assert done.exit_code == 0, done.output
        return done.stdout

    return sosie


def list_pictures(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text("utf-8")
    return re.findall(r"\(img/([^)]+\.png)\)", text)


def test_the_committed_pages_are_what_the_reports_make(tmp_path) -> None:
    made = build_documents(ROOT, REPORTS, tmp_path)
    assert {"README.md", "docs/performance.md", "docs/accuracy.md", "docs/sweeps.md"} <= set(made)
    for name, text in made.items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, f"{name}: run make docs"
    for picture in tmp_path.iterdir():
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert (IMAGES / picture.name).is_file(), f"{picture.name}: run make docs"


@pytest.mark.parametrize("picture", list_pictures("accuracy.md"))
def test_a_picture_of_accuracy_is_drawn_from_the_committed_report(picture: str) -> None:
    source = "accuracy.json" if picture == "degraded.png" else "evaluation.json"
    with Image.open(IMAGES / picture) as image:
        assert image.info["reports"] == digest_report(REPORTS / source)


def test_blocks_are_replaced_by_name_and_nothing_else_changes() -> None:
    page = "a\n<!-- figures: one -->\nold\n<!-- end of figures -->\nb\n"
    rendered = "<!-- figures: one -->\n4.1 ms\n<!-- end of figures -->\n"
    assert fill_blocks("page.md", page, rendered) == page.replace("old", "4.1 ms")
    with pytest.raises(RequestError, match=r"page\.md has the blocks"):
        fill_blocks("page.md", page, rendered.replace("one", "two"))


def test_a_figure_is_found_by_its_names_and_one_that_is_not_there_is_named(figures) -> None:
    assert figures.value("search", "One query", "exact8, the gallery") == 4.1
    assert figures.value("gallery", "Snapshot", "save", "MB") == 652.3
    assert figures.value("registrar", "Decisions", "batches of 32", field="ratio") == 6.4
    assert figures.promise("search", "one_query_speedup") == 13.3
    assert figures.promise("search", "one_query_speedup", "goal") == 6.0
    assert figures.setup("gallery", "Snapshot", "references") == 23_752_290
    for ask in (
        lambda: figures.value("search", "One query", "nobody"),
        lambda: figures.value("nosuch", "One query", "FAISS Flat"),
        lambda: figures.value("search", "One query", "FAISS Flat", field="skipped"),
        lambda: figures.promise("nosuch", "one_query_speedup"),
        lambda: figures.promise("search", "nosuch", "goal"),
        lambda: figures.setup("search", "One query", "population"),
    ):
        with pytest.raises(RequestError, match="no figure"):
            ask()


def test_the_knee_of_a_load_test_is_within_a_tenth_of_the_benchmark() -> None:
    committed = Figures(REPORTS)
    rate = committed.value("serve-throughput", "Enrollments with two photographs", "over HTTP")
    assert committed.knee["rate"] == pytest.approx(rate, rel=0.1)
    assert committed.knee["confirmed"]


def test_the_largest_sweep_is_about_the_last_that_is_not_refused(figures) -> None:
    """Above it no threshold that is supported keeps to the budget."""
    largest = figures.names()["largest_sweep"]
    curve: CalibrationCurve = load_calibration(Settings()).curve(Comparison.FUSED)

    def is_within(references: int) -> bool:
        size = GallerySize(references=references, new=references, sequence=1, dim=128)
        return propose(size, curve, FALSE_PAIRS_PER_REFERENCE).is_within_budget

    assert is_within(round(largest * 0.6))
    assert not is_within(round(largest * 1.6))


def test_the_page_has_warnings_and_the_main_results(tmp_path) -> None:
    machine = replace(look(), warnings=("load 9.0 at the start",))
    figure = Figure("one", "ms", 1.0)
    results = tuple(Result(name, {"seed": 0}, (figure,)) for name in (SHOWN_OF_GALLERY, "Shards"))
    write_report(tmp_path / "gallery.json", Report(machine, results, (), "gallery"))
    page = build_performance_page(tmp_path)
    assert "*Warning: load 9.0 at the start.*" in page
    assert f"### {SHOWN_OF_GALLERY}" in page
    assert "### Shards" not in page


def read(text: str) -> tuple[list[str], list[float]]:
    """The words between its numbers, however they are spaced, and the numbers."""
    plain = re.sub(r"[━─\s┃│┏┓┗┛┡┩╇┳┻┌┐└┘├┤┬┴┼]+", " ", text)
    numbers = [float(one.replace(",", "")) for one in NUMBER.findall(plain)]
    return NUMBER.split(plain), numbers


@pytest.mark.parametrize(("words", "shown"), SHOWN, ids=[words[:40] for words, _ in SHOWN])
def test_the_examples_of_a_capacity_plan_are_what_the_command_prints(
    words: str, shown: str, run
) -> None:
    printed_words, printed = read(print_words(words, run))
    shown_words, numbers = read(shown)
    assert shown_words == printed_words
    assert numbers == pytest.approx(printed, rel=NEAR, abs=0.02)


def test_a_command_that_fails_stops_the_page_and_is_named() -> None:
    with pytest.raises(RequestError, match="sosie plan --faces none ended with 2"):
        run_sosie(["plan", "--faces", "none"])


def test_a_page_is_made_anew_and_nothing_else_in_it_is_touched() -> None:
    page = "Text\n\n```\n$ sosie plan --x 'a b' | head -2\nold\n```\n\n```\nother\n```\n"
    asked: list[list[str]] = []

    def run(words: list[str]) -> str:
        asked.append(words)
        return "one  \ntwo\nthree\n"

    assert refresh(page, run) == page.replace("old\n", "one\ntwo\n")
    assert asked == [["plan", "--x", "a b"]]
