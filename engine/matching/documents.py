"""Identity documents: form, check digits and expiry."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import field
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from stdnum import luhn, verhoeff
from stdnum.bg import egn, pnf
from stdnum.cn import ric
from stdnum.es import dni, nie
from stdnum.id import nik
from stdnum.kr import rrn
from stdnum.mx import curp
from stdnum.my import nric
from stdnum.th import pin
from stdnum.tr import tckimlik
from stdnum.util import clean
from stdnum.za import idnr

from engine.errors import RequestError
from schema import frozen
from schema.documents import (
    DOCUMENT_TYPES,
    MAX_NAME_LENGTH,
    MAX_NUMBER_LENGTH,
    PASSPORT,
    Document,
    compute_check_digit,
)
from schema.reasons import Reason

_LINE = re.compile(r"[A-Z0-9<]{44}")


@frozen
class PassportZone:
    """The second line of a TD3 zone (ICAO Doc 9303, parts 3 and 4).

    `identity` is nationality and number, one for each passport.
    """

    identity: str = field(repr=False)
    expires_on: date
    born_on: date | None = field(default=None, repr=False)


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
    expires_on, born_on = _read_expiry(line[21:27], on), _read_short_birth(line[13:19], on)
    return PassportZone(f"{nationality}:{number}", expires_on, born_on)


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


def _read_short_birth(text: str, on: date) -> date | None:
    """The date of birth of a zone, YYMMDD; None where it is not known in full."""
    try:
        found = datetime.strptime(text, "%y%m%d").date()  # noqa: DTZ007 - a date has no zone
    except ValueError:
        return None
    return _settle_century(found, on)


def _settle_century(born_on: date, on: date) -> date | None:
    """The latest year with these two digits that is not in the future: a number does not tell the
    century, and whoever takes a child of ten for a person of 110 asks no guardian."""
    for year in range(on.year, on.year - 200, -1):
        if year % 100 == born_on.year % 100:
            try:
                found = born_on.replace(year=year)
            except ValueError:  # the 29th of February
                continue
            if found <= on:
                return found
    return None


@frozen
class NumberRule:
    """The rule of one type's numbers, whenever they were given.

    Places are not looked up: a number keeps the code that its place had on the day on which it was
    given, and no list has them all. Sources and dates of these rules: docs/documents.md.
    """

    form: str
    has_check: Callable[[str], bool] | None = None
    """Whether the check digits are right; None where no check is published, or not any more."""
    read_birth: Callable[[str], date | None] | None = None
    """The date of birth, perhaps a century off; `ValueError` where it is no date."""
    is_short_year: bool = False
    """Two digits of the year of birth, and nothing that tells the century."""


def _has_resident_character(number: str) -> bool:
    """GB 11643. A card of before 2023 begins with letters: no check of its number is published."""
    return number[0].isalpha() or bool(ric.calc_check_digit(number) == number[-1])


def _read_resident_birth(number: str) -> date | None:
    return None if number[0].isalpha() else ric.get_birth_date(number)


def _ends_in_digit(rule: Any) -> Callable[[str], bool]:
    return lambda number: bool(rule.calc_check_digit(number) == number[-1])


_PERMIT = NumberRule("(?=(?:[A-Z]*[0-9]){4})[A-Z0-9]{8,16}")

NUMBER_RULES = {
    "cn-ric": NumberRule("[1-8][0-9]{16}[0-9X]", _has_resident_character, _read_resident_birth),
    "kr-rrn": NumberRule("[0-9]{6}[0-49][0-9]{6}", read_birth=rrn.get_birth_date),
    "th-pin": NumberRule("[1-8][0-9]{12}", _ends_in_digit(pin)),
    "id-nik": NumberRule(
        "[1-9][0-9]{5}[0-7][0-9]{9}", read_birth=nik.get_birth_date, is_short_year=True
    ),
    "my-nric": NumberRule("[0-9]{12}", read_birth=nric.get_birth_date, is_short_year=True),
    "in-aadhaar": NumberRule("[2-9][0-9]{11}", verhoeff.is_valid),
    "pk-cnic": NumberRule("[1-9][0-9]{12}"),
    "tr-tckimlik": NumberRule("[1-9][0-9]{10}", tckimlik.is_valid),
    "za-idnr": NumberRule(
        "[0-9]{10}[0-2][0-9]{2}", luhn.is_valid, idnr.get_birth_date, is_short_year=True
    ),
    "es-dni": NumberRule("[0-9]{8}[A-Z]", dni.is_valid),
    "bg-egn": NumberRule("[0-9]{10}", egn.is_valid, egn.get_birth_date),
    "es-nie": NumberRule("[XYZ][0-9]{7}[A-Z]", nie.is_valid),
    "bg-pnf": NumberRule("[0-9]{10}", pnf.is_valid),
    "kr-arc": NumberRule("[0-9]{6}[5-8][0-9]{6}", read_birth=rrn.get_birth_date),
    "th-nti": NumberRule("[03-8][0-9]{12}", _ends_in_digit(pin)),
    "id-kitas": _PERMIT,
    "id-kitap": _PERMIT,
    "cn-frp": NumberRule(
        "9[0-9]{16}[0-9X]|[A-Z]{3}[0-9]{12}", _has_resident_character, _read_resident_birth
    ),
    "mx-curp": NumberRule(
        "[A-Z]{4}[0-9]{6}[HMX][A-Z]{5}[0-9A-Z][0-9]", _ends_in_digit(curp), curp.get_birth_date
    ),
    "vn-cccd": NumberRule("0[0-9]{2}[0-3][0-9]{8}"),
    "ng-nin": NumberRule("[0-9]{11}"),
    "gh-card": NumberRule("[A-Z]{3}[0-9]{10}"),
    "bd-nid": NumberRule("[0-9]{10}|[0-9]{13}|[0-9]{17}"),
    "tz-nin": NumberRule("[0-9]{20}", read_birth=lambda number: date.fromisoformat(number[:8])),
    "co-cc": NumberRule("[1-9][0-9]{2,9}"),
}


class CheckedDocument(Document, frozen=True):
    """A document in its canonical form, and what is wrong with it.

    `number` is the same for every way of writing one document. `findings` is empty for a sound
    document; with `DOCUMENT_INVALID` in it the number identifies nobody. `born_on` is what the
    number or the zone tells, else what was given.
    """

    findings: tuple[Reason, ...] = ()

    @property
    def is_well_formed(self) -> bool:
        return Reason.DOCUMENT_INVALID not in self.findings


DEFAULT_TIME_ZONE = "UTC"


def find_date(moment: datetime, time_zone: str) -> date:
    """The date in a time zone at a moment; `RequestError` where it is no IANA name."""
    return moment.astimezone(find_time_zone(time_zone)).date()


def find_time_zone(name: str) -> ZoneInfo:
    """The time zone of an IANA name; `RequestError` where there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise RequestError(
            "there is no such time zone: give its IANA name, as Asia/Shanghai"
        ) from None


