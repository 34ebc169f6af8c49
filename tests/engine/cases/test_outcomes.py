"""What outcomes bring about: who is watched, which pairs are judged, whose line is active again;
and what an open case holds until then."""

from datetime import timedelta
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from engine.cases.decided import read_decided
from engine.cases.steps import close, note
from engine.errors import CaseMoved, NotFound, TenantConflict
from engine.matching.comparison import WatchList
from engine.matching.holders import PendingErasure, erase_holder, list_pending, read_erasure
from engine.registry.audit import verify_chain
from engine.registry.damage import find_damage
from schema.cases import CaseKind, CaseOrigin, NoteKind, Outcome
from schema.documents import ErasureCertificate
from schema.lines import LineStatus
from schema.reasons import Decision, Reason
from tests.engine.cases.conftest import ANNA, BOB
from tests.engine.cases.test_steps import status_of
from tests.engine.matching.conftest import NOW
from tests.engine.matching.test_lines import dispute
from tests.engine.records import ENTRY, make_crop, newest_cases


def documents_of(*bodies: dict[str, Any]) -> tuple[str, ...]:
    return tuple(body.document_id for body in bodies)


def reference_of(service: Any, document_id: str) -> Any:
    keys = service.store.document(document_id).reference_ids
    return service.registrar.gallery.vectors(np.array(keys, np.int64))[0]


def test_the_faces_of_confirmed_fraud_are_found_by_every_enrollment(service, make_pair) -> None:
    one, two = make_pair()
    case = service.open(*documents_of(one, two))
    service.decide(case.id, Outcome.FRAUD)
    entries = service.store.watchlist()
    assert [entry.reason for entry in entries] == [f"case {case.id}"] * 2
    audit = service.entries("watchlist.added")
    assert [(entry.actor, entry.subject) for entry in audit] == [
        (BOB.name, str(entry.id)) for entry in entries
    ]
    face = reference_of(service, one.document_id)
    erase_holder(*service.context, one.document_id, "test")
    caught = service.registrar.enroll([service.lab.request(face)])[0]
    assert caught.reasons == (Reason.WATCHLISTED,)
    honest = service.registrar.enroll([service.lab.request()])[0]
    assert honest.reasons == ()
    restarted = WatchList(service.lab.vault.dim, service.store.watchlist())
    assert len(restarted) == len(service.registrar.watchlist) == 2


@pytest.mark.parametrize("outcome", [Outcome.FRAUD, Outcome.TWINS, Outcome.MISTAKE])
def test_pairs_of_suspects_are_judged_with_their_score_and_the_sweep_whose_threshold_they_reach(
    service, make_pair, outcome: Outcome
) -> None:
    one, two = make_pair(0.55)
    (other,) = service.enroll(1)
    documents = documents_of(one, two, other)
    sweep = service.store_sweep(0.5)
    given = {"kind": CaseKind.ONE_FACE, "origin": CaseOrigin.SWEEP, "sweep_id": sweep}
    case = service.open(*documents, **given)
    service.decide(case.id, outcome)
    pairs = service.store.judged_pairs()
    names = sorted(documents)
    found = [(pair.left_document, pair.right_document) for pair in pairs]
    assert found == [*combinations(names, 2)]
    for pair in pairs:
        ends = (pair.left_document, pair.right_document)
        left, right = (reference_of(service, key).astype(np.float64) for key in ends)
        assert pair.score == float(np.float32(left @ right))
        assert (pair.outcome, pair.case_id, pair.decided_by) == (outcome, case.id, BOB.name)
        assert pair.sweep_id == (sweep if set(ends) == set(documents_of(one, two)) else None)
    is_exception = outcome is not Outcome.FRAUD
    assert len(read_decided(service.store).exceptions) == (3 if is_exception else 0)
    assert len(service.store.watchlist()) == (0 if is_exception else 3)


def test_the_victim_of_a_stolen_document_is_not_watched(service) -> None:
    holder, impostor = service.lab.people.person(), service.lab.people.person()
    first, own = service.lab.request(holder), service.lab.request(impostor)
    service.registrar.enroll([first, own])
    theft = service.lab.request(impostor, document=first.document)
    refused = service.registrar.enroll([theft])[0]
    assert set(refused.reasons) == {Reason.DOCUMENT_HELD_BY_ANOTHER_FACE, Reason.DUPLICATE_IDENTITY}
    (case,) = newest_cases(service.store.cases)
    assert {one.id for one in refused.decided.cases} == {case.id}
    assert len(case.document_ids) == 2
    service.decide(case.id, Outcome.FRAUD)
    watched = service.registrar.watchlist
    for face, is_watched in ((impostor, True), (holder, False)):
        found = watched.search(service.lab.people.sample(face, noise=0.0).vector[None], 0.6)
        assert (len(found.hits.ids) > 0) == is_watched


