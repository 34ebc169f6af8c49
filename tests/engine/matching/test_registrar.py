from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine.errors import (
    GalleryBehind,
    IdempotencyMismatch,
    OutletRefused,
    RequestError,
    SosieError,
    WriterBusy,
)
from engine.matching.comparison import fuse_vectors
from engine.matching.documents import Document, FormAuthority
from engine.matching.holders import erase_holder
from engine.matching.registrar import Registrar
from engine.matching.replaying import replay
from engine.matching.requests import Answer, EnrollmentRequest, Sample
from engine.matching.restoration import restore_gallery
from engine.reasons import Decision, Reason
from engine.registry.records import CaseState
from indexes.flat import FlatIndex
from indexes.gallery import Gallery


def enroll(registrar: Registrar, *requests: EnrollmentRequest) -> list[Any]:
    return registrar.enroll(requests)


def test_an_honest_newcomer_is_approved_and_found_by_the_next_search(lab: Any) -> None:
    person = lab.people.person()
    with lab.registrar() as registrar:
        first = enroll(registrar, lab.request(person))[0]
        second = enroll(registrar, lab.request(person))[0]
    assert first.decision is Decision.APPROVED
    assert first.body["line_id"]
    assert second.decision is Decision.REJECTED
    assert second.reasons == (Reason.DUPLICATE_IDENTITY,)
    candidates = second.body["duplicate_search"]["candidates"]
    assert [item["document_id"] for item in candidates] == [first.body["document_id"]]


def test_a_batch_is_compared_with_itself_in_arrival_order(lab: Any) -> None:
    person = lab.people.person()
    with lab.registrar() as registrar:
        outcomes = enroll(registrar, *(lab.request(person) for _ in range(8)))
    decisions = [outcome.decision for outcome in outcomes]
    assert decisions == [Decision.APPROVED] + [Decision.REJECTED] * 7
    assert lab.store.counts()["live_references"] == 1


def test_the_grey_zone_is_for_people_to_judge(lab: Any) -> None:
    person = lab.people.person()
    alike = lab.people.between(person, 0.65)
    with lab.registrar() as registrar:
        enroll(registrar, lab.request(person, **exact(person)))
        outcome = enroll(registrar, lab.request(alike, **exact(alike)))[0]
    assert outcome.decision is Decision.REVIEW
    assert outcome.reasons == (Reason.POSSIBLE_DUPLICATE,)
    assert outcome.body["line_id"] is None
    assert [case.kind for case in lab.store.cases(CaseState.OPEN)] == ["possible_duplicate"]


def test_a_document_seen_only_in_a_refused_attempt_is_no_evidence_against_its_holder(
    lab: Any,
) -> None:
    thief, holder = lab.people.person(), lab.people.person()
    own = lab.request(thief)
    with lab.registrar() as registrar:
        enroll(registrar, own)
        stolen = lab.request(thief)
        refused = enroll(registrar, stolen)[0]
        renamed = replace(stolen.document, name="The True Holder")
        outcome = enroll(registrar, lab.request(holder, document=renamed))[0]
        returning = enroll(registrar, lab.request(holder, document=renamed))[0]
    assert refused.reasons == (Reason.DUPLICATE_IDENTITY,)
    assert outcome.decision is Decision.APPROVED
    assert outcome.body["document_id"] == refused.body["document_id"]
    assert returning.decision is Decision.APPROVED
    assert lab.store.identity(outcome.body["document_id"]).name == "The True Holder"


def test_a_returning_subscriber_is_approved_until_the_line_limit(lab: Any) -> None:
    person = lab.people.person()
    first = lab.request(person)
    with lab.registrar() as registrar:
        outcomes = enroll(
            registrar, first, *(lab.request(person, document=first.document) for _ in range(5))
        )
        elsewhere = lab.request(person, document=first.document, carrier="red", outlet="red-1")
        at_another_carrier = enroll(registrar, elsewhere)[0]
    assert [outcome.decision for outcome in outcomes[:5]] == [Decision.APPROVED] * 5
    assert outcomes[5].reasons == (Reason.LINE_LIMIT_REACHED,)
    assert at_another_carrier.decision is Decision.APPROVED
    assert lab.store.counts()["live_references"] == 1