def normalise_name(name: str) -> str:
    """One spelling for one name: NFKC, no punctuation, single spaces, case folded."""
    text = unicodedata.normalize("NFKC", name).casefold()
    text = "".join(" " if unicodedata.category(sign)[0] in "PZC" else sign for sign in text)
    return " ".join(text.split())


def require_checkable(document: Document) -> None:
    """Refuses what cannot be judged at all: an unknown type, no name, an endless number."""
    if document.type not in DOCUMENT_TYPES:
        known = ", ".join(DOCUMENT_TYPES)
        # The type is not repeated: who swaps two options has put a number there.
        raise RequestError(f"unknown document type: use one of {known}")
    if not normalise_name(document.name) or len(document.name) > MAX_NAME_LENGTH:
        raise RequestError("the name is empty or too long: give it as it stands on the document")
    if not document.number.strip() or len(document.number) > MAX_NUMBER_LENGTH:
        raise RequestError("the document number is empty or too long: give it as it is printed")


def check_document(document: Document, on: date) -> CheckedDocument:
    """Checks form and check digits first, then expiry, of a document that `require_checkable`
    accepts."""
    name = normalise_name(document.name)
    number, expires_on = document.number.strip(), document.expires_on
    told: date | None = None
    try:
        if document.type == PASSPORT:
            zone = read_passport(number, on)
            number, expires_on, told = zone.identity, zone.expires_on, zone.born_on
        else:
            rule = NUMBER_RULES[document.type]
            compact = "".join(clean(number, "-./*").split()).upper()
            if not re.fullmatch(rule.form, compact) or (
                rule.has_check and not rule.has_check(compact)
            ):
                raise ValueError("not a number of this type")
            number = compact
            told = find_birth(document.type, number, on)
    except ValueError:
        findings: tuple[Reason, ...] = (Reason.DOCUMENT_INVALID,)
        # What identifies nobody still needs one spelling, for the payload digest.
        number = re.sub(r"\s+", " ", number)
    else:
        is_expired = expires_on is not None and expires_on < on
        findings = (Reason.DOCUMENT_EXPIRED,) if is_expired else ()
        if _contradicts(document.born_on, told, on):
            findings = (*findings, Reason.BIRTH_DATE_MISMATCH)
    born_on = document.born_on if told is None else told
    return CheckedDocument(document.type, number, name, expires_on, born_on, findings)


