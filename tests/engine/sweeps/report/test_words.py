"""Texts of the report: numbers, dates, names and terms of a risk."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from engine.matching.calibration import Rate
from engine.sweeps.report.words import (
    describe_term,
    format_count,
    format_moment,
    format_rate,
    format_share,
    format_small,
    isolate,
    letter,
    plural,
)
from engine.sweeps.risk import SCALES, TERMS
from engine.sweeps.sweep_model import GroupKind, RiskTerm


@pytest.mark.parametrize(
    ("value", "described"),
    [
        (0, "0"), (7, "7"), (1234, "1,234"), (1234.5, "1,234"), (0.51, "0.51"),
        (0.00012, "1.2 \N{MULTIPLICATION SIGN} 10⁻⁴"),
        (4.9e11, "4.9 \N{MULTIPLICATION SIGN} 10¹¹"), (9.97, "10"),
        (490 * 10**9, "490,000,000,000"),
    ],
)  # fmt: skip
def test_counts(value: float, described: str) -> None:
    assert format_count(value) == described


def test_small_numbers_keep_two_digits() -> None:
    assert format_small(1e-6) == "1.0 \N{MULTIPLICATION SIGN} 10⁻⁶"
    assert format_small(0.034) == "0.034"


def test_a_bound_is_shown_as_one() -> None:
    assert format_rate(Rate(5.0, 0.0, 5.0, is_bound=True)) == "at most 5"
    assert format_rate(Rate(5.0, 2.0, 9.0)) == "5 (2 to 9)"


@pytest.mark.parametrize(
    ("share", "described"),
    [
        (0.0, "0\N{NO-BREAK SPACE}%"),
        (1e-5, "less than 0.1\N{NO-BREAK SPACE}%"),
        (0.5, "50\N{NO-BREAK SPACE}%"),
        (0.99999, "more than 99.9\N{NO-BREAK SPACE}%"),
        (1, "100\N{NO-BREAK SPACE}%"),
    ],
)
def test_a_share_is_never_all_or_nothing_by_rounding(share: float, described: str) -> None:
    assert format_share(share) == described


def test_moments_are_utc() -> None:
    assert format_moment(datetime(2024, 3, 4, 5, 6, tzinfo=UTC)) == "2024-03-04 05:06 UTC"


def test_letters_go_on_after_z() -> None:
    assert [letter(number) for number in (0, 25, 26, 27, 701, 702)] == [
        "A", "Z", "AA", "AB", "ZZ", "AAA",
    ]  # fmt: skip


def test_plurals() -> None:
    assert plural(1, "line") == "1 line"
    assert plural(1200, "identity", "identities") == "1,200 identities"


def test_a_name_does_not_change_the_direction_of_the_text_around_it() -> None:
    assert isolate("\u202eabc\u2069") == "\u2068abc\u2069"


def test_every_term_of_a_risk_has_a_text() -> None:
    for kind, names in TERMS.items():
        for name in names:
            reason = describe_term(RiskTerm(name, 1.0, 3.0), kind)
            assert name.replace("_", " ") + ":" not in reason.text
            assert reason.most == SCALES[name][-1][1]


def test_an_unknown_term_is_shown_by_its_name() -> None:
    described = describe_term(RiskTerm("new_thing", 2.0, 3.0), GroupKind.ONE_FACE)
    assert described.text == "new thing: 2"
