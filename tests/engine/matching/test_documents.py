from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from engine.errors import RequestError
from engine.matching.documents import (
    check_document,
    find_age,
    normalise_name,
    read_passport,
    require_checkable,
    require_unnamed,
)
from schema.documents import DOCUMENT_TYPES, Document, compute_check_digit
from schema.reasons import Reason

TODAY = date(2026, 11, 24)
ICAO_SPECIMEN = "L898902C36UTO7408122F1204159ZE184226B<<<<<10"
"""The specimen of ICAO Doc 9303-4, Appendix B; its passport expired on 15 April 2012."""


def check(document: Document) -> tuple[Reason, ...]:
    return check_document(document, TODAY).findings


@pytest.mark.parametrize(
    ("document_type", "number", "born_on"),
    [
        ("cn-ric", "11010519491231002X", date(1949, 12, 31)),
        ("id-nik", "3171015708100001", date(2010, 8, 17)),
        ("passport", ICAO_SPECIMEN, date(1974, 8, 12)),
        ("th-pin", "1234545678781", None),
    ],
)
def test_a_date_of_birth_is_the_one_in_the_number(
    document_type: str, number: str, born_on: date | None
) -> None:
    given = Document(document_type, number, "A Name")
    assert check_document(given, TODAY).born_on == born_on
    other = date(1960, 1, 1)
    checked = check_document(structs.replace(given, born_on=other), TODAY)
    contradicts = born_on is not None
    assert (Reason.BIRTH_DATE_MISMATCH in checked.findings) == contradicts
    assert checked.born_on == (born_on if contradicts else other)
    assert str(other) not in repr(checked)


def test_a_date_of_birth_that_nobody_living_has_is_a_contradiction() -> None:
    for born_on in (date(2026, 11, 25), date(1890, 1, 1)):
        document = Document("th-pin", "1234545678781", "A Name", born_on=born_on)
        assert check(document) == (Reason.BIRTH_DATE_MISMATCH,)


def test_an_age_is_in_whole_years() -> None:
    assert find_age(date(2009, 11, 25), TODAY) == 16
    assert find_age(date(2009, 11, 24), TODAY) == 17
    assert find_age(date(2008, 2, 29), date(2025, 2, 28)) == 16
    assert find_age(date(2008, 2, 29), date(2025, 3, 1)) == 17


def test_a_passport_is_read_from_its_second_line_or_both() -> None:
    first_line = "P<UTOERIKSSON<<ANNA<MARIA<<<<<<<<<<<<<<<<<<<"
    one = read_passport(ICAO_SPECIMEN, TODAY)
    both = read_passport(f"{first_line}\n{ICAO_SPECIMEN.lower()}", TODAY)
    assert one == both
    assert one.identity == "UTO:L898902C3"
    assert one.expires_on == date(2012, 4, 15)


@pytest.mark.parametrize("place", [0, 9, 14, 19, 22, 27, 29, 42, 43])
def test_any_altered_field_of_a_passport_is_invalid(place: int) -> None:
    sign = "7" if ICAO_SPECIMEN[place] != "7" else "8"
    altered = ICAO_SPECIMEN[:place] + sign + ICAO_SPECIMEN[place + 1 :]
    assert check(Document("passport", altered, "A Name")) == (Reason.DOCUMENT_INVALID,)


@given(st.text(max_size=100))
def test_whatever_is_typed_as_a_number_is_a_finding_and_never_a_crash(text) -> None:
    for document_type in DOCUMENT_TYPES:
        findings = check(Document(document_type, text, "A Name"))
        assert set(findings) <= {Reason.DOCUMENT_INVALID, Reason.DOCUMENT_EXPIRED}


def passport_line(birth: str, expiry: str) -> str:
    """A second line of TD3 with right check digits."""

    def checked(text: str) -> str:
        return f"{text}{compute_check_digit(text)}"

    number, birth, expiry = checked("L898902C3"), checked(birth), checked(expiry)
    personal = checked("<" * 14)
    whole = number + birth + expiry + personal
    return f"{number}UTO{birth}F{expiry}{personal}{compute_check_digit(whole)}"


@pytest.mark.parametrize(
    ("birth", "expiry", "is_expired"),
    [
        # May be left unknown.
        ("74<<<<", "300101", False),
        ("<<<<<<", "300101", False),
        ("740812", "991231", True),
        ("740812", "261123", True),
        ("740812", "261124", False),
        ("740812", "361124", False),
    ],
)
def test_dates_of_a_passport_are_read_in_the_century_that_they_can_be_of(
    birth: str, expiry: str, is_expired: bool
) -> None:
    document = Document("passport", passport_line(birth, expiry), "A Name")
    assert check(document) == ((Reason.DOCUMENT_EXPIRED,) if is_expired else ())


@pytest.mark.parametrize(
    ("kind", "number", "reason"),
    [
        ("cn-ric", "110105199003071239", "card 110105 19900307 123-9"),
        ("cn-ric", "11010519491231002X", "\uff11\uff110105 1949.12.31/002x asked"),
        ("th-pin", "1 2345 45678 78 1", "๑๒๓๔๕๔๕๖๗๘๗๘๑"),
        ("passport", ICAO_SPECIMEN, "passport L 898902C\u200b3 is at hand"),
    ],
)
def test_a_reason_names_no_document_however_typed(kind: str, number: str, reason: str) -> None:
    document = Document(kind, number, "A Name")
    with pytest.raises(RequestError, match="without the number"):
        require_unnamed(reason, document, TODAY)
    require_unnamed("asked for in person, ticket 110105", document, TODAY)


def test_an_expiry_given_beside_a_national_number_counts() -> None:
    document = Document("cn-ric", "11010519491231002X", "A Name", expires_on=date(2026, 11, 23))
    assert check(document) == (Reason.DOCUMENT_EXPIRED,)


def test_names_compare_without_case_width_spacing_and_punctuation() -> None:
    assert normalise_name("  O'Neil-Smith,  \uff21\uff2e\uff2e\uff21 ") == normalise_name(
        "o neil smith anna"
    )
    assert normalise_name("王 小明") == "王 小明"
    assert normalise_name("Anna") != normalise_name("Anne")


@pytest.mark.parametrize(
    "document",
    [
        Document("library-card", "1", "A Name"),
        Document("11010519491231002X", "cn-ric", "A Name"),
        Document("cn-ric", "11010519491231002X", " - "),
        Document("cn-ric", "11010519491231002X", "x" * 201),
        Document("cn-ric", "", "A Name"),
        Document("cn-ric", "1" * 101, "A Name"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line_without_a_number(document: Document) -> None:
    with pytest.raises(RequestError, match=r"\A(?!.*1101).*\Z"):
        require_checkable(document)


def test_a_document_shows_neither_number_nor_name() -> None:
    shown = repr(Document("cn-ric", "11010519491231002X", "Anna Eriksson"))
    assert "1101" not in shown
    assert "Eriksson" not in shown
