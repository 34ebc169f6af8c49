"""How a telephone number is shown to whom it does not belong."""

from __future__ import annotations

VISIBLE_DIGITS = 4


def mask_number(number: str) -> str:
    """All but the last four digits hidden."""
    return "•" * max(len(number) - VISIBLE_DIGITS, 0) + number[-VISIBLE_DIGITS:]
