"""What outcomes bring about: who is watched, which pairs are judged, whose line is active again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from engine.cases.case import CaseKind, CaseOrigin, NoteKind, Outcome
from engine.cases.steps import close, note, propose
from engine.matching.comparison import WatchList
from engine.matching.holders import erase_holder
from engine.matching.lines import dispute_line
from engine.reasons import Reason
from engine.registry.audit import verify_chain
from engine.registry.records import AuditEntry, Changes, LineStatus, NewCrop, new_id, utc_now

ANNA, BOB = "key:anna", "key:bob"


def documents_of(*bodies: dict[str, Any]) -> tuple[str, ...]:
    return tuple(body["document_id"] for body in bodies)


def reference_of(bureau: Any, document_id: str) -> Any:
    keys = bureau.store.document(document_id).reference_ids
    return bureau.registrar.gallery.vectors(np.array(keys, np.int64))[0]


def test_the_faces_of_confirmed_fraud_are_met_by_every_enrollment(
    bureau: Any, make_pair: Any
) -> None:
    one, two = make_pair()
    case = bureau.open(*documents_of(one, two))
    close(*bureau.given, case.id, Outcome.FRAUD, (), ANNA)
    entries = bureau.store.watchlist()
    assert [entry.reason for entry in entries] == [f"case {case.id}"] * 2
    told = bureau.entries("watchlist.added")
    assert [(entry.actor, entry.subject) for entry in told] == [
        (ANNA, str(entry.id)) for entry in entries
    ]
    face = reference_of(bureau, one["document_id"])
    erase_holder(*bureau.given, one["document_id"], "test")
    caught = bureau.registrar.enroll([bureau.lab.request(face)])[0]
    assert caught.reasons == (Reason.WATCHLISTED,)
    honest = bureau.registrar.enroll([bureau.lab.request()])[0]
    assert honest.reasons == ()
    restarted = WatchList(bureau.lab.vault.dim, bureau.store.watchlist())
    assert len(restarted) == len(bureau.registrar.watchlist) == 2


def test_a_face_is_put_on_the_watch_list_once(bureau: Any) -> None:
    face = bureau.lab.people.person()
    same = bureau.lab.people.sample(face, noise=0.0)
    (body,) = [bureau.registrar.enroll([bureau.lab.request(live=same, portrait=same)])[0].body]
    first = bureau.open(body["document_id"])
    close(*bureau.given, first.id, Outcome.FRAUD, (), ANNA)
    second = bureau.open(body["document_id"])
    assert second.id != first.id
    close(*bureau.given, second.id, Outcome.FRAUD, (), ANNA)
    assert [entry.reason for entry in bureau.store.watchlist()] == [f"case {first.id}"]


@pytest.mark.parametrize("outcome", [Outcome.FRAUD, Outcome.TWINS, Outcome.MISTAKE])
def test_pairs_of_suspects_are_judged_with_their_score(
    bureau: Any, make_pair: Any, outcome: Outcome
) -> None:
    one, two = make_pair(0.55)
    (other,) = bureau.enroll(1)
    documents = documents_of(one, two, other)
    case = bureau.open(*documents, suspect_ids=documents)
    close(*bureau.given, case.id, outcome, (), ANNA)
    pairs = bureau.store.cases.judged_pairs()
    names = sorted(documents)
    assert [(pair.left_document, pair.right_document) for pair in pairs] == [
        (names[0], names[1]),
        (names[0], names[2]),
        (names[1], names[2]),
    ]
    for pair in pairs:
        vectors = [
            reference_of(bureau, key).astype(np.float64)
            for key in (pair.left_document, pair.right_document)
        ]
        assert pair.score == float(np.float32(vectors[0] @ vectors[1]))
        assert (pair.outcome, pair.case_id, pair.decided_by) == (outcome, case.id, ANNA)
    is_exception = outcome is not Outcome.FRAUD
    assert len(bureau.store.cases.exceptions()) == (3 if is_exception else 0)
    assert len(bureau.store.watchlist()) == (0 if is_exception else 3)


def test_of_a_sweep_are_the_pairs_that_reach_its_threshold(bureau: Any, make_pair: Any) -> None:
    one, two = make_pair(0.55)
    (other,) = bureau.enroll(1)
    sweep = bureau.keep_sweep(0.5)
    case = bureau.open(
        *documents_of(one, two, other),
        kind=CaseKind.ONE_FACE,
        origin=CaseOrigin.SWEEP,
        sweep_id=sweep,
    )
    close(*bureau.given, case.id, Outcome.FRAUD, (), ANNA)
    found = {
        (pair.left_document, pair.right_document): pair.sweep_id
        for pair in bureau.store.cases.judged_pairs()
    }
    left, right = sorted(documents_of(one, two))
    assert found.pop((left, right)) == sweep
    assert set(found.values()) == {None}


def test_whose_document_was_stolen_is_not_watched(bureau: Any) -> None:
    holder, thief = bureau.lab.people.person(), bureau.lab.people.person()
    first, own = bureau.lab.request(holder), bureau.lab.request(thief)
    bureau.registrar.enroll([first, own])
    theft = bureau.lab.request(thief, document=first.document)
    refused = bureau.registrar.enroll([theft])[0]
    assert set(refused.reasons) == {
        Reason.DOCUMENT_HELD_BY_ANOTHER_FACE,
        Reason.DUPLICATE_IDENTITY,
    }
    (case,) = bureau.store.cases.newest()
    assert {one["id"] for one in refused.body["cases"]} == {case.id}
    assert len(case.document_ids) == 2
    close(*bureau.given, case.id, Outcome.FRAUD, (), ANNA)
    watched = bureau.registrar.watchlist
    for face, is_watched in ((thief, True), (holder, False)):
        found = watched.search(bureau.lab.people.sample(face, noise=0.0).vector[None], 0.6)
        assert (len(found.hits.ids) > 0) == is_watched


def test_an_unfounded_dispute_leaves_its_line_active(bureau: Any) -> None:
    person = bureau.lab.people.person()
    request = bureau.lab.request(person)
    answer = bureau.registrar.enroll([request])[0]
    dispute = dispute_line(
        *bureau.given,
        line_text=request.msisdn,
        document=request.document,
        probe=person,
        threshold=0.42,
        actor="key:shop",
    )
    assert line_status(bureau, dispute.line_id) is LineStatus.DISPUTED
    close(*bureau.given, dispute.case_id, Outcome.UNFOUNDED, (), ANNA)
    assert line_status(bureau, dispute.line_id) is LineStatus.ACTIVE
    assert [one.subject for one in bureau.entries("line.restored")] == [dispute.line_id]
    assert bureau.store.cases.judged_pairs() == []
    assert answer.body["line_id"] == dispute.line_id


@pytest.mark.parametrize("outcome", [Outcome.FRAUD, Outcome.MISTAKE])
def test_a_founded_dispute_closes_its_line_by_two_people_and_watches_nobody(
    bureau: Any, outcome: Outcome
) -> None:
    person = bureau.lab.people.person()
    request = bureau.lab.request(person)
    bureau.registrar.enroll([request])
    made = dispute_line(
        *bureau.given,
        line_text=request.msisdn,
        document=request.document,
        probe=person,
        threshold=0.42,
        actor="key:shop",
    )
    propose(*bureau.given, made.case_id, outcome, [made.line_id], ANNA)
    close(*bureau.given, made.case_id, outcome, [made.line_id], BOB)
    assert line_status(bureau, made.line_id) is LineStatus.CLOSED
    # Who disputes a line is wronged.
    assert bureau.store.watchlist() == []


def line_status(bureau: Any, line_id: str) -> LineStatus:
    return bureau.store.lines_by_id([line_id])[line_id].status


def test_a_suspect_who_was_erased_leaves_no_pair_and_no_face(bureau: Any, make_pair: Any) -> None:
    one, two = make_pair()
    case = bureau.open(*documents_of(one, two))
    erase_holder(*bureau.given, one["document_id"], "test")
    close(*bureau.given, case.id, Outcome.FRAUD, (), ANNA)
    assert bureau.store.cases.judged_pairs() == []
    (entry,) = bureau.store.watchlist()
    assert np.array_equal(entry.template, reference_of(bureau, two["document_id"]))


def test_texts_and_crops_go_when_all_whom_a_case_names_are_erased(
    bureau: Any, make_pair: Any
) -> None:
    one, two = make_pair()
    case = bureau.open(*documents_of(one, two))
    other = bureau.open(two["document_id"], kind=CaseKind.DISPUTE, origin=CaseOrigin.DISPUTE)
    for key in (case.id, other.id):
        note(*bureau.given, key, "the man with the scar", ANNA)
    crop = NewCrop(
        id=new_id(),
        enrollment_id=one["enrollment_id"],
        photograph="live",
        kept_until=utc_now() + timedelta(days=9),
        image=b"face",
    )
    entry = AuditEntry("test", "test.done", "x")
    bureau.registrar.run(
        lambda writer, _: writer.commit(
            Changes(
                sequence=writer.sequence,
                audit=[entry],
                crops=[crop, replace(crop, id=new_id(), enrollment_id=two["enrollment_id"])],
            )
        )
    )
    erase_holder(*bureau.given, one["document_id"], "test")
    assert bureau.store.cases.crops(one["enrollment_id"]) == []
    assert bureau.store.cases.crops(two["enrollment_id"])
    assert texts_of(bureau, case.id) == ["the man with the scar"]
    erase_holder(*bureau.given, two["document_id"], "test")
    assert bureau.store.cases.crops(two["enrollment_id"]) == []
    assert texts_of(bureau, case.id) == texts_of(bureau, other.id) == [""]
    assert bureau.store.cases.get(case.id).document_ids == case.document_ids
    assert verify_chain(bureau.store).intact


def texts_of(bureau: Any, case_id: str) -> list[str]:
    notes = bureau.store.cases.notes(case_id)
    return [one.text for one in notes if one.kind is NoteKind.NOTE]
