"""Masked numbers and names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.masking import mask_name, mask_number


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
