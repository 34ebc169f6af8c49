"""Disputed lines, and lines that are closed: by number or by id."""

from typing import Any

import pytest

from engine.errors import HolderMismatch, NotFound, RequestError
from engine.matching.holders import erase_holder
from engine.matching.lines import OpenedDispute, close_line, dispute_line
from engine.registry.audit import verify_chain
from engine.registry.database import new_id
from schema.lines import LineStatus
from schema.reasons import Reason
from tests.engine.matching.conftest import guard_of
from tests.engine.records import newest_cases

THRESHOLD = 0.42


def dispute(lab: Any, registrar: Any, text: str, document: Any, probe: Any) -> OpenedDispute:
    """A dispute in the registry of `lab`, which may be a deployment too."""
    guard = guard_of(lab.store, registrar)
    return dispute_line(registrar, lab.store, text, document, probe, THRESHOLD, guard)


def line_of(lab: Any, line_id: str) -> Any:
    return lab.store.lines_by_id([line_id])[line_id]


def test_a_holder_disputes_a_line_and_a_case_is_open(lab, registrar) -> None:
    person, request, held = lab.holder(registrar)
    made = dispute(lab, registrar, request.msisdn, request.document, person)
    line = line_of(lab, made.line_id)
    assert (line.status, line.closed_at) == (LineStatus.DISPUTED, None)
    (case,) = newest_cases(lab.store.cases)
    assert (case.id, case.kind, case.line_id) == (made.case_id, "dispute", line.id)
    assert case.enrollment_id == held.enrollment_id
    assert case.document_ids == (held.document_id,)
    assert case.opened_at == made.opened_at
    (entry,) = lab.entries("line.disputed")
    assert (entry.actor, entry.subject) == ("key:k1", line.id)
    assert entry.detail["case"] == case.id
    assert verify_chain(lab.store).intact


def test_disputed_again_by_number_or_id_it_is_the_same_case(lab, registrar) -> None:
    person, request, held = lab.holder(registrar)
    line_id = held.line_id
    made = [
        dispute(lab, registrar, text, request.document, person)
        for text in (line_id, request.msisdn, line_id)
    ]
    assert made[1:] == made[:1] * 2
    assert len(newest_cases(lab.store.cases)) == 1
    assert len(lab.entries("line.disputed")) == 1
    read = [(one.actor, one.subject, one.detail) for one in lab.entries("line.dispute_read")]
    assert read == [("key:k1", line_id, {"case": made[0].case_id})] * 2


def test_a_disputed_line_is_in_use_counts_and_can_be_closed(lab, registrar) -> None:
    person, request, held = lab.holder(registrar)
    line_id = dispute(lab, registrar, request.msisdn, request.document, person).line_id
    taken = registrar.enroll([lab.request(msisdn=request.msisdn)])[0]
    assert taken.reasons == (Reason.LINE_IN_USE,)
    assert lab.store.open_line_counts([held.document_id]) == {(held.document_id, "blue"): 1}
    assert close_line(registrar, lab.store, request.msisdn, "test") == line_id
    with pytest.raises(NotFound):
        dispute(lab, registrar, line_id, request.document, person)
    freed = registrar.enroll([lab.request(msisdn=request.msisdn)])[0]
    assert freed.decision.value == "approved"
    assert line_of(lab, line_id).status is LineStatus.CLOSED


def test_lines_of_every_carrier_can_be_disputed_by_their_holder(lab, registrar) -> None:
    person = lab.people.person()
    first = lab.request(person)
    second = lab.request(person, document=first.document, carrier="red", outlet="red-1")
    registrar.enroll([first, second])
    made = [dispute(lab, registrar, one.msisdn, first.document, person) for one in (first, second)]
    assert {line_of(lab, one.line_id).carrier for one in made} == {"blue", "red"}
    assert len(newest_cases(lab.store.cases)) == 2


