"""How numbers and names are told."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from engine.matching.calibration import Rate
from engine.sweeps.report.words import (
    give_reason,
    isolate,
    letter,
    plural,
    tell_count,
    tell_duration,
    tell_moment,
    tell_rate,
    tell_share,
    tell_small,
)
from engine.sweeps.risk import SCALES, TERMS
from engine.sweeps.sweep_model import GroupKind, RiskTerm


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, "0"), (7, "7"), (1234, "1,234"), (1234.5, "1,234"), (0.51, "0.51"),
        (0.00012, "1.2 \N{MULTIPLICATION SIGN} 10⁻⁴"),
        (4.9e11, "4.9 \N{MULTIPLICATION SIGN} 10¹¹"), (9.97, "10"),
        (490 * 10**9, "490,000,000,000"),
    ],
)  # fmt: skip
def test_counts(value: float, told: str) -> None:
    assert tell_count(value) == told


def test_small_numbers_keep_two_digits() -> None:
    assert tell_small(1e-6) == "1.0 \N{MULTIPLICATION SIGN} 10⁻⁶"
    assert tell_small(0.034) == "0.034"


def test_a_bound_is_told_as_one() -> None:
    assert tell_rate(Rate(5.0, 0.0, 5.0, is_bound=True)) == "at most 5"
    assert tell_rate(Rate(5.0, 2.0, 9.0)) == "5 (2 to 9)"


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (0.0, "0\N{NO-BREAK SPACE}%"),
        (1e-5, "less than 0.1\N{NO-BREAK SPACE}%"),
        (0.5, "50\N{NO-BREAK SPACE}%"),
        (0.99999, "more than 99.9\N{NO-BREAK SPACE}%"),
        (1, "100\N{NO-BREAK SPACE}%"),
    ],
)
def test_a_share_is_never_all_or_nothing_by_rounding(share: float, told: str) -> None:
    assert tell_share(share) == told


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.0, "0 s"), (12.34, "12.3 s"), (150, "2 min 30 s"), (7300, "2 h 1 min")]
)
def test_durations(seconds: float, told: str) -> None:
    assert tell_duration(seconds) == told


def test_moments_are_utc() -> None:
    assert tell_moment(datetime(2024, 3, 4, 5, 6, tzinfo=UTC)) == "2024-03-04 05:06 UTC"


def test_letters_go_on_after_z() -> None:
    assert [letter(number) for number in (0, 25, 26, 27, 701, 702)] == [
        "A", "Z", "AA", "AB", "ZZ", "AAA",
    ]  # fmt: skip


def test_plurals() -> None:
    assert plural(1, "line") == "1 line"
    assert plural(1200, "identity", "identities") == "1,200 identities"


def test_a_name_cannot_turn_the_writing_around_it() -> None:
    assert isolate("\u202eabc\u2069") == "\u2068abc\u2069"


def test_every_term_of_a_risk_has_words() -> None:
    for kind, names in TERMS.items():
        for name in names:
            reason = give_reason(RiskTerm(name, 1.0, 3.0), kind)
            assert name.replace("_", " ") + ":" not in reason.text
            assert reason.most == SCALES[name][-1][1]


def test_an_unknown_term_is_told_by_its_name() -> None:
    told = give_reason(RiskTerm("new_thing", 2.0, 3.0), GroupKind.ONE_FACE)
    assert told.text == "new thing: 2"
