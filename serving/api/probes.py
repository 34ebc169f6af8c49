"""Faces that a request brings as photographs and templates, and what says that they were alive."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain

from engine.errors import ImageError, ImageTooCostly, LivenessRefused, LivenessReplayed, SosieError
from engine.matching.checks.liveness import REPLAYED
from engine.matching.checks.picture import FaceVector, fuse_frames
from engine.matching.samples import Sample
from engine.registry.database import utc_now
from schema.decisions import RecordedLiveness
from schema.reasons import LivenessUse, PhotographKind
from serving.access.authorization import scope_of, tenant_of
from serving.api.request import Request
from serving.errors import FaceUnusable, TemplateInvalid
from serving.ingress.extraction_queue import FRAMES_WORK, decode_work
from serving.ingress.parts import Parts
from serving.registrar.protocol import HolderFace
from serving.telemetry.metrics import LIVENESS, LIVENESS_JUDGED
from serving.wire.fields import list_frames
from serving.wire.matching import Face


def count_liveness(
    parts: Parts, result: RecordedLiveness | None, error: SosieError | None = None
) -> None:
    """Counts a result of a liveness check, once the call is answered, or ended in an error; an
    issuer that is not known has no name of its own."""
    if result is not None:
        told = "PASSED" if result.problem is None else result.problem.value
        if isinstance(error, LivenessReplayed):
            told = REPLAYED
        parts.meter.add(LIVENESS, result.issuer or "none", told)


def count_judged(parts: Parts, sample: Sample | None) -> None:
    """Counts what the judge of the picture itself found of a live face."""
    judge = parts.liveness.terms.judge
    if judge is not None and sample is not None and sample.vector is not None:
        judgement = judge.weigh(sample.least_judged)
        parts.meter.add(LIVENESS_JUDGED, judgement.found, judgement.band)


def charge_photographs(
    parts: Parts, request: Request, faces: Collection[Sequence[bytes]]
) -> list[float]:
    """Charges a call's large photographs, and the frames of a face after its first, to its key's
    rate, as the items that they cost; returns what decoding each costs (`decode_work`).

    `RateLimited` beyond it. What is no image costs nothing to decode: it is refused before that.
    """
    works = [decode_work(frame) for frames in faces for frame in frames]
    items = len(works) - len(faces) + sum(works)
    parts.authenticator.charge(request.caller, int(items), enrolls=request.enrolls)
    return works


def read_kind(told: str | None) -> PhotographKind | None:
    """The kind of a photograph, as a body says."""
    return None if told is None else PhotographKind(told)


async def sample_images(
    parts: Parts,
    request: Request,
    faces: Mapping[str, Sequence[bytes]],
    kinds: Mapping[str, str | None],
    judged: Collection[str] = (),
) -> Sequence[Sample]:
    """A sample of each face, fused where several frames show it, of the kind of the same name;
    raises the first error, with the field that it speaks of. The liveness of the faces `judged` is
    judged, where there is a judge.

    `ImageTooCostly` where the frames of one face take more than `FRAMES_WORK` to decode,
    `RateLimited` where all exceed the key's rate.
    """
    if not faces:
        return ()
    for name, frames in faces.items():
        if len(frames) > 1 and sum(map(decode_work, frames)) > FRAMES_WORK:
            raise ImageTooCostly(f"{name}: its frames have too many pixels: send fewer or smaller")
    works = charge_photographs(parts, request, faces.values())
    names = [name for name, frames in faces.items() for _ in frames]
    with parts.tracer.span("extract", items=len(names)):
        samples = await parts.faces.sample(
            list(chain.from_iterable(faces.values())),
            request.remaining_s,
            [read_kind(kinds.get(name)) for name in names],
            is_one_attempt=True,
            works=works,
            judged=[name in judged for name in names],
            holder=request.caller.holder,
        )
    sound: dict[str, list[Sample]] = {name: [] for name in faces}
    for name, sample in zip(names, samples, strict=True):
        if isinstance(sample, ImageError):
            where = f"{name}.{len(sound[name])}" if len(faces[name]) > 1 else name
            raise type(sample)(f"{where}: {sample}")
        sound[name].append(sample)
    return [fuse_frames(frames, parts.thresholds.one_person) for frames in sound.values()]


async def take_faces(parts: Parts, request: Request, **faces: Face) -> Sequence[FaceVector]:
    """Each face by the name of its field, fused where several frames show it. `FaceUnusable`,
    `TemplateInvalid`, an `ImageError`."""
    images = {
        name: list_frames(face.image) for name, face in faces.items() if face.image is not None
    }
    found: dict[str, FaceVector] = {}
    if images:
        kinds = {name: face.kind for name, face in faces.items()}
        samples = await sample_images(parts, request, images, kinds)
        found = {
            name: _require_usable(name, sample)
            for name, sample in zip(images, samples, strict=True)
        }
    tokens = {name: face.template for name, face in faces.items() if face.template is not None}
    opened = parts.templates.open(list(tokens.values()), tenant_of(request.caller))
    for name, vector in zip(tokens, opened, strict=True):
        if isinstance(vector, TemplateInvalid):
            raise type(vector)(f"{name}: {vector}")
        found[name] = FaceVector(vector)
    return [found[name] for name in faces]


async def take_probe(parts: Parts, request: Request, probe: Face) -> Sample | None:
    """The sample of what a body names `probe`, fit to be matched; None for a template."""
    if probe.image is None:
        return None
    images = {"probe": list_frames(probe.image)}
    (sample,) = await sample_images(parts, request, images, {"probe": probe.kind}, ("probe",))
    _require_usable("probe", sample)
    return sample


async def take_face(parts: Parts, request: Request, probe: Face) -> FaceVector:
    """The same for the one face that a body names `probe`."""
    return (await take_faces(parts, request, probe=probe))[0]


async def take_holder_face(
    parts: Parts, request: Request, probe: Face, token: str | None, subject: str
) -> HolderFace:
    """The face of what a body names `probe`, with the evidence of liveness that came with it;
    `subject` is whom the call is about, as such evidence names it."""
    frames = [] if probe.image is None else list_frames(probe.image)
    made_for = (LivenessUse.VERIFICATION, subject, scope_of(request.caller), utc_now())
    check = partial(parts.liveness.check, token, frames, *made_for)
    # Only a signature takes a while.
    liveness = await asyncio.to_thread(check) if token else check()
    sample = await take_probe(parts, request, probe)
    count_judged(parts, sample)
    judged = None if sample is None else sample.least_judged
    if sample is None or sample.vector is None:
        face = await take_face(parts, request, probe)
        return HolderFace(face, None, liveness, judged)
    face = FaceVector(sample.vector, sample.length)
    return HolderFace(face, sample.second, liveness, judged)


@contextmanager
def counting_liveness(parts: Parts, result: RecordedLiveness | None) -> Iterator[None]:
    """Counts a result once the call within is answered, or refused for it."""
    try:
        yield
    except (LivenessReplayed, LivenessRefused) as error:
        count_liveness(parts, result, error)
        raise
    count_liveness(parts, result)


def _require_usable(name: str, sample: Sample) -> FaceVector:
    if sample.is_usable and sample.vector is not None:
        return FaceVector(sample.vector, sample.length)
    problems = [str(problem) for problem in sample.problems] or ["NO_FACE"]
    raise FaceUnusable(
        f"{name} cannot be matched ({', '.join(problems)}): take another photograph",
        reason=problems[0],
    )