def test_a_stolen_document_opens_a_case_for_its_holder(lab: Any) -> None:
    holder, thief = lab.people.person(), lab.people.person()
    first = lab.request(holder)
    theft = lab.request(thief, document=first.document, portrait=lab.people.sample(holder))
    with lab.registrar() as registrar:
        outcomes = enroll(registrar, first, theft)
    assert outcomes[1].decision is Decision.REJECTED
    assert outcomes[1].reasons == (Reason.FACE_MISMATCH, Reason.DOCUMENT_HELD_BY_ANOTHER_FACE)
    cases = lab.store.cases(CaseState.OPEN)
    assert [case.document_ids for case in cases] == [(outcomes[0].body["document_id"],)]


def test_when_the_portrait_is_somebody_else_only_the_live_face_is_searched(lab: Any) -> None:
    known, portrayed = lab.people.person(), lab.people.person()
    with lab.registrar() as registrar:
        enroll(registrar, lab.request(known), lab.request(portrayed))
        outcome = enroll(
            registrar,
            lab.request(lab.people.person(), portrait=lab.people.sample(portrayed)),
            lab.request(known, portrait=lab.people.sample(portrayed)),
        )
    assert outcome[0].reasons == (Reason.FACE_MISMATCH,)
    assert outcome[1].reasons == (Reason.FACE_MISMATCH, Reason.DUPLICATE_IDENTITY)
    assert len(outcome[1].body["duplicate_search"]["candidates"]) == 1


def test_an_unfit_photograph_is_not_matched_and_the_answer_says_so(lab: Any) -> None:
    person = lab.people.person()
    with lab.registrar() as registrar:
        enroll(registrar, lab.request(person))
        blurred = lab.request(person, live=lab.people.sample(person, Reason.BLURRED))
        faceless = lab.request(person, portrait=Sample(None, b"\0" * 32, (Reason.NO_FACE,)))
        outcomes = enroll(registrar, blurred, faceless)
    assert outcomes[0].body["reasons"] == [
        {"reason": "BLURRED", "decision": "rejected", "photograph": "live"}
    ]
    assert outcomes[1].body["reasons"][0]["photograph"] == "portrait"
    for outcome in outcomes:
        assert outcome.body["duplicate_search"] == {"ran": False}
        assert outcome.body["scores"]["live_portrait"] is None


def test_a_forged_number_is_refused_without_a_search(lab: Any) -> None:
    forged = Document("cn-ric", "110105194912310021", "A Name")
    with lab.registrar() as registrar:
        outcome = enroll(registrar, lab.request(document=forged))[0]
    assert outcome.reasons == (Reason.DOCUMENT_INVALID,)
    assert outcome.body["document_id"] is None
    assert outcome.body["duplicate_search"] == {"ran": False}


def test_another_name_on_a_known_document_is_for_people_to_judge(lab: Any) -> None:
    person = lab.people.person()
    first = lab.request(person)
    spaced = replace(first.document, name=f" {first.document.name.upper()} ")
    other = replace(first.document, name="Somebody Else")
    with lab.registrar() as registrar:
        outcomes = enroll(
            registrar,
            first,
            lab.request(person, document=spaced),
            lab.request(person, document=other),
        )
    assert outcomes[1].decision is Decision.APPROVED
    assert outcomes[2].decision is Decision.REVIEW
    assert outcomes[2].reasons == (Reason.NAME_MISMATCH,)


def test_a_number_in_use_cannot_be_opened_twice(lab: Any) -> None:
    first = lab.request()
    again = lab.request(msisdn=first.msisdn.replace("+86", "+86 "))
    with lab.registrar() as registrar:
        in_one_batch = enroll(registrar, first, again)
        later = enroll(registrar, lab.request(msisdn=first.msisdn))
    assert in_one_batch[1].reasons == (Reason.LINE_IN_USE,)
    assert later[0].reasons == (Reason.LINE_IN_USE,)


@pytest.mark.parametrize(
    "changes", [{"outlet": "nowhere"}, {"outlet": "red-1"}, {"carrier": "red"}]
)
def test_a_foreign_outlet_is_refused_and_nothing_is_stored(
    lab: Any, changes: dict[str, str]
) -> None:
    before = lab.store.counts()
    with lab.registrar() as registrar:
        outcome = enroll(registrar, lab.request(**changes))[0]
    assert isinstance(outcome, OutletRefused)
    assert lab.store.counts() == before


def test_a_closed_outlet_is_refused(lab: Any) -> None:
    lab.store.close_outlet("blue-1", actor="test")
    with lab.registrar() as registrar:
        assert isinstance(enroll(registrar, lab.request())[0], OutletRefused)


