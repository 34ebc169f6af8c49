"""Texts of the report: numbers, dates, names and terms of a risk."""

from engine.sweeps.report.contents import describe_term
from engine.sweeps.risk import SCALES, TERMS
from schema.sweeps import GroupKind, RiskTerm


def test_every_term_of_a_risk_has_a_text() -> None:
    for kind, names in TERMS.items():
        for name in names:
            reason = describe_term(RiskTerm(name, 1.0, 3.0), kind)
            assert name.replace("_", " ") + ":" not in reason.text
            assert reason.most == SCALES[name][-1][1]


def test_an_unknown_term_is_shown_by_its_name() -> None:
    described = describe_term(RiskTerm("new_thing", 2.0, 3.0), GroupKind.ONE_FACE)
    assert described.text == "new thing: 2"
