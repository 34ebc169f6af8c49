from __future__ import annotations

import pytest

from engine.formatting import duration, fixed, number, percent, size, whole_gib, with_interval


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (number(None), "-"),
        (number(0.0016789), "0.001679"),
        (number(3.14159), "3.142"),
        (number(158_230.4), "158,230"),
        (fixed(1238.4), "1,238"),
        (fixed(-1.84, 1), "\u22121.8"),
        (percent(0.9948, 2), "99.48 %"),
        (percent(0.42), "42 %"),
        (size(657), "657 bytes"),
        (size(25_276_502_016), "23.5 GiB"),
        (size(3 * 2**40), "3 TiB"),
        (whole_gib(1.5 * 2**40), "1,536 GiB"),
        (with_interval(1.234, 0.5, 2.0), "1.2 (0.5 to 2)"),
        (with_interval(5.0, 0.0, 5.0, is_bound=True), "at most 5"),
        (with_interval(0.25, 0.1, 0.5, level="95 %: "), "0.25 (95 %: 0.1 to 0.5)"),
        (with_interval(0.25, 0.1, 0.5, write="{:.0%}".format), "25% (10% to 50%)"),
        (duration(14.24), "14.2 s"),
        (duration(150), "2.5 min"),
        (duration(9_000), "2.5 h"),
    ],
)
def test_numbers_are_written_as_people_write_them(written: str, expected: str) -> None:
    assert written == expected
