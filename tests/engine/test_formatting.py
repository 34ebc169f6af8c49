import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.formatting import (
    count,
    duration,
    fixed,
    mask_name,
    mask_number,
    number,
    percent,
    plural,
    power,
    size,
    span,
    with_interval,
)


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
        (percent(0.42, 0), "42 %"),
        (percent(0), "0 %"),
        (percent(1e-7), "1e-5 %"),
        (percent(0.006), "0.60 %"),
        (percent(0.127), "13 %"),
        (percent(0.997), "99.7 %"),
        (percent(0.99999), "99.9 %"),
        (percent(1), "100 %"),
        (span(0.006, 0.127), "0.60 \u2013 13 %"),
        (count(1234), "1,234"),
        (count(1234.5), "1,200"),
        (count(1_234_567.8), "1.2 million"),
        (count(0.0), "0"),
        (count(0.51), "0.51"),
        (count(0.00012), "1.2e-4"),
        (count(4.9e11), "4.9e11"),
        (count(490 * 10**9), "490,000,000,000"),
        (plural(1, "line"), "1 line"),
        (plural(1200, "identity", "identities"), "1,200 identities"),
        (power(1e-4), "1e-4"),
        (size(657), "657 bytes"),
        (size(25_276_502_016), "23.5 GiB"),
        (size(3 * 2**40), "3 TiB"),
        (size(1010 * 2**20), "1,010 MiB"),
        (size(1.5 * 2**40), "1.5 TiB"),
        (with_interval(1.234, 0.5, 2.0), "1.2 (0.5 to 2)"),
        (with_interval(5.0, 0.0, 5.0, is_bound=True), "at most 5"),
        (with_interval(0.25, 0.1, 0.5, level="95 %: "), "0.25 (95 %: 0.1 to 0.5)"),
        (with_interval(0.25, 0.1, 0.5, write="{:.0%}".format), "25% (10% to 50%)"),
        (duration(0), "0 s"),
        (duration(9.2e-9), "9.2 ns"),
        (duration(0.678e-3), "0.678 ms"),
        (duration(14.24), "14.2 s"),
        (duration(150), "2 min 30 s"),
        (duration(9_000), "2 h 30 min"),
    ],
)
def test_numbers_are_written_as_people_write_them(written: str, expected: str) -> None:
    assert written == expected


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Aileen Probe", "A••••• P••••"),
        ("张伟", "张•"),
        ("O", "O"),
        ("שלום עולם", "ש••• ע•••"),
        ("  a\tbc ", "  a\tb• "),
        ("", ""),
    ],
)
def test_of_a_name_the_first_letter_of_each_word_is_shown(name: str, shown: str) -> None:
    assert mask_name(name) == shown


@given(st.text())
def test_a_masked_name_has_the_length_and_no_more_letters_than_words(name: str) -> None:
    shown = mask_name(name)
    assert len(shown) == len(name)
    letters = [sign for sign in shown if not sign.isspace() and sign != "•"]
    assert len(letters) <= len(name.split())


def test_of_a_number_the_last_four_digits_are_shown() -> None:
    assert mask_number("+8613800138000") == "••••••••••8000"
    assert mask_number("123") == "123"