def test_the_same_key_and_payload_give_the_stored_answer(lab: Any) -> None:
    request = lab.request()
    with lab.registrar() as registrar:
        first = enroll(registrar, request)[0]
        before = lab.store.counts()
        second = enroll(registrar, request)[0]
    with lab.registrar() as reopened:
        third = enroll(reopened, request)[0]
    assert not first.is_repeated
    assert second == third == replace(first, is_repeated=True)
    assert lab.store.counts() == before


def test_the_same_key_with_another_payload_is_refused(lab: Any) -> None:
    request = lab.request()
    changed = [
        replace(request, msisdn="+8613800138000"),
        replace(request, live=lab.people.sample(lab.people.person())),
        replace(request, document=replace(request.document, name="Another Name")),
    ]
    with lab.registrar() as registrar:
        enroll(registrar, request)
        before = lab.store.counts()
        outcomes = enroll(registrar, *changed[:1]), enroll(registrar, *changed[1:2])
        outcomes = [*outcomes[0], *outcomes[1], *enroll(registrar, changed[2])]
    assert all(isinstance(outcome, IdempotencyMismatch) for outcome in outcomes)
    assert lab.store.counts() == before


def test_two_carriers_may_use_one_key(lab: Any) -> None:
    with lab.registrar() as registrar:
        outcomes = enroll(
            registrar,
            lab.request(idempotency_key="one"),
            lab.request(idempotency_key="one", carrier="red", outlet="red-1"),
        )
    assert [outcome.decision for outcome in outcomes] == [Decision.APPROVED] * 2


def test_a_second_writer_is_refused(lab: Any) -> None:
    with lab.registrar(), pytest.raises(WriterBusy), lab.registrar():
        pytest.fail("two writers at once")


@pytest.mark.parametrize(
    "changes",
    [
        {"idempotency_key": ""},
        {"idempotency_key": "k" * 10_000},
        {"idempotency_key": "a\nb"},
        {"msisdn": "12"},
        {"msisdn": "not a number"},
        {"document": Document("library-card", "1", "A Name")},
        {"consent_ref": "c" * 201},
    ],
)
def test_what_cannot_be_judged_is_an_error_beside_its_neighbours(
    lab: Any, changes: dict[str, Any]
) -> None:
    with lab.registrar() as registrar:
        outcomes = enroll(registrar, lab.request(), lab.request(**changes), lab.request())
    assert isinstance(outcomes[1], RequestError)
    assert "\n" not in str(outcomes[1])
    assert [type(outcome) for outcome in outcomes[::2]] == [Answer, Answer]


def test_every_recorded_decision_replays(lab: Any) -> None:
    person, other = lab.people.person(), lab.people.person()
    first = lab.request(person)
    with lab.registrar() as registrar:
        outcomes = enroll(
            registrar,
            first,
            lab.request(person),
            lab.request(other, document=first.document),
            lab.request(other, live=lab.people.sample(other, Reason.POSE)),
            lab.request(document=Document("cn-ric", "1", "A Name")),
        )
    for outcome in outcomes:
        enrollment = lab.store.enrollment(outcome.enrollment_id)
        assert replay(enrollment).agrees
        assert enrollment.evidence["model_digest"] == "d" * 64
        assert enrollment.evidence["inputs"]["thresholds"]["review"] == 0.60


def test_of_sixteen_racing_enrollments_of_one_face_exactly_one_is_new(lab: Any) -> None:
    rounds = 50
    with lab.registrar() as registrar, ThreadPoolExecutor(16) as pool:
        for _ in range(rounds):
            person = lab.people.person()
            requests = [lab.request(person) for _ in range(16)]
            barrier = threading.Barrier(16)

            def race(request: EnrollmentRequest, barrier: Any = barrier) -> Decision:
                barrier.wait(30)
                outcome = registrar.submit(request).result(60)
                assert not isinstance(outcome, SosieError)
                return outcome.decision

            decisions = list(pool.map(race, requests))
            assert decisions.count(Decision.APPROVED) == 1
            assert decisions.count(Decision.REJECTED) == 15
    assert lab.store.counts()["live_references"] == rounds


def test_the_gallery_equals_the_store_after_a_restart(lab: Any) -> None:
    with lab.registrar() as registrar:
        enroll(registrar, *(lab.request() for _ in range(40)))
        gallery = registrar.gallery
    restored = restore_gallery(lab.store, lab.folder).gallery
    assert restored.sequence == gallery.sequence == lab.store.sequence()
    np.testing.assert_array_equal(restored.ids, gallery.ids)
    np.testing.assert_allclose(
        restored.vectors(restored.ids), gallery.vectors(gallery.ids), atol=1e-6
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"consent_ref": "a\0b"},
        {"outlet": "blue-1\0"},
        {"idempotency_key": "\ud800"},
        {"document": Document("cn-ric", "11010519491231002X", "half \ud800")},
    ],
)
def test_text_that_no_database_stores_is_refused_beside_its_neighbours(
    lab: Any, changes: dict[str, Any]
) -> None:
    with lab.registrar() as registrar:
        outcomes = enroll(registrar, lab.request(), lab.request(**changes), lab.request())
    assert isinstance(outcomes[1], RequestError)
    assert [type(outcome) for outcome in outcomes[::2]] == [Answer, Answer]


