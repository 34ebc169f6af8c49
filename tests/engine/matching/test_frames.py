"""Several frames of a live face: each judged, the fit ones fused, those of other people refused."""

from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.errors import IdempotencyMismatch
from engine.matching.checks.order import replay
from engine.matching.checks.picture import describe_frames, fuse_frames
from engine.matching.samples import Sample, choose_crops, seal_crop
from schema.decisions import Finding, FoundReferences
from schema.options import CropPolicy
from schema.phases import CropScope
from schema.reasons import Decision, Photograph, Reason
from tests.engine.matching.conftest import NOW, THRESHOLDS, People

ONE_PERSON = THRESHOLDS.one_person
FACELESS = Sample(None, bytes(32), (Reason.NO_FACE,))


def frames_of(people: People, person: Any, count: int) -> list[Sample]:
    return [people.sample(person) for _ in range(count)]


def test_one_photograph_is_itself(people) -> None:
    sample = people.sample(people.person())
    assert fuse_frames([sample], ONE_PERSON) is sample
    assert (sample.length, describe_frames(sample)) == (1, [])


@pytest.mark.parametrize("count", [2, 3, 8])
def test_fit_frames_are_fused_to_their_normalised_mean_and_unfit_ones_left_out(
    people, count: int
) -> None:
    person = people.person()
    fit = frames_of(people, person, count)
    blurred = people.sample(people.person(), Reason.BLURRED)
    fused = fuse_frames([FACELESS, *fit, blurred], ONE_PERSON)
    mean = np.mean([one.vector for one in fit], axis=0)
    assert fused.vector == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    assert (fused.problems, fused.is_usable) == ((), True)
    assert fused.length == pytest.approx(np.linalg.norm(mean), abs=1e-6)
    told = describe_frames(fused)
    assert [one.is_fused for one in told] == [False, *[True] * count, False]
    assert (told[0].problems, told[-1].problems) == ((Reason.NO_FACE,), (Reason.BLURRED,))
    assert told[1].image_sha256 == fit[0].digest.hex()


def test_a_single_fit_frame_is_compared_as_one_photograph(people) -> None:
    fit = people.sample(people.person())
    sample = fuse_frames([FACELESS, fit], ONE_PERSON)
    assert np.array_equal(sample.vector, fit.vector)
    assert (sample.length, sample.digest) == (1, fit.digest)


def test_where_no_frame_is_fit_the_best_ones_problems_are_told(people) -> None:
    person = people.person()
    two = people.sample(person, Reason.BLURRED, Reason.POSE)
    one = people.sample(person, Reason.TOO_DARK)
    assert fuse_frames([FACELESS, two, one], ONE_PERSON).problems == (Reason.TOO_DARK,)
    assert fuse_frames([FACELESS, FACELESS], ONE_PERSON).problems == (Reason.NO_FACE,)


def test_a_frame_far_behind_the_best_one_is_left_out(people) -> None:
    person = people.person()
    frames = [
        replace(people.sample(person), quality={"detection_score": score})
        for score in (0.93, 0.90, 0.80)
    ]
    told = describe_frames(fuse_frames(frames, ONE_PERSON))
    assert [one.is_fused for one in told] == [True, True, False]


def test_the_crop_that_is_kept_is_the_best_frames(lab) -> None:
    person = lab.people.person()
    frames = []
    for grey, score in ((10, 0.90), (200, 0.93), (90, 0.91)):
        one = lab.people.sample(person)
        pixels = np.full((112, 112, 3), grey, np.uint8)
        crop = seal_crop(lab.vault, one.digest, pixels)
        frames.append(replace(one, crop=crop, quality={"detection_score": score}))
    fused = fuse_frames(frames, ONE_PERSON)
    assert fused.quality == frames[1].quality
    # No other leaves the place where it was made.
    assert [one.crop is None for one in fused.frames] == [True, False, True]
    samples = {"live": fused, "portrait": lab.people.sample(person)}
    named = {"enrollment_id": "e", "document_id": "d"}
    everything = CropPolicy(CropScope.ALL)
    (kept,) = choose_crops(everything, lab.vault, samples, **named, has_case=False, at=NOW)
    assert kept.photograph == "live"
    assert np.asarray(Image.open(BytesIO(kept.image))).mean() == pytest.approx(200, abs=1)


@pytest.mark.parametrize(("own", "others"), [(1, 1), (2, 1), (7, 1), (4, 4)])
def test_frames_with_somebody_else_among_them_are_refused(people, own: int, others: int) -> None:
    mixed = frames_of(people, people.person(), own) + frames_of(people, people.person(), others)
    sample = fuse_frames(mixed, ONE_PERSON)
    assert (sample.problems, sample.is_usable) == ((Reason.LIVE_FRAMES_DIFFER,), False)
    assert not any(one.is_fused for one in describe_frames(sample))