def test_another_face_disputes_nothing_and_the_attempt_is_audited(lab, registrar) -> None:
    (_, request, held), stranger = lab.holder(registrar), lab.people.person()
    document_id = held.document_id
    reference = registrar.gallery.vectors(registrar.gallery.ids)[0]
    alike = lab.people.between(reference, THRESHOLD - 0.001)
    for face in (stranger, alike):
        with pytest.raises(HolderMismatch):
            dispute(lab, registrar, request.msisdn, request.document, face)
    # Nor does it learn which numbers stand under the document.
    with pytest.raises(HolderMismatch):
        dispute(lab, registrar, "+8613900000000", request.document, stranger)
    assert newest_cases(lab.store.cases) == []
    (line,) = lab.store.lines_of(document_id)
    assert line.status is LineStatus.ACTIVE
    refused = lab.entries("line.dispute_refused")
    assert [(one.actor, one.subject) for one in refused] == [("key:k1", document_id)] * 3
    assert {one.detail["cause"] for one in refused} == {"holder_mismatch"}


def test_a_document_that_nobody_holds_is_refused_like_another_face(lab, registrar) -> None:
    held, erased, unknown = (lab.request() for _ in range(3))
    stranger = lab.people.person()
    said = set()
    registrar.enroll([held, erased])
    erase_holder(registrar, lab.store, erased.document, "test")
    for document in (held.document, erased.document, unknown.document):
        with pytest.raises(HolderMismatch) as caught:
            dispute(lab, registrar, held.msisdn, document, stranger)
        said.add(str(caught.value))
    assert len(said) == 1
    refused = lab.entries("line.dispute_refused")
    assert [one.detail["cause"] for one in refused] == [
        "holder_mismatch",
        "document_unknown",
        "document_unknown",
    ]


def test_a_line_under_another_document_or_none_is_not_found(lab, registrar) -> None:
    person, mine, _ = lab.holder(registrar)
    _, theirs, held = lab.holder(registrar)
    foreign = held.line_id
    texts = (theirs.msisdn, foreign, new_id(), "+8613900000000")
    said = set()
    for text in texts:
        with pytest.raises(NotFound) as caught:
            dispute(lab, registrar, text, mine.document, person)
        said.add(str(caught.value))
    assert len(said) == 1
    assert newest_cases(lab.store.cases) == []
    assert line_of(lab, foreign).status is LineStatus.ACTIVE
    assert len(lab.entries("line.dispute_refused")) == len(texts)


@pytest.mark.parametrize("text", ["", "12", "no number", "x" * 100_000, "\udcff", "a\0"])
def test_a_text_that_is_no_line_is_refused_before_anything_is_looked_up(
    lab, registrar, text: str
) -> None:
    before = lab.store.audit_head()
    with pytest.raises(RequestError) as disputed:
        dispute(lab, registrar, text, lab.request().document, lab.people.person())
    with pytest.raises(RequestError) as closed:
        close_line(registrar, lab.store, text, "test")
    assert not isinstance(disputed.value, NotFound)
    assert not isinstance(closed.value, NotFound)
    assert lab.store.audit_head() == before


def test_a_line_is_closed_by_its_id_and_for_its_own_carrier_alone(lab, registrar) -> None:
    _, request, held = lab.holder(registrar)
    line_id = held.line_id
    said = set()
    for text, carrier in ((line_id, "red"), (request.msisdn, "red"), (new_id(), "blue")):
        with pytest.raises(NotFound) as caught:
            close_line(registrar, lab.store, text, "test", carrier=carrier)
        said.add(str(caught.value))
    assert line_of(lab, line_id).status is LineStatus.ACTIVE
    assert close_line(registrar, lab.store, line_id, "test", carrier="blue") == line_id
    with pytest.raises(NotFound):
        close_line(registrar, lab.store, line_id, "test")
    assert len(said) == 1
    assert len(lab.entries("line.closed")) == 1


def test_an_erased_holder_leaves_the_case_without_a_number(lab, registrar) -> None:
    person, request, _ = lab.holder(registrar)
    made = dispute(lab, registrar, request.msisdn, request.document, person)
    erase_holder(registrar, lab.store, request.document, "test")
    with pytest.raises(HolderMismatch):
        dispute(lab, registrar, made.line_id, request.document, person)
    assert [case.line_id for case in newest_cases(lab.store.cases)] == [made.line_id]
    assert lab.store.numbers([made.line_id]) == {}
