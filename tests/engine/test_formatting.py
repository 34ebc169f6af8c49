from __future__ import annotations

import pytest

from engine.formatting import duration, fixed, number, percent, size


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
        (duration(14.24), "14.2 s"),
        (duration(150), "2.5 min"),
        (duration(9_000), "2.5 h"),
    ],
)
def test_numbers_are_written_as_people_write_them(written: str, expected: str) -> None:
    assert written == expected
