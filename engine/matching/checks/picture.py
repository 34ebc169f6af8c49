"""Several photographs of one live face, taken one after the other: judged together, and fused."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np

from engine.matching.comparison import fuse_seconds, fuse_vectors
from engine.matching.judge import DecidedAttempt, DecisionCheck
from engine.matching.policy import Evidence, EvidencePart
from engine.matching.requests import Attempt, EnrollmentRequest
from engine.matching.samples import ABSENT, Sample
from indexes.base import Floats, exact_scores
from schema import frozen
from schema.decisions import Comparison, Finding, PhotographRecord, SeenFrame
from schema.reasons import Photograph, Reason

MOST_BEHIND = 0.05
"""Frames whose detection score is lower than the best one's by more are not fused. Of LFW, two
noisy frames beside a clean one would lose 3.9 % instead of 0.8 %; blurred, small and dark ones
gain with or without this, and clean ones lose nothing by it."""


class FaceVector(NamedTuple):
    """A face as it is compared: a unit vector float32[d], the length of the mean that it is, 1 for
    one photograph, and whether the picture shows another."""

    vector: Floats
    length: float = 1.0
    is_beside: bool = False

    @property
    def comparison(self) -> Comparison:
        """Which comparisons it makes with references."""
        return Comparison.FUSED_TO_ONE if self.length == 1 else Comparison.FUSED


def fuse_frames(frames: Sequence[Sample], one_person: float) -> Sample:
    """One sample of the frames of a face; of a single one it is that itself.

    The best of the fit frames are fused, the others are left out; where none is fit, the problems
    are the best one's. LIVE_FRAMES_DIFFER where no fit frame scores at least `one_person` with
    every other: somebody else is on one of them. Crop, thumbnail, quality and digest are the best
    one's, which is the one that people are shown.
    """
    if len(frames) == 1:
        return frames[0]
    best = max(frames, key=_rank)
    kept = tuple(one if one is best else replace(one, crop=None) for one in frames)
    fit = [one.vector for one in frames if one.vector is not None and one.is_usable]
    if len(fit) > 1 and not measure_agreement(np.stack(fit)) >= one_person:
        return replace(best, problems=(Reason.LIVE_FRAMES_DIFFER,), frames=kept)
    chosen = [frames[place].vector for place in _choose(frames)]
    vectors = [vector for vector in chosen if vector is not None]
    if len(vectors) < 2:
        return replace(best, frames=kept)
    length = min(float(np.linalg.norm(np.mean(vectors, axis=0))), 1.0)
    return replace(
        best,
        vector=fuse_vectors(*vectors),
        second=fuse_seconds([frames[place].second for place in _choose(frames)]),
        length=length,
        frames=kept,
    )


def show_faces(asked: EnrollmentRequest, faces: Mapping[str, Sample]) -> EnrollmentRequest:
    """The request with what its photographs show, and its guardian's (`guardian.live`)."""
    guardian = asked.guardian
    if guardian is not None:
        theirs = faces.get("guardian.portrait")
        guardian = replace(guardian, live=faces["guardian.live"], portrait=theirs)
    live, portrait = faces.get("live", ABSENT), faces.get("portrait", ABSENT)
    return replace(asked, live=live, portrait=portrait, guardian=guardian)


def describe_frames(sample: Sample) -> list[SeenFrame]:
    """What evidence keeps of each frame, in the order they came: the SHA-256 of its image, what is
    wrong with it, whether it was fused, its quality. Empty where there was one photograph.
    """
    chosen = _choose(sample.frames) if sample.is_usable else ()
    return [
        SeenFrame(one.digest.hex(), one.problems, place in chosen, dict(one.quality))
        for place, one in enumerate(sample.frames)
    ]


def _choose(frames: Sequence[Sample]) -> list[int]:
    """The places of the best fit frames."""
    scores = {place: _score(one) for place, one in enumerate(frames) if one.is_usable}
    least = max(scores.values(), default=0.0) - MOST_BEHIND
    return [place for place, score in scores.items() if score >= least]


def _score(frame: Sample) -> float:
    return frame.quality.get("detection_score", 0.0)


def _rank(frame: Sample) -> tuple[bool, bool, int, float]:
    """Higher for the better one: fit, with a face, with few problems, surely detected."""
    return frame.is_usable, frame.vector is not None, -len(frame.problems), _score(frame)


def measure_agreement(vectors: Floats) -> float:
    """The least score that the frame closest to all others has with one of them: float32[n, d]."""
    count = len(vectors)
    rows, others = np.array(list(product(range(count), repeat=2))).T
    scores = exact_scores(vectors, vectors, rows, others).reshape(count, count)
    np.fill_diagonal(scores, np.inf)
    return float(scores.min(axis=1).max())


def find_problems(shown: Sample) -> tuple[Reason, ...]:
    return shown.problems or ((Reason.NO_FACE,) if shown.vector is None else ())


@frozen(kw_only=True)
class PicturePart(EvidencePart):
    """Reasons to ask for a new photograph."""

    live_problems: tuple[Reason, ...] = ()
    portrait_problems: tuple[Reason, ...] = ()
    is_same_photograph: bool = False

    def find(self, _evidence: Evidence, _version: str) -> Iterator[Finding]:
        for photograph, problems in (
            (Photograph.LIVE, self.live_problems),
            (Photograph.PORTRAIT, self.portrait_problems),
        ):
            for reason in problems:
                yield Finding.of(reason, photograph)
        if self.is_same_photograph:
            yield Finding.of(Reason.SAME_PHOTOGRAPH)


class PictureCheck(DecisionCheck):
    """Says what is wrong with the photographs of an attempt."""

    part = PicturePart

    def weigh(self, _place: int, attempt: Attempt, _evidence: Evidence) -> Sequence[EvidencePart]:
        return [
            PicturePart(
                live_problems=find_problems(attempt.request.live),
                portrait_problems=find_problems(attempt.request.portrait),
                is_same_photograph=attempt.is_same_photograph,
            )
        ]

    def describe(self, made: DecidedAttempt) -> None:
        """Nothing that was measured, and no digest, where no face is kept or may be looked at."""
        if not made.may_keep:
            return
        request, decided = made.attempt.request, made.decided
        shown = {"live": request.live, "portrait": request.portrait}
        # The answer says it too.
        decided.quality = {name: dict(one.quality) for name, one in shown.items()}
        decided.frames = describe_frames(request.live)
        made.recorded.quality, made.recorded.frames = decided.quality, decided.frames
        made.recorded.records = {
            name: PhotographRecord(one.record_digest.hex(), one.digest.hex())
            for name, one in shown.items()
            if one.record_digest is not None
        }
