"""Who is approved, who is for people to judge, who is rejected, and why."""

import gc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from engine.matching.calibration import Thresholds
from engine.matching.checks.order import replay
from engine.matching.comparison import WatchList, fuse_vectors
from engine.matching.holders import watch_face
from engine.matching.judge import AttemptBatch
from engine.matching.samples import Sample
from engine.registry.watchlist import WatchEntry
from indexes.gallery import Gallery
from schema.cases import CaseState
from schema.decisions import Finding, FoundReferences, OpenedCase, PhotographRecord
from schema.documents import Document
from schema.reasons import Decision, Photograph, Reason
from tests.engine.matching.conftest import DIM, NOW, THRESHOLDS
from tests.engine.records import newest_cases


def test_an_honest_newcomer_is_approved_and_found_by_the_next_search(lab, registrar) -> None:
    person = lab.people.person()
    first = registrar.enroll([lab.request(person)])[0]
    second = registrar.enroll([lab.request(person)])[0]
    assert first.decision is Decision.APPROVED
    assert first.decided.line_id
    assert second.decision is Decision.REJECTED
    assert second.reasons == (Reason.DUPLICATE_IDENTITY,)
    candidates = second.decided.duplicate_search.candidates
    assert [item.document_id for item in candidates] == [first.decided.document_id]


def test_the_grey_zone_is_for_people_to_judge(lab, registrar) -> None:
    person = lab.people.person()
    alike = lab.people.between(person, 0.65)
    registrar.enroll([lab.request(person, noise=0.0)])
    outcome = registrar.enroll([lab.request(alike, noise=0.0)])[0]
    assert outcome.decision is Decision.REVIEW
    assert outcome.reasons == (Reason.POSSIBLE_DUPLICATE,)
    assert outcome.decided.line_id is None
    assert [case.kind for case in newest_cases(lab.store.cases, CaseState.OPEN)] == [
        "possible_duplicate"
    ]


@pytest.mark.parametrize("where", ["gallery", "batch", "watch-list"])
def test_a_portrait_that_draws_the_mean_away_hides_the_living_face_from_none(
    lab, registrar, where: str
) -> None:
    people, known = lab.people, lab.people.person()
    live = people.between(known, 0.65)
    aside = (0.65 * live - known) / np.sqrt(1 - 0.65**2)
    portrait = (0.45 * live + np.sqrt(1 - 0.45**2) * aside).astype(np.float32)
    assert fuse_vectors(live, portrait) @ known < 0.2 < THRESHOLDS.review < live @ known
    first, hidden = lab.request(known, noise=0.0), lab.request(live, noise=0.0)
    hidden = replace(hidden, portrait=people.sample(portrait, noise=0.0))
    if where == "watch-list":
        watch_face(registrar, known, "seen at a resale ring", "test")
        first = lab.request()
    batches = [[first, hidden]] if where == "batch" else [[first], [hidden]]
    answer = [registrar.enroll(one) for one in batches][-1][-1]
    found = Reason.WATCHLISTED if where == "watch-list" else Reason.POSSIBLE_DUPLICATE
    assert (answer.decision, answer.reasons) == (Decision.REVIEW, (found,))


def test_a_document_seen_only_in_a_refused_attempt_is_no_evidence_against_its_holder(
    lab, registrar
) -> None:
    impostor, holder = lab.people.person(), lab.people.person()
    own = lab.request(impostor)
    registrar.enroll([own])
    stolen = lab.request(impostor)
    refused = registrar.enroll([stolen])[0]
    renamed = structs.replace(stolen.document, name="The True Holder")
    outcome = registrar.enroll([lab.request(holder, document=renamed)])[0]
    returning = registrar.enroll([lab.request(holder, document=renamed)])[0]
    assert refused.reasons == (Reason.DUPLICATE_IDENTITY,)
    assert outcome.decision is Decision.APPROVED
    assert outcome.decided.document_id == refused.decided.document_id
    assert returning.decision is Decision.APPROVED
    assert lab.store.identity(outcome.decided.document_id).name == "The True Holder"


def test_a_returning_subscriber_is_approved_until_the_line_limit(lab, registrar) -> None:
    person = lab.people.person()
    first = lab.request(person)
    outcomes = registrar.enroll(
        [first, *(lab.request(person, document=first.document) for _ in range(5))]
    )
    elsewhere = lab.request(person, document=first.document, carrier="red", outlet="red-1")
    at_another_carrier = registrar.enroll([elsewhere])[0]
    assert [outcome.decision for outcome in outcomes[:5]] == [Decision.APPROVED] * 5
    assert outcomes[5].reasons == (Reason.LINE_LIMIT_REACHED,)
    assert at_another_carrier.decision is Decision.APPROVED
    assert lab.store.counts()["live_references"] == 1


