"""Holds: what an open case needs is erased when it is closed, or when its time has come."""

from datetime import timedelta
from typing import Any

import pytest

from engine.cases.steps import close
from engine.errors import CaseMoved, NotFound, TenantConflict
from engine.matching.holders import (
    ErasureCertificate,
    PendingErasure,
    erase_holder,
    list_pending,
    read_erasure,
)
from engine.registry.damage import find_damage
from schema.cases import NoteKind, Outcome
from schema.reasons import Decision, Reason
from tests.engine.cases.conftest import BOB
from tests.engine.matching.conftest import NOW

MONTH = timedelta(days=30)


def erase(service: Any, document_id: str, carrier: str | None = None, **more: Any) -> Any:
    hold = more.pop("hold", MONTH)
    return erase_holder(*service.context, document_id, "key:asker", carrier, hold)


def test_an_erasure_waits_for_the_case_is_told_and_done_when_it_is_closed(service: Any) -> None:
    person, request = service.lab.newcomer()
    (answer,) = service.registrar.enroll([request])
    document_id = answer.decided.document_id
    case = service.open(document_id)
    pending = erase(service, document_id, "blue")
    assert pending == PendingErasure(document_id, pending.asked_at, NOW + MONTH, (case.id,))
    # Asked again, by whomever: the same time, and one entry in the case's history.
    again = erase(service, document_id, hold=10 * MONTH)
    assert again == pending
    with pytest.raises(NotFound):
        erase(service, document_id, "red")
    told = [one.text for one in service.store.cases.notes(case.id) if "erasure" in one.kind]
    assert told == [(NOW + MONTH).isoformat()]
    # Read before the erasure was asked for: to be read again, before it is decided.
    with pytest.raises(CaseMoved):
        close(*service.context, case.id, Outcome.UNFOUNDED, (), BOB, seen_at=case.updated_at)
    # The face is searched still, and nothing comes to the document.
    other = service.lab.request(person)
    same = service.lab.request(person, document=request.document)
    duplicate, refused = service.registrar.enroll([other, same])
    assert duplicate.reasons == (Reason.DUPLICATE_IDENTITY,)
    assert refused.decision is Decision.REJECTED
    assert refused.reasons == (Reason.ERASURE_PENDING,)
    assert find_damage(service.store) == []
    service.decide(case.id, Outcome.UNFOUNDED)
    held_by = service.store.cases.open_of([document_id])[document_id]
    for one in held_by:
        service.decide(one.id, Outcome.UNFOUNDED)
    assert list_pending(service.store) == [
        PendingErasure(document_id, pending.asked_at, pending.due_at, ())
    ]
    done = erase(service, document_id)
    assert isinstance(done, ErasureCertificate)
    state = read_erasure(service.store, document_id, "blue")
    assert (state.state, state.due_at, state.certificate) == ("done", None, done)
    assert list_pending(service.store) == []
    assert find_damage(service.store) == []


def test_when_its_time_has_come_an_erasure_is_done_and_the_open_case_says_so(service: Any) -> None:
    document_id, kept = (one.document_id for one in service.enroll(2))
    case = service.open(document_id, kept)
    assert isinstance(erase(service, document_id, hold=timedelta()), ErasureCertificate)
    last = service.store.cases.notes(case.id)[-1]
    assert (last.kind, last.text) == (NoteKind.ERASED, document_id)
    assert service.store.cases.get(case.id).updated_at > case.updated_at
    assert service.store.documents_by_id([document_id])[document_id].is_erased
    assert not service.store.documents_by_id([kept])[kept].is_erased


def test_no_carrier_asks_alone_for_what_is_of_two(service: Any) -> None:
    person, request = service.lab.newcomer()
    changes = {"document": request.document, "carrier": "red", "outlet": "red-1"}
    first, _ = service.registrar.enroll([request, service.lab.request(person, **changes)])
    document_id = first.decided.document_id
    service.open(document_id)
    for carrier in ("blue", "red"):
        with pytest.raises(TenantConflict):
            erase(service, document_id, carrier)
        with pytest.raises(TenantConflict):
            read_erasure(service.store, document_id, carrier)
    assert read_erasure(service.store, document_id).state == "none"