def require_unnamed(reason: str, document: Document, on: date) -> None:
    """`RequestError` for a reason that has the document's number in it, however it is typed: it
    stays in the audit chain. `require_checkable` accepts the document."""
    number = check_document(document, on).number.rpartition(":")[2]
    if _squeeze(number) in _squeeze(reason):
        raise RequestError("the reason stays in the audit chain: write it without the number")


def _squeeze(text: str) -> str:
    """Letters and digits alone, the digits of any script as ours."""
    signs = unicodedata.normalize("NFKC", text).casefold()
    return "".join(str(unicodedata.decimal(one, one)) for one in signs if one.isalnum())


OLDEST_YEARS = 130


def _contradicts(given: date | None, told: date | None, on: date) -> bool:
    """True where a date of birth is another than the document tells, or nobody's who lives."""
    if given is None:
        return False
    if told is not None:
        return given != told
    return not 0 <= on.year - given.year <= OLDEST_YEARS or given > on


def find_age(born_on: date, on: date) -> int:
    """Whole years: who was born on the 29th of February is a year older on the 1st of March."""
    return on.year - born_on.year - ((on.month, on.day) < (born_on.month, born_on.day))


def find_minor(born_on: date | None, on: date | None, majority: int) -> bool | None:
    """Whether somebody is a minor; None where no age is asked for, or it is not known."""
    if not majority or born_on is None or on is None:
        return None
    return find_age(born_on, on) < majority


def find_birth(document_type: str, number: str, on: date) -> date | None:
    """The date of birth that a number tells; of two digits of a year, the latest year not in the
    future. None where it tells none, `ValueError` where nobody can have been born then."""
    rule = NUMBER_RULES[document_type]
    born_on = rule.read_birth(number) if rule.read_birth else None
    if born_on is not None and rule.is_short_year:
        return _settle_century(born_on, on)
    if born_on is not None and born_on > on:
        raise ValueError("a date of birth to come")
    return born_on


_SERIAL = re.compile(r"([A-Z]{2,3}):([A-Z]{0,3})([0-9]{6,12})")


def read_birth(document_type: str, number: str) -> date | None:
    """The date of birth that a national number tells, in its canonical form; None where it tells
    none. It may be a century off: see `find_birth`."""
    rule = NUMBER_RULES.get(document_type)
    try:
        return rule.read_birth(number) if rule and rule.read_birth else None
    except ValueError:
        return None


def read_serial(document_type: str, number: str) -> tuple[str, int] | None:
    """The series and the number in it of a passport in its canonical form; None of others.

    Numbers of passports are given out in series, and tell nothing of their holder. A national
    number tells birth, sex or birthplace instead, so its digits are not compared.
    """
    found = _SERIAL.fullmatch(number) if document_type == PASSPORT else None
    return (f"{found[1]}:{found[2]}:{len(found[3])}", int(found[3])) if found else None
