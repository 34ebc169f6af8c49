"""Texts of the report: numbers, dates, names and terms of a risk."""

from datetime import UTC, datetime

from engine.sweeps.report.contents import describe_term, format_moment, format_share
from engine.sweeps.risk import SCALES, TERMS
from schema.sweeps import GroupKind, RiskTerm


def test_a_share_stays_on_one_line() -> None:
    assert format_share(0.5) == "50\N{NO-BREAK SPACE}%"


def test_moments_are_utc() -> None:
    assert format_moment(datetime(2024, 3, 4, 5, 6, tzinfo=UTC)) == "2024-03-04 05:06 UTC"


def test_every_term_of_a_risk_has_a_text() -> None:
    for kind, names in TERMS.items():
        for name in names:
            reason = describe_term(RiskTerm(name, 1.0, 3.0), kind)
            assert name.replace("_", " ") + ":" not in reason.text
            assert reason.most == SCALES[name][-1][1]


def test_an_unknown_term_is_shown_by_its_name() -> None:
    described = describe_term(RiskTerm("new_thing", 2.0, 3.0), GroupKind.ONE_FACE)
    assert described.text == "new thing: 2"