@pytest.mark.parametrize("outcome", [Outcome.UNFOUNDED, Outcome.FRAUD, Outcome.MISTAKE])
def test_a_founded_dispute_closes_its_line_by_two_people_and_any_other_leaves_it_active(
    service, outcome: Outcome
) -> None:
    person = service.lab.people.person()
    request = service.lab.request(person)
    (answer,) = service.registrar.enroll([request])
    made = dispute(service, service.registrar, request.msisdn, request.document, person)
    assert answer.decided.line_id == made.line_id
    assert status_of(service, made.line_id) is LineStatus.DISPUTED
    if is_founded := outcome is not Outcome.UNFOUNDED:
        service.decide(made.case_id, outcome, [made.line_id])
    else:
        close(*service.context, made.case_id, outcome, (), ANNA)
    left = LineStatus.CLOSED if is_founded else LineStatus.ACTIVE
    assert status_of(service, made.line_id) is left
    restored = [one.subject for one in service.entries("line.restored")]
    assert restored == ([] if is_founded else [made.line_id])
    # Who disputes a line is wronged.
    assert (service.store.watchlist(), service.store.judged_pairs()) == ([], [])


def test_a_suspect_who_was_erased_leaves_no_pair_and_no_face(service, make_pair) -> None:
    one, two = make_pair()
    case = service.open(*documents_of(one, two))
    erase_holder(*service.context, one.document_id, "test")
    service.decide(case.id, Outcome.FRAUD)
    assert service.store.judged_pairs() == []
    (entry,) = service.store.watchlist()
    assert np.array_equal(entry.template, reference_of(service, two.document_id))


def test_texts_and_crops_are_erased_with_the_last_document_of_a_case(service, make_pair) -> None:
    one, two = make_pair()
    case = service.open(*documents_of(one, two))
    other = service.open(two.document_id, kind=CaseKind.DISPUTE, origin=CaseOrigin.DISPUTE)
    for key in (case.id, other.id):
        note(*service.context, key, "the man with the scar", ANNA)
    crops = [make_crop(made.enrollment_id) for made in (one, two)]
    service.registrar.run(lambda writer, _: writer.commit([ENTRY, *crops]))
    erase_holder(*service.context, one.document_id, "test")
    assert service.store.cases.crops(one.enrollment_id) == []
    assert service.store.cases.crops(two.enrollment_id)
    assert texts_of(service, case.id) == ["the man with the scar"]
    erase_holder(*service.context, two.document_id, "test")
    assert service.store.cases.crops(two.enrollment_id) == []
    assert texts_of(service, case.id) == texts_of(service, other.id) == [""]
    assert service.store.cases.get(case.id).document_ids == case.document_ids
    assert verify_chain(service.store).intact


def texts_of(service: Any, case_id: str) -> list[str]:
    notes = service.store.cases.notes(case_id)
    return [one.text for one in notes if one.kind is NoteKind.NOTE]


MONTH = timedelta(days=30)


def erase(service: Any, document_id: str, carrier: str | None = None, **more: Any) -> Any:
    hold = more.pop("hold", MONTH)
    return erase_holder(*service.context, document_id, "key:asker", carrier, hold)


def test_an_erasure_waits_for_the_case_is_told_and_done_when_it_is_closed(service) -> None:
    person, request, held = service.lab.holder(service.registrar)
    document_id = held.document_id
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
    for one in service.store.cases.open_of([document_id])[document_id]:
        service.decide(one.id, Outcome.UNFOUNDED)
    assert list_pending(service.store) == [replace(pending, cases=())]
    done = erase(service, document_id)
    assert isinstance(done, ErasureCertificate)
    state = read_erasure(service.store, document_id, "blue")
    assert (state.state, state.due_at, state.certificate) == ("done", None, done)
    assert list_pending(service.store) == []
    assert find_damage(service.store) == []


def test_when_its_time_has_come_an_erasure_is_done_and_the_open_case_says_so(service) -> None:
    document_id, kept = (one.document_id for one in service.enroll(2))
    case = service.open(document_id, kept)
    assert isinstance(erase(service, document_id, hold=timedelta()), ErasureCertificate)
    last = service.store.cases.notes(case.id)[-1]
    assert (last.kind, last.text) == (NoteKind.ERASED, document_id)
    assert service.store.cases.get(case.id).updated_at > case.updated_at
    assert service.store.documents_by_id([document_id])[document_id].is_erased
    assert not service.store.documents_by_id([kept])[kept].is_erased


def test_no_carrier_asks_alone_for_what_is_of_two(service) -> None:
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
