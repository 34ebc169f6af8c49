"""Masking of numbers and names for display to others than their holder."""

from __future__ import annotations

import re

VISIBLE_DIGITS = 4
_WORD = re.compile(r"(\S)(\S*)")


def mask_number(number: str) -> str:
    """All but the last four digits hidden."""
    return "•" * max(len(number) - VISIBLE_DIGITS, 0) + number[-VISIBLE_DIGITS:]


def mask_name(name: str) -> str:
    """All but the first letter of each word hidden, in any script."""
    return _WORD.sub(lambda word: word[1] + "•" * len(word[2]), name)
