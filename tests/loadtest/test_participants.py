"""Scores of fused photographs follow from the cosines of single ones."""

from datetime import date

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.matching.documents import check_document, read_passport
from engine.matching.requests import normalise_msisdn
from loadtest.participants import ALONE, DIGITS, SERIAL_LENGTH, SpecimenNumbers, fuse_both


@given(seed=st.integers(0, 2**32 - 1))
def test_the_mean_of_two_photographs_scores_what_is_predicted(seed: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((4, 16))
    a, b, c, d = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    one, two = a + b, c + d
    one, two = one / np.linalg.norm(one), two / np.linalg.norm(two)
    cross = a @ c + a @ d + b @ c + b @ d
    assert np.isclose(fuse_both(cross, a @ b, c @ d), one @ two)
    assert np.isclose(fuse_both(c @ a + c @ b, ALONE, a @ b), c @ one)
    # Exchanged photographs have the same mean.
    assert np.isclose(fuse_both(2 + 2 * (a @ b), a @ b, b @ a), 1)


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