def test_the_references_of_all_who_return_in_a_batch_are_read_in_one_call(
    lab, busy, monkeypatch
) -> None:
    """Each call of a sharded gallery goes to other nodes and back."""
    people = [lab.people.person() for _ in range(4)]
    with lab.registrar() as registrar:
        first = [lab.request(person) for person in people]
        registrar.enroll(first)
        read, sizes = Gallery.vectors, []

        def counted(gallery: Gallery, ids: Any) -> Any:
            sizes.append(len(ids))
            return read(gallery, ids)

        monkeypatch.setattr(Gallery, "vectors", counted)
        with busy(registrar):
            again = [
                registrar.submit(lab.request(person, document=request.document))
                for person, request in zip(people, first, strict=True)
            ]
        assert all(one.result(120).decision is Decision.APPROVED for one in again)
    assert sizes == [4]


def test_a_stolen_document_opens_a_case_for_its_holder(lab, registrar) -> None:
    holder, impostor = lab.people.person(), lab.people.person()
    first = lab.request(holder)
    theft = lab.request(impostor, document=first.document, portrait=lab.people.sample(holder))
    outcomes = registrar.enroll([first, theft])
    assert outcomes[1].decision is Decision.REJECTED
    assert outcomes[1].reasons == (Reason.FACE_MISMATCH, Reason.DOCUMENT_HELD_BY_ANOTHER_FACE)
    cases = newest_cases(lab.store.cases, CaseState.OPEN)
    assert [case.document_ids for case in cases] == [(outcomes[0].decided.document_id,)]


def test_attempts_that_share_a_face_share_a_case_in_one_batch_and_after_it(lab, registrar) -> None:
    person = lab.people.person()
    known = registrar.enroll([lab.request(person)])[0]
    pair = registrar.enroll([lab.request(person), lab.request(person)])
    single = registrar.enroll([lab.request(person)])[0]
    refused = [*pair, single]
    assert {outcome.reasons for outcome in refused} == {(Reason.DUPLICATE_IDENTITY,)}
    (case,) = newest_cases(lab.store.cases, CaseState.OPEN)
    opened = [OpenedCase(case.id, "duplicate_identity")]
    assert [outcome.decided.cases for outcome in refused] == [opened] * 3
    everybody = {outcome.decided.document_id for outcome in (known, *refused)}
    assert set(case.document_ids) == set(case.suspect_ids) == everybody
    attempts = {
        case.enrollment_id,
        *(one.enrollment_id for one in lab.store.cases.merged_into(case.id)),
    }
    assert attempts == {outcome.decided.enrollment_id for outcome in refused}
    told = lab.entries("case.opened", "case.merged")
    assert [(one.action, one.actor) for one in told] == [
        ("case.opened", "outlet:blue-1"),
        ("case.merged", "outlet:blue-1"),
        ("case.merged", "outlet:blue-1"),
    ]


def test_when_the_portrait_is_somebody_else_only_the_live_face_is_searched(lab, registrar) -> None:
    known, portrayed = lab.people.person(), lab.people.person()
    registrar.enroll([lab.request(known), lab.request(portrayed)])
    outcome = registrar.enroll(
        [
            lab.request(lab.people.person(), portrait=lab.people.sample(portrayed)),
            lab.request(known, portrait=lab.people.sample(portrayed)),
        ]
    )
    assert outcome[0].reasons == (Reason.FACE_MISMATCH,)
    assert outcome[1].reasons == (Reason.FACE_MISMATCH, Reason.DUPLICATE_IDENTITY)
    assert len(outcome[1].decided.duplicate_search.candidates) == 1


def test_whose_face_may_be_another_in_the_picture_is_told_beside_a_mismatch(lab) -> None:
    for second_face, count in ((0.29, 1), (0.3, 2)):
        live = replace(lab.people.sample(lab.people.person()), quality={"second_face": second_face})
        (outcome,) = lab.enroll(lab.request(live=live))
        assert outcome.reasons == (Reason.SEVERAL_FACES, Reason.FACE_MISMATCH)[-count:]


def test_an_unfit_photograph_is_not_matched_and_the_answer_says_so(lab, registrar) -> None:
    person = lab.people.person()
    registrar.enroll([lab.request(person)])
    blurred = lab.request(person, live=lab.people.sample(person, Reason.BLURRED))
    faceless = lab.request(person, portrait=Sample(None, b"\0" * 32, (Reason.NO_FACE,)))
    outcomes = registrar.enroll([blurred, faceless])
    blurred_live = Finding(Reason.BLURRED, Decision.REJECTED, Photograph.LIVE)
    assert outcomes[0].decided.reasons == (blurred_live,)
    assert outcomes[1].decided.reasons[0].photograph == "portrait"
    for outcome in outcomes:
        assert outcome.decided.duplicate_search == FoundReferences(ran=False)
        assert outcome.decided.scores.live_portrait is None


