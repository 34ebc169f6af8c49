"""Numbers of a plan as people write them."""

from __future__ import annotations

import pytest

from engine.matching.thresholds import Rate
from serving.cli.plan_tables import _interval


@pytest.mark.parametrize(
    ("rate", "told"),
    [
        (Rate(1_600.4, 0.0, 7_040.0), "1,600 (0 to 7,000)"),
        (Rate(10_368_000.0, 0.0, 10_368_000.0), "10 million (0 to 10 million)"),
        (Rate(0.1, 0.0, 0.44), "0.1 (0 to 0.44)"),
        (Rate(352.0, 352.0, 352.0, is_bound=True), "at most 350"),
    ],
)
def test_an_expected_count_has_two_digits_that_count_and_no_exponent(rate: Rate, told: str) -> None:
    assert _interval(rate) == told
