"""Items of a match call: 1:1 compared here, 1:N in one search of all; stores nothing."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Self

import numpy as np
from msgspec.structs import replace

from engine.errors import ImageError
from engine.matching.calibration import Thresholds
from engine.matching.checks.picture import FaceVector, fuse_frames
from engine.matching.samples import Sample
from indexes.base import Floats, exact_score, exact_scores
from schema import frozen
from schema.reasons import Reason, shows_another
from serving.access.authorization import Holder, ShowCandidate, order_candidates
from serving.errors import TemplateInvalid, TooManyItems, describe
from serving.ingress.parts import Parts
from serving.registrar.protocol import CallContext
from serving.telemetry.metrics import BATCH_SIZE, STAGE_SECONDS
from serving.wire.fields import list_frames, of_record
from serving.wire.matching import (
    MAX_PHOTOGRAPHS,
    ExpectedFalseCandidates,
    ItemError,
    ItemIdentification,
    ItemVerification,
    MatchItem,
    MatchResult,
)

Slot = tuple[int, str]
"""The place of an item, and which of its faces."""
PROBE, REFERENCE = "probe", "reference"
Faces = Mapping[Slot, FaceVector | ItemError]
"""What the images and templates of a batch turned out to be."""


@frozen
class MatchBatch:
    """The items of one match call, with the frames of the faces that came as files, and the
    templates of the others."""

    items: Sequence[MatchItem]
    images: dict[Slot, Sequence[bytes]] = field(default_factory=dict, repr=False)
    templates: dict[Slot, bytes] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, items: Sequence[MatchItem]) -> Self:
        """`TooManyItems` where their frames are more than two for each of the most items."""
        batch = cls(items)
        for place, item in enumerate(items):
            for part, face in ((PROBE, item.probe), (REFERENCE, item.reference)):
                if face is not None and face.image is not None:
                    batch.images[place, part] = list_frames(face.image)
                elif face is not None and face.template is not None:
                    batch.templates[place, part] = face.template
        photographs = sum(map(len, batch.images.values()))
        if photographs > MAX_PHOTOGRAPHS:
            raise TooManyItems(
                f"more than {MAX_PHOTOGRAPHS} photographs in one call: split it into several"
            )
        return batch


async def match_batch(
    parts: Parts,
    batch: MatchBatch,
    holder: Holder,
    context: Callable[[], CallContext],
    show: ShowCandidate,
) -> tuple[MatchResult, ...]:
    """A result for each item, its 1:1, its 1:N or its error, or the call fails: a search that did
    not run is never a "nobody". `holder` is whose templates and share are taken, `context` tells
    the time left, `show` writes a candidate. Raises what the extraction queue and the registrar
    do."""
    faces = await _take_faces(parts, batch, holder, context().timeout_s)
    started = time.perf_counter()
    with parts.tracer.span("match", items=len(batch.items)):
        errors, verifications = _verify(batch, faces, parts.thresholds)
    parts.meter.observe(STAGE_SECONDS, time.perf_counter() - started, "match")
    parts.meter.observe(BATCH_SIZE, len(batch.items), "match")
    identifications = await _identify(parts, batch, faces, context, show)
    return tuple(
        MatchResult(
            id=item.id,
            verification=verifications.get(place),
            identification=identifications.get(place),
            error=errors.get(place),
        )
        for place, item in enumerate(batch.items)
    )


async def _take_faces(
    parts: Parts, batch: MatchBatch, holder: Holder, timeout_s: float | None
) -> Faces:
    opened = parts.templates.open(list(batch.templates.values()), holder.tenant)
    faces: dict[Slot, FaceVector | ItemError] = {
        slot: describe_problem(one) if isinstance(one, TemplateInvalid) else FaceVector(one)
        for slot, one in zip(batch.templates, opened, strict=True)
    }
    if not batch.images:
        return faces
    slots = [slot for slot, frames in batch.images.items() for _ in frames]
    files = [file for frames in batch.images.values() for file in frames]
    with parts.tracer.span("extract", items=len(files)):
        kinds = [getattr(batch.items[place], part).told for place, part in slots]
        samples = await parts.faces.sample(files, timeout_s, kinds, holder=holder)
    found: dict[Slot, list[Sample | ImageError]] = {slot: [] for slot in batch.images}
    for slot, sample in zip(slots, samples, strict=True):
        found[slot].append(sample)
    for slot, frames in found.items():
        faces[slot] = read_frames(frames, parts.thresholds.one_person)
    return faces


def list_beside(*faces: FaceVector | None, is_match: bool) -> tuple[Reason, ...]:
    """SEVERAL_FACES where another face than the one compared may be meant."""
    several = any(one is not None and one.is_beside for one in faces)
    return (Reason.SEVERAL_FACES,) if several and not is_match else ()


def _verify(
    batch: MatchBatch, faces: Faces, thresholds: Thresholds
) -> tuple[Mapping[int, ItemError], Mapping[int, ItemVerification]]:
    """By place: the error of every item that has one, and the 1:1 of those that ask for it."""
    errors: dict[int, ItemError] = {}
    compared: list[tuple[int, float, tuple[FaceVector, FaceVector]]] = []
    pairs: list[Floats] = []
    for place in range(len(batch.items)):
        probe, reference = faces[place, PROBE], faces.get((place, REFERENCE))
        if isinstance(probe, ItemError):
            errors[place] = replace(probe, part=PROBE)
        elif isinstance(reference, ItemError):
            errors[place] = replace(reference, part=REFERENCE)
        elif reference is not None:
            compared.append((place, thresholds.verify_for(probe.length), (probe, reference)))
            pairs += (probe.vector, reference.vector)
    scores = score_pairs(pairs) if pairs else []
    return errors, {
        place: ItemVerification(
            score >= threshold, score, threshold, list_beside(*both, is_match=score >= threshold)
        )
        for (place, threshold, both), score in zip(compared, scores, strict=True)
    }


async def _identify(
    parts: Parts,
    batch: MatchBatch,
    faces: Faces,
    context: Callable[[], CallContext],
    show: ShowCandidate,
) -> Mapping[int, ItemIdentification]:
    """By place: the 1:N of the items that ask for it, in one search of all probes."""
    places, probes = [], []
    for place, item in enumerate(batch.items):
        face = faces[place, PROBE]
        if item.search and not isinstance(face, ItemError):
            places.append(place)
            probes.append(face)
    if not places:
        return {}
    threshold = (await parts.read_thresholds()).review
    vectors = np.stack([probe.vector for probe in probes])
    found = await parts.registrar.by(context()).identify(vectors, threshold)
    assert len(found) == len(places), "a search answers for each of its probes"
    searches = {
        (result.searched, probe.comparison) for result, probe in zip(found, probes, strict=True)
    }
    rates = {
        search: parts.calibration.expected_false_candidates(search[0], threshold, search[1])
        for search in searches
    }
    return {
        place: ItemIdentification(
            candidates=order_candidates(
                show(one.document_id, one.reference_id, one.score) for one in result.candidates
            ),
            found=result.found,
            searched=result.searched,
            gallery_sequence=result.gallery_sequence,
            threshold=threshold,
            expected_false_candidates=of_record(
                ExpectedFalseCandidates, rates[result.searched, probe.comparison]
            ),
        )
        for place, result, probe in zip(places, found, probes, strict=True)
    }


def score_pairs(pairs: Sequence[Floats]) -> list[float]:
    """The scores of vectors float32[d], each with the next: of 2n of them, n."""
    if len(pairs) == 2:
        return [exact_score(*pairs)]
    rows = np.concatenate(pairs).reshape(len(pairs), -1)
    even = np.arange(0, len(rows), 2)
    scores: list[float] = exact_scores(rows, rows, even, even + 1).tolist()
    return scores


def read_sample(sample: Sample | ImageError) -> Floats | ItemError:
    """The vector of a photograph that is fit for matching, else what is wrong with it."""
    if isinstance(sample, ImageError):
        return describe_problem(sample)
    if sample.problems:
        return ItemError(
            f"MATCH.{sample.problems[0]}",
            "the photograph cannot be judged: take a new one",
            problems=tuple(str(reason) for reason in sample.problems),
            advice=sample.problems[0].advice,
        )
    assert sample.vector is not None, "a photograph without a face has a problem"
    return sample.vector


def read_frames(frames: Sequence[Sample | ImageError], one_person: float) -> FaceVector | ItemError:
    """A face that one photograph or several frames show, else what is wrong with it."""
    sound = [one for one in frames if not isinstance(one, ImageError)]
    if len(sound) < len(frames):
        return describe_problem(next(one for one in frames if isinstance(one, ImageError)))
    sample = fuse_frames(sound, one_person)
    read = read_sample(sample)
    return (
        read
        if isinstance(read, ItemError)
        else FaceVector(read, sample.length, shows_another(sample.quality))
    )


def describe_problem(error: ImageError | TemplateInvalid) -> ItemError:
    """An item's error as answers show it."""
    fault = describe(error)
    return ItemError(fault.code, fault.message)