def test_one_turned_frame_need_not_look_like_every_other(people) -> None:
    person = people.person()
    # Both match the first frame, and hardly one another.
    one, other = (people.between(person, 0.6) for _ in range(2))
    apart = [replace(people.sample(person), vector=vector) for vector in (person, one, other)]
    assert float(one @ other) < 0.5
    assert fuse_frames(apart, 0.55).is_usable
    assert not fuse_frames(apart[1:], 0.55).is_usable


def test_eight_frames_of_eight_people_open_no_line_and_the_decision_replays(lab, registrar) -> None:
    people = lab.people
    frames = [people.sample(people.person()) for _ in range(8)]
    request = lab.request(live=fuse_frames(frames, ONE_PERSON))
    outcome = registrar.enroll([request])[0]
    finding = Finding(Reason.LIVE_FRAMES_DIFFER, Decision.REJECTED, Photograph.LIVE)
    assert outcome.decided.reasons == (finding,)
    assert outcome.decided.duplicate_search == FoundReferences(ran=False)
    assert lab.replays(outcome)


def test_evidence_keeps_every_frame_and_the_decision_replays(lab, registrar) -> None:
    person = lab.people.person()
    frames = [*frames_of(lab.people, person, 3), FACELESS]
    outcome = registrar.enroll([lab.request(person, live=fuse_frames(frames, ONE_PERSON))])[0]
    found = registrar.enroll([lab.request(person)])[0]
    assert outcome.decision is Decision.APPROVED
    assert found.reasons == (Reason.DUPLICATE_IDENTITY,)
    record = lab.store.enrollment(outcome.enrollment_id)
    assert [one.is_fused for one in record.evidence.frames] == [True, True, True, False]
    assert [one.image_sha256 for one in record.evidence.frames] == [
        one.digest.hex() for one in frames
    ]
    assert replay(record).agrees


def test_a_burst_needs_verify_of_its_frames_and_frames_that_differ_more_of_their_mean(
    lab, registrar
) -> None:
    people, person = lab.people, lab.people.person()
    frame = replace(people.sample(person), vector=person)
    apart = [replace(people.sample(person), vector=people.between(person, 0.5)) for _ in range(2)]
    burst, others = (fuse_frames(one, ONE_PERSON) for one in ([frame, frame], [frame, *apart]))
    limits = [THRESHOLDS.verify_for(one.length) for one in (frame, burst, others)]
    assert limits == pytest.approx([0.40, 0.40, 0.46])
    requests = []
    for live in (burst, others):
        between = people.between(live.vector, 0.43)
        requests.append(
            lab.request(live=live, portrait=replace(people.sample(person), vector=between))
        )
    approved, refused = (registrar.enroll([one])[0] for one in requests)
    assert approved.decision is Decision.APPROVED
    assert Reason.FACE_MISMATCH in refused.reasons
    for outcome, limit in ((approved, 0.40), (refused, 0.46)):
        record = lab.store.enrollment(outcome.enrollment_id)
        assert record.evidence.inputs["thresholds"]["verify"] == pytest.approx(limit)
        assert replay(record).agrees


def test_every_frame_is_part_of_what_a_key_stands_for(lab, registrar) -> None:
    person = lab.people.person()
    frames = frames_of(lab.people, person, 3)
    request = lab.request(person, live=fuse_frames(frames, ONE_PERSON))
    # As a service knows them before it has looked for a face.
    unseen = [replace(one, vector=None) for one in frames]
    again = replace(request, live=fuse_frames(unseen, ONE_PERSON))
    fewer = replace(request, live=fuse_frames(frames[:2], ONE_PERSON))
    single = replace(request, live=frames[0])
    asked = (request, again, fewer, single)
    first, repeated, *others = (registrar.enroll([one])[0] for one in asked)
    assert repeated.is_repeated
    assert repeated.enrollment_id == first.enrollment_id
    assert all(isinstance(one, IdempotencyMismatch) for one in others)


def test_a_portrait_among_the_frames_is_the_same_photograph(lab, registrar) -> None:
    person = lab.people.person()
    frames = frames_of(lab.people, person, 3)
    request = lab.request(
        person, live=fuse_frames(frames, ONE_PERSON), portrait=replace(frames[1], problems=())
    )
    outcome = registrar.enroll([request])[0]
    assert outcome.reasons == (Reason.SAME_PHOTOGRAPH,)