def test_evidence_keeps_the_hashes_of_a_documents_record(lab, registrar) -> None:
    person = lab.people.person()
    plain = lab.request(person)
    portrait = replace(lab.people.sample(person), record_digest=bytes(range(32)))
    recorded = lab.request(person, document=plain.document, portrait=portrait)
    first, second = registrar.enroll([plain, recorded])
    assert not lab.store.enrollment(first.enrollment_id).evidence.records
    kept = lab.store.enrollment(second.enrollment_id).evidence.records
    digests = (portrait.record_digest.hex(), portrait.digest.hex())
    assert kept == {"portrait": PhotographRecord(*digests)}
    assert lab.replays(second)


def test_a_forged_number_is_refused_without_a_search(lab, registrar) -> None:
    forged = Document("cn-ric", "110105194912310021", "A Name")
    outcome = registrar.enroll([lab.request(document=forged)])[0]
    assert outcome.reasons == (Reason.DOCUMENT_INVALID,)
    assert outcome.decided.document_id is None
    assert outcome.decided.duplicate_search == FoundReferences(ran=False)


def test_another_name_on_a_known_document_is_for_people_to_judge(lab, registrar) -> None:
    person = lab.people.person()
    first = lab.request(person)
    spaced = structs.replace(first.document, name=f" {first.document.name.upper()} ")
    other = structs.replace(first.document, name="Somebody Else")
    outcomes = registrar.enroll(
        [first, lab.request(person, document=spaced), lab.request(person, document=other)]
    )
    assert outcomes[1].decision is Decision.APPROVED
    assert outcomes[2].decision is Decision.REVIEW
    assert outcomes[2].reasons == (Reason.NAME_MISMATCH,)


def test_a_number_in_use_cannot_be_opened_twice(lab, registrar) -> None:
    first = lab.request()
    again = lab.request(msisdn=first.msisdn.replace("+86", "+86 "))
    in_one_batch = registrar.enroll([first, again])
    later = registrar.enroll([lab.request(msisdn=first.msisdn)])
    assert in_one_batch[1].reasons == (Reason.LINE_IN_USE,)
    assert later[0].reasons == (Reason.LINE_IN_USE,)


def test_a_threshold_that_follows_the_gallery_is_recorded_and_replays(lab) -> None:
    def find(references: int) -> Thresholds:
        return structs.replace(THRESHOLDS, review=0.5 + 0.01 * references)

    watched = WatchList(DIM, [WatchEntry(1, None, lab.people.person(), "", NOW)])
    with lab.registrar(thresholds_for=find, watchlist=watched) as registrar:
        answers = [registrar.enroll([lab.request()])[0] for _ in range(3)]
    recorded = [lab.store.enrollment(one.enrollment_id) for one in answers]
    scores = [one.evidence.inputs["thresholds"]["review"] for one in recorded]
    assert scores == pytest.approx([0.51, 0.52, 0.53])
    assert all(replay(one).agrees for one in recorded)


def test_every_recorded_decision_replays(lab, registrar) -> None:
    person, other = lab.people.person(), lab.people.person()
    first = lab.request(person)
    outcomes = registrar.enroll(
        [
            first,
            lab.request(person),
            lab.request(other, document=first.document),
            lab.request(other, live=lab.people.sample(other, Reason.POSE)),
            lab.request(document=Document("cn-ric", "1", "A Name")),
        ]
    )
    for outcome in outcomes:
        enrollment = lab.store.enrollment(outcome.enrollment_id)
        assert replay(enrollment).agrees
        assert enrollment.evidence.model_digest == "d" * 64
        assert enrollment.evidence.calibration_version == 1
        # The thresholds of today do not matter, nor that earlier records name no calibration.
        enrollment.evidence.calibration_version = None
        for name in ("verify_fused", "one_person"):
            del enrollment.evidence.inputs["thresholds"][name]
        assert replay(enrollment).agrees
        assert enrollment.evidence.inputs["thresholds"]["review"] == 0.60


def test_a_batch_that_is_decided_leaves_nothing_to_the_garbage_collector(lab, registrar) -> None:
    registrar.enroll([lab.request()])
    gc.collect()
    gc.disable()
    try:
        registrar.enroll([lab.request() for _ in range(3)])
        assert not [one for one in gc.get_objects() if type(one) is AttemptBatch]
    finally:
        gc.enable()