def test_a_vector_that_is_not_finite_is_refused(lab: Any) -> None:
    broken = Sample(np.full(64, np.nan, dtype=np.float32), bytes(32))
    with lab.registrar() as registrar:
        outcomes = enroll(registrar, lab.request(live=broken), lab.request())
    assert isinstance(outcomes[0], RequestError)
    assert isinstance(outcomes[1], Answer)


def test_an_unforeseen_error_hits_one_request_and_shows_none_of_its_text(lab: Any) -> None:
    class Unlucky(FormAuthority):
        def check(self, documents: Any, on: Any) -> Any:
            if any(item.name == "unlucky" for item in documents):
                raise OSError("the line to the government is down: unlucky")
            return super().check(documents, on)

    bad = lab.request()
    bad = replace(bad, document=replace(bad.document, name="Unlucky"))
    with lab.registrar(authority=Unlucky()) as registrar:
        outcomes = enroll(registrar, lab.request(), bad, lab.request())
    assert isinstance(outcomes[1], SosieError)
    assert "unlucky" not in str(outcomes[1])
    assert [type(outcome) for outcome in outcomes[::2]] == [Answer, Answer]


class BrokenGallery(Gallery):
    """A gallery that has run out of memory."""

    is_broken = False

    def add(self, *args: Any) -> None:
        if self.is_broken:
            raise MemoryError
        super().add(*args)

    def remove(self, *args: Any) -> None:
        if self.is_broken:
            raise MemoryError
        super().remove(*args)


@pytest.mark.parametrize("change", ["enroll", "erase"])
def test_what_is_durable_but_not_visible_stops_the_registrar(lab: Any, change: str) -> None:
    gallery = BrokenGallery(FlatIndex(lab.vault.dim))
    first, second = lab.request(), lab.request()
    with lab.registrar(gallery=gallery) as registrar:
        enroll(registrar, first)
        gallery.is_broken = True
        if change == "enroll":
            assert isinstance(enroll(registrar, second)[0], GalleryBehind)
        else:
            with pytest.raises(GalleryBehind):
                erase_holder(registrar, lab.store, first.document, "test")
        gallery.is_broken = False
        assert isinstance(enroll(registrar, lab.request())[0], GalleryBehind)
        with pytest.raises(GalleryBehind):
            registrar.submit(lab.request())
    with lab.registrar() as reopened:
        expected = 2 if change == "enroll" else 0
        assert len(reopened.gallery) == expected
        assert enroll(reopened, second)[0].is_repeated == (change == "enroll")


def test_a_registrar_does_not_start_on_a_gallery_that_lags(lab: Any) -> None:
    with lab.registrar() as registrar:
        enroll(registrar, lab.request())
    lagging = Gallery(FlatIndex(lab.vault.dim))
    with pytest.raises(GalleryBehind), lab.registrar(gallery=lagging):
        pytest.fail("started")
    with lab.registrar() as registrar:
        assert len(registrar.gallery) == 1


def test_a_score_does_not_depend_on_who_else_is_in_the_batch(lab: Any) -> None:
    person = lab.people.person()
    first, again = lab.request(person), lab.request(person)
    others = [lab.request() for _ in range(20)]
    with lab.registrar() as registrar:
        together = enroll(registrar, first, *others, again)[-1].body
    candidate = together["duplicate_search"]["candidates"][0]
    probe = fuse_vectors(again.live.vector, again.portrait.vector)
    reference = fuse_vectors(first.live.vector, first.portrait.vector)
    assert candidate["score"] == float(
        np.float32(reference.astype(np.float64) @ probe.astype(np.float64))
    )
    assert together["scores"]["live_portrait"] == float(
        np.float32(again.live.vector.astype(np.float64) @ again.portrait.vector.astype(np.float64))
    )


def exact(person: Any) -> dict[str, Sample]:
    """Both photographs without any noise."""
    counter = itertools.count()
    return {
        name: Sample(person, bytes(31) + bytes([next(counter)])) for name in ("live", "portrait")
    }
