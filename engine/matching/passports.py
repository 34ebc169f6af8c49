"""The machine readable zone of a passport: ICAO Doc 9303 parts 3 and 4, format TD3."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date

_LINE = re.compile(r"[A-Z0-9<]{44}")
_WEIGHTS = (7, 3, 1)


@dataclass(frozen=True, slots=True)
class PassportZone:
    """What the second line says; `identity` is nationality and number, one for each passport."""

    identity: str = field(repr=False)
    expires_on: date


def compute_check_digit(text: str) -> int:
    """The check digit of 9303-3, section 4.9: weights 7 3 1, modulo 10; A is 10, `<` is 0."""
    values = (0 if sign == "<" else int(sign, 36) for sign in text)
    return sum(value * _WEIGHTS[place % 3] for place, value in enumerate(values)) % 10


def read_passport(text: str, on: date) -> PassportZone:
    """Reads a TD3 zone (its second line, or both) and verifies all five check digits.

    The date of birth may be unknown, in part or whole (`<`). Raises `ValueError` for anything
    that a passport's zone cannot be.
    """
    lines = [line.strip().upper() for line in text.replace(" ", "\n").splitlines() if line.strip()]
    if len(lines) not in (1, 2) or not all(_LINE.fullmatch(line) for line in lines):
        raise ValueError("not a TD3 machine readable zone")
    line = lines[-1]
    if len(lines) == 2 and not lines[0].startswith("P"):
        raise ValueError("not a passport")
    fields = [(line[0:9], line[9]), (line[13:19], line[19]), (line[21:27], line[27])]
    fields.append((line[0:10] + line[13:20] + line[21:43], line[43]))
    if not all(_has_digit(value, digit) for value, digit in fields):
        raise ValueError("wrong check digit")
    personal, digit = line[28:42], line[42]
    # An empty personal number may carry `<` in the place of its check digit.
    if not _has_digit(personal, digit) and not (digit == "<" and not personal.strip("<")):
        raise ValueError("wrong check digit")
    nationality, number = line[10:13].strip("<"), line[0:9].strip("<")
    return PassportZone(f"{nationality}:{number}", _read_expiry(line[21:27], on))


def _has_digit(value: str, digit: str) -> bool:
    return digit.isascii() and digit.isdigit() and compute_check_digit(value) == int(digit)


def _read_expiry(text: str, on: date) -> date:
    """YYMMDD; no passport is valid for twenty years, so a later date is of the last century."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError("not a date")
    year = 2000 + int(text[:2])
    if year > on.year + 20:
        year -= 100
    return date(year, int(text[2:4]), int(text[4:6]))
