"""Sentences of the pages of error rates that hold for some evaluations only."""

from __future__ import annotations

import json

import pytest

from bench.core.reports import REPORTS
from bench.docs.accuracy_pages import LOOKED_AT, Report, describe_generalised, describe_looked_at


@pytest.fixture
def report() -> Report:
    found: Report = json.loads((REPORTS / "evaluation.json").read_text("utf-8"))
    return found


def test_flags_are_said_to_be_looked_at_where_they_are_those_that_were(report: Report) -> None:
    report["flagged"]["pairs"] = LOOKED_AT
    assert "were looked at, and are" in describe_looked_at(report)
    report["flagged"]["pairs"] += 1
    assert "nobody has looked at all" in describe_looked_at(report)


def test_both_rates_are_the_same_only_where_every_photograph_gave_a_template(
    report: Report,
) -> None:
    assert "the same" in describe_generalised(report | {"fta": 0.0})
    assert "the same" not in describe_generalised(report | {"fta": 0.01})
