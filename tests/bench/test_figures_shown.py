"""What a page shows of a command is what the command prints."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.docs.figures import ROOT, WIDTH, find_shown, print_words, refresh, run_sosie
from engine.errors import RequestError

PAGE = ROOT / "docs" / "capacity.md"
SHOWN = find_shown(PAGE.read_text(encoding="utf-8"))
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?")
NEAR = 0.1
"""Another processor rounds sums otherwise, and an order of two events may turn."""

Run = Callable[[list[str]], str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """As the page is made: in the checkout, so wide, with nothing of this machine's settings."""
    from serving.cli.main import app

    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("SOSIE_HOME", raising=False)
    environment = {"SOSIE_CACHE": str(tmp_path), "COLUMNS": str(WIDTH)}

    def sosie(words: list[str]) -> str:
        done = CliRunner().invoke(app, words, env=environment)
        assert done.exit_code == 0, done.output
        return done.stdout

    return sosie


def read(text: str) -> tuple[list[str], list[float]]:
    """The words between its numbers, however they are spaced, and the numbers."""
    plain = re.sub(r"[━─\s┃│┏┓┗┛┡┩╇┳┻┌┐└┘├┤┬┴┼]+", " ", text)
    numbers = [float(one.replace(",", "")) for one in NUMBER.findall(plain)]
    return NUMBER.split(plain), numbers


@pytest.mark.parametrize(("words", "shown"), SHOWN, ids=[words[:40] for words, _ in SHOWN])
def test_the_examples_of_a_capacity_plan_are_what_the_command_prints(
    words: str, shown: str, run: Run
) -> None:
    printed_words, printed = read(print_words(words, run))
    shown_words, numbers = read(shown)
    assert shown_words == printed_words
    assert numbers == pytest.approx(printed, rel=NEAR, abs=0.02)


def test_the_largest_example_is_whole_and_fits_a_hundred_columns() -> None:
    shown = next(output for words, output in SHOWN if "1.6e9" in words)
    assert max(map(len, shown.splitlines())) <= WIDTH
    text = " ".join(shown.split())
    for words in (
        "1,600,000,000 faces",
        "to spare (N+1)",
        "shards",
        "simulated p50, p99",
        "holds the objectives",
        "none: a sharded gallery keeps none",
        "not supported below ",
        "Figures, and where they come from",
        "Not measured: ",
        "1. Requests arrive independently",
    ):
        assert words in text, words


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
