"""Documents and numbers that are nobody's: passports of Utopia, lines of a range in no use.

ICAO Doc 9303 keeps the state UTO for its specimens, so a load test that meets a real registry
cannot name a person in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

STATE = "UTO"
BIRTH = "800101"
VALID_YEARS = 5
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TAG_LENGTH, SERIAL_LENGTH = 4, 5
NUMBERS = 1_000_000_000
_WEIGHTS = (7, 3, 1)


@dataclass(frozen=True, slots=True)
class Paper:
    """A passport as an outlet sends it; `zone` is the second line of its machine readable zone."""

    zone: str = field(repr=False)
    name: str = field(repr=False)

    def present(self) -> dict[str, Any]:
        """For an enrollment."""
        return {"type": "passport", "number": self.zone, "name": self.name, "expires_on": None}

    def look_up(self) -> dict[str, Any]:
        """For a query."""
        return {"type": "passport", "number": self.zone}


@dataclass(frozen=True, slots=True)
class Papers:
    """All documents and numbers of one run; runs with other tags have others.

    `tag` is four of 0-9 and A-Z; `first_number` is the run's first number in the range.
    """

    tag: str
    first_number: int
    year: int

    def paper(self, serial: int) -> Paper:
        number = self.tag + write_base36(serial, SERIAL_LENGTH)
        return Paper(write_zone(number, self.year + VALID_YEARS), f"Utopian {serial}")

    def msisdn(self, serial: int) -> str:
        return f"+8613{(self.first_number + serial) % NUMBERS:09d}"


def write_base36(value: int, length: int) -> str:
    """Its digits, with zeros before them."""
    text = ""
    for _ in range(length):
        value, digit = divmod(value, len(DIGITS))
        text = DIGITS[digit] + text
    if value:
        raise OverflowError("a number of that length has no place for the value")
    return text


def write_zone(number: str, expiry_year: int) -> str:
    """The second line of a TD3 zone (ICAO Doc 9303-4) with all five check digits."""
    document = _with_digit(f"{number:<<9}")
    birth, expiry = _with_digit(BIRTH), _with_digit(f"{expiry_year % 100:02d}1231")
    personal = _with_digit("<" * 14)
    composite = check_digit(document + birth + expiry + personal)
    return f"{document}{STATE}{birth}<{expiry}{personal}{composite}"


def check_digit(text: str) -> int:
    """Weights 7, 3, 1, modulo 10; A is 10, `<` is 0 (9303-3, section 4.9)."""
    values = (0 if sign == "<" else DIGITS.index(sign) for sign in text)
    return sum(value * _WEIGHTS[place % 3] for place, value in enumerate(values)) % 10


def _with_digit(text: str) -> str:
    return f"{text}{check_digit(text)}"
