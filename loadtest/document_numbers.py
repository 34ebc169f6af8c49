"""Documents and phone numbers that belong to nobody: passports of Utopia, and an unused range.

ICAO Doc 9303 reserves the state code UTO for specimens, so a load test against a real registry
cannot name a person in it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

import numpy as np

STATE = "UTO"
BIRTH = "800101"
VALID_YEARS = 5
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TAG_LENGTH, SERIAL_LENGTH = 4, 5
NUMBERS = 1_000_000_000
_WEIGHTS = (7, 3, 1)


@dataclass(frozen=True, slots=True)
class Passport:
    """A passport; `zone` is the second line of its machine readable zone."""

    zone: str = field(repr=False)
    name: str = field(repr=False)

    def for_enrollment(self) -> dict[str, Any]:
        return {"type": "passport", "number": self.zone, "name": self.name, "expires_on": None}

    def for_query(self) -> dict[str, Any]:
        return {"type": "passport", "number": self.zone}


@dataclass(frozen=True, slots=True)
class SpecimenNumbers:
    """The documents and phone numbers of one run; runs with other tags have others.

    `tag` is four of 0-9 and A-Z; `first_number` is the run's first number in the range.
    """

    tag: str
    first_number: int
    year: int

    def passport(self, serial: int) -> Passport:
        assert serial < len(DIGITS) ** SERIAL_LENGTH
        number = self.tag + np.base_repr(serial, len(DIGITS)).zfill(SERIAL_LENGTH)
        return Passport(write_zone(number, self.year + VALID_YEARS), f"Utopian {serial}")

    def msisdn(self, serial: int) -> str:
        return f"+8613{(self.first_number + serial) % NUMBERS:09d}"


def make_numbers(year: int) -> SpecimenNumbers:
    """Numbers with a random tag: the gallery may hold documents of other runs."""
    tag = "".join(secrets.choice(DIGITS) for _ in range(TAG_LENGTH))
    return SpecimenNumbers(tag, secrets.randbelow(NUMBERS), year)


def write_zone(number: str, expiry_year: int) -> str:
    """The second line of a TD3 zone (ICAO Doc 9303-4) with all five check digits."""
    document = _with_digit(f"{number:<<9}")
    birth, expiry = _with_digit(BIRTH), _with_digit(f"{expiry_year % 100:02d}1231")
    personal = _with_digit("<" * 14)
    composite = check_digit(document + birth + expiry + personal)
    return f"{document}{STATE}{birth}<{expiry}{personal}{composite}"


def check_digit(text: str) -> int:
    """Weights 7, 3, 1, modulo 10; A is 10, `<` is 0 (9303-3, section 4.9)."""
    values = (0 if sign == "<" else int(sign, 36) for sign in text)
    return sum(value * _WEIGHTS[place % 3] for place, value in enumerate(values)) % 10


def _with_digit(text: str) -> str:
    return f"{text}{check_digit(text)}"
