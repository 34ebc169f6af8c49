from __future__ import annotations

from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from engine.matching.documents import Document, FormAuthority, check_documents
from serving.demo.crowd import forge_document, make_document

ON = date(2026, 11, 24)


def is_well_formed(document: Document) -> bool:
    return check_documents([document], FormAuthority(), ON)[0].is_well_formed


@given(st.integers(0, 10_000_009))
def test_made_documents_are_well_formed_and_forged_ones_are_not(serial: int) -> None:
    assert is_well_formed(make_document(serial, "Synthetic"))
    assert not is_well_formed(forge_document(serial, "Synthetic"))


@given(st.sets(st.integers(0, 10_000_009), min_size=2, max_size=50))
def test_no_two_serials_share_a_number(serials: set[int]) -> None:
    assert len({make_document(serial, "Synthetic").number for serial in serials}) == len(serials)


@given(st.integers(0, 10_000_009))
def test_no_number_can_be_a_living_persons(serial: int) -> None:
    assert int(make_document(serial, "Synthetic").number[6:10]) < 1850
