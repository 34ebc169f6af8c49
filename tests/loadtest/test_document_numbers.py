"""Documents of a load test are valid, belong to nobody, and differ."""

from datetime import date

from engine.matching.documents import check_document, read_passport
from engine.matching.requests import normalise_msisdn
from loadtest.participants import DIGITS, SERIAL_LENGTH, SpecimenNumbers

TODAY = date(2026, 11, 25)
MOST_SERIALS = len(DIGITS) ** SERIAL_LENGTH
SPECIMENS = SpecimenNumbers("9XZA", 999_999_990, TODAY.year)


def test_every_document_is_a_valid_passport_of_utopia() -> None:
    serials = [0, 1, 35, 36, 12_345, MOST_SERIALS - 1]
    documents = [SPECIMENS.passport(serial) for serial in serials]
    checked = [check_document(one, TODAY) for one in documents]
    assert [one.findings for one in checked] == [()] * len(serials)
    assert len({one.number for one in checked}) == len(serials)
    assert all(read_passport(one.number, TODAY).identity.startswith("UTO:") for one in documents)


def test_phone_numbers_are_valid_and_different_even_past_the_end_of_the_range() -> None:
    numbers = [SPECIMENS.msisdn(serial) for serial in range(20)]
    assert len(set(numbers)) == 20
    assert [normalise_msisdn(one) for one in numbers] == numbers


def test_no_repr_shows_a_document() -> None:
    assert "9XZA" not in repr(SPECIMENS.passport(3))
