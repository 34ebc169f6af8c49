"""What outcomes bring about: who is watched, which pairs are judged, whose line is active again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from engine.casework.desk import close, note, propose
from engine.casework.model import CaseKind, CaseOrigin, NoteKind, Outcome
from engine.casework.opening import open_sweep_cases
from engine.matching.disputes import dispute_line
from engine.matching.holders import erase_holder
from engine.matching.watchlist import WatchList
from engine.reasons import Reason
from engine.registry.audit import verify_chain
from engine.registry.casefile import NewCrop
from engine.registry.records import AuditEntry, Changes, LineStatus, new_id, utc_now
from engine.sweeps.model import (
    Group,
    GroupKind,
    Identity,
    Link,
    SweepRecord,
    SweepState,
    SweepTerms,
)

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
    pairs = bureau.store.judged_pairs()
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
    assert len(bureau.store.exceptions()) == (3 if is_exception else 0)
    assert len(bureau.store.watchlist()) == (0 if is_exception else 3)


def test_of_a_sweep_are_the_pairs_that_reach_its_threshold(bureau: Any, make_pair: Any) -> None:
    one, two = make_pair(0.55)
    (other,) = bureau.enroll(1)
    sweep = keep_sweep(bureau, 0.5)
    case = bureau.open(
        *documents_of(one, two, other),
        kind=CaseKind.ONE_FACE,
        origin=CaseOrigin.SWEEP,
        sweep_id=sweep,
    )
    close(*bureau.given, case.id, Outcome.FRAUD, (), ANNA)
    found = {
        (pair.left_document, pair.right_document): pair.sweep_id
        for pair in bureau.store.judged_pairs()
    }
    left, right = sorted(documents_of(one, two))
    assert found.pop((left, right)) == sweep
    assert set(found.values()) == {None}


def keep_sweep(bureau: Any, threshold: float) -> str:
    sweep = SweepRecord(
        id=new_id(),
        state=SweepState.RUNNING,
        terms=SweepTerms(threshold=threshold),
        requested_by=ANNA,
        created_at=utc_now(),
    )
    entry = AuditEntry(ANNA, "sweep.started", sweep.id)
    bureau.registrar.run(
        lambda writer, _: writer.commit(
            Changes(sequence=writer.sequence, audit=[entry], sweeps=[sweep])
        )
    )
    return sweep.id


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
    (case,) = bureau.store.cases()
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
    assert bureau.store.judged_pairs() == []
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
    assert bureau.store.judged_pairs() == []
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
    assert bureau.store.crops(one["enrollment_id"]) == []
    assert bureau.store.crops(two["enrollment_id"])
    assert texts_of(bureau, case.id) == ["the man with the scar"]
    erase_holder(*bureau.given, two["document_id"], "test")
    assert bureau.store.crops(two["enrollment_id"]) == []
    assert texts_of(bureau, case.id) == texts_of(bureau, other.id) == [""]
    assert bureau.store.case(case.id).document_ids == case.document_ids
    assert verify_chain(bureau.store).intact


def texts_of(bureau: Any, case_id: str) -> list[str]:
    notes = bureau.store.case_notes(case_id)
    return [one.text for one in notes if one.kind is NoteKind.NOTE]


def group_of(
    kind: GroupKind, key: str, *document_ids: str, score: float = 0.7, risk: float = 10.0
) -> Group:
    """Everybody linked to everybody, where the kind has links."""
    names = sorted(document_ids)
    links = tuple(
        Link(left, right, score)
        for place, left in enumerate(names)
        for right in names[place + 1 :]
        if kind is GroupKind.ONE_FACE
    )
    return Group(
        key=key,
        kind=kind,
        identities=tuple(Identity(name, (1,)) for name in names),
        links=links,
        weakest=links[-1] if links else None,
        risk=risk,
        terms=(),
    )


def test_each_group_of_a_sweep_has_a_case_and_those_that_meet_share_one(bureau: Any) -> None:
    sweep = keep_sweep(bureau, 0.6)
    known = bureau.open("e")
    groups = [
        group_of(GroupKind.ONE_FACE, "k1", "a", "b", score=0.8, risk=42.5),
        group_of(GroupKind.ONE_FACE, "k2", "c", "d", "e"),
        group_of(GroupKind.RESALE_RING, "k3", "f", "g", "h"),
        group_of(GroupKind.ONE_DOCUMENT, "k4", "b"),
    ]
    cases = open_sweep_cases(*bureau.given, sweep, groups, ANNA)
    assert cases["k2"] == known.id
    assert cases["k1"] == cases["k4"]
    assert len(set(cases.values())) == 3
    first = bureau.store.case(cases["k1"])
    assert (first.kind, first.origin, first.sweep_id) == (
        CaseKind.ONE_FACE,
        CaseOrigin.SWEEP,
        sweep,
    )
    assert (first.score, first.suspect_ids, first.document_ids) == (0.8, ("a", "b"), ("a", "b"))
    # Those whose lines changed hands may be people who were wronged.
    assert bureau.store.case(cases["k3"]).suspect_ids == ()
    assert set(bureau.store.case(known.id).document_ids) == {"c", "d", "e"}


def test_a_sweep_that_is_told_twice_opens_nothing_twice(bureau: Any) -> None:
    sweep = keep_sweep(bureau, 0.6)
    groups = [group_of(GroupKind.ONE_FACE, f"k{n}", f"a{n}", f"b{n}") for n in range(230)]
    first = open_sweep_cases(*bureau.given, sweep, groups[:150], ANNA)
    head = bureau.store.audit_head()[0]
    again = open_sweep_cases(*bureau.given, sweep, groups, ANNA)
    assert {key: again[key] for key in first} == first
    assert len(set(again.values())) == 230
    assert bureau.store.audit_head()[0] - head == 80
    later = keep_sweep(bureau, 0.6)
    assert open_sweep_cases(*bureau.given, later, groups, ANNA) == again
    assert bureau.store.case(again["k0"]).sweep_id == later


def test_what_people_have_decided_is_not_asked_again(bureau: Any, make_pair: Any) -> None:
    one, two = make_pair()
    documents = documents_of(one, two)
    (third,) = bureau.enroll(1)
    sweep = keep_sweep(bureau, 0.5)
    pair = group_of(GroupKind.ONE_FACE, "k1", *documents)
    ring = group_of(GroupKind.RESALE_RING, "k2", "x", "y")
    cases = open_sweep_cases(*bureau.given, sweep, [pair, ring], ANNA)
    for case_id in cases.values():
        close(*bureau.given, case_id, Outcome.TWINS, (), BOB)
    later = keep_sweep(bureau, 0.5)
    assert open_sweep_cases(*bureau.given, later, [pair, ring], ANNA) == cases
    judged = group_of(GroupKind.ONE_FACE, "k3", *documents)
    assert open_sweep_cases(*bureau.given, later, [judged], ANNA) == {}
    assert bureau.store.cases() == []
    grown = group_of(GroupKind.ONE_FACE, "k4", *documents, third["document_id"])
    (opened,) = open_sweep_cases(*bureau.given, later, [grown], ANNA).values()
    assert set(bureau.store.case(opened).document_ids) == {*documents, third["document_id"]}


def test_a_later_group_that_joins_earlier_ones_leaves_one_case_for_all(bureau: Any) -> None:
    sweep = keep_sweep(bureau, 0.6)
    groups = [group_of(GroupKind.ONE_FACE, f"k{n}", f"a{n}", f"b{n}") for n in range(120)] + [
        group_of(GroupKind.ONE_FACE, "last", "a0", "a119")
    ]
    cases = open_sweep_cases(*bureau.given, sweep, groups, ANNA)
    assert cases["k0"] == cases["k119"] == cases["last"]
    assert {case.id for case in bureau.store.cases(limit=500)} == set(cases.values())
