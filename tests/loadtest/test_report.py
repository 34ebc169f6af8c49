"""Every result can be printed and written as a page, and is printed first."""

import json
import re

import pytest

from loadtest.commands import report_result, write_page
from loadtest.config import Knee, LoadStep
from loadtest.service_calls import APPROVED, Answer
from tests.loadtest.making import decided, make_outcome, make_result, make_step, make_visit

GOOD = make_step(10, [make_outcome(make_visit(1), decided(APPROVED))])
REFUSED = make_step(20, [make_outcome(make_visit(2), Answer(429, is_refusal=True))])


@pytest.mark.parametrize("steps", [(REFUSED, GOOD), (GOOD, REFUSED), (REFUSED,)])
def test_a_step_in_which_all_were_refused_has_no_latency_and_a_page(
    steps: tuple[LoadStep, ...], capsys
) -> None:
    knee = Knee(rate=10, failed=20, steps=2, trouble="the service said no answer to /v1/match")
    result = make_result(*steps, knee=knee)
    assert not result.is_passed
    # The last step that held, else the last.
    assert write_page(result) == ("page of 10" if GOOD in steps else "page of 20")
    assert report_result(result) == 1
    out = capsys.readouterr().out
    assert knee.trouble in out
    assert not re.search(r"\bnan\b", out)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_page_that_cannot_be_written_loses_nothing(tmp_path, capsys, as_json: bool) -> None:
    assert report_result(make_result(GOOD, html=tmp_path, as_json=as_json)) == 2
    captured = capsys.readouterr()
    assert captured.err == f"sosie: {tmp_path} cannot be written: Is a directory\n"
    assert json.loads(captured.out)["passed"] if as_json else captured.out.endswith("Passed.\n")
    # That it failed is the graver news.
    assert report_result(make_result(REFUSED, html=tmp_path, as_json=as_json)) == 1


def test_answers_of_a_service_are_printed_as_text_and_no_markup(capsys) -> None:
    step = make_step(10, [make_outcome(make_visit(1), decided("[bold]new[/]"))])
    assert report_result(make_result(step)) == 1
    assert "answered [bold]new[/]" in capsys.readouterr().out
