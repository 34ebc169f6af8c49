"""Several photographs of one live face, taken one after the other: judged together, and fused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.matching.calibration import Comparison
from engine.matching.comparison import fuse_vectors
from engine.matching.requests import Sample
from engine.reasons import Reason
from indexes.scoring import exact_scores


class FaceVector(NamedTuple):
    """A face as it is compared: a unit vector float32[d], and of how many photographs it is."""

    vector: NDArray[np.float32]
    fused: int = 1

    @property
    def comparison(self) -> Comparison:
        """Which comparisons it makes with references."""
        return Comparison.FUSED_TO_ONE if self.fused == 1 else Comparison.FUSED


def fuse_frames(frames: Sequence[Sample], one_person: float) -> Sample:
    """One sample of the frames of a face; of a single one it is that itself.

    Frames that are fit are fused, the others are left out; where none is fit, the problems are the
    best one's. LIVE_FRAMES_DIFFER where no fit frame scores at least `one_person` with every other:
    somebody else is on one of them. Crop, thumbnail, quality and digest are the best frame's, which
    is the one that people are shown.
    """
    if len(frames) == 1:
        return frames[0]
    best = max(frames, key=_rank)
    kept = tuple(one if one is best else replace(one, crop=None) for one in frames)
    vectors = [one.vector for one in frames if one.vector is not None and not one.problems]
    if len(vectors) < 2:
        return replace(best, frames=kept)
    if not measure_agreement(np.stack(vectors)) >= one_person:
        return replace(best, problems=(Reason.LIVE_FRAMES_DIFFER,), frames=kept)
    return replace(best, vector=fuse_vectors(*vectors), frames=kept)


def describe_frames(sample: Sample) -> list[dict[str, Any]]:
    """What evidence keeps of each frame, in the order they came: the SHA-256 of its image, what is
    wrong with it, whether it was fused, its quality. Empty where there was one photograph.
    """
    return [
        {
            "image_sha256": one.digest.hex(),
            "problems": [reason.value for reason in one.problems],
            "is_fused": one.is_usable and sample.is_usable,
            "quality": dict(one.quality),
        }
        for one in sample.frames
    ]


def _rank(frame: Sample) -> tuple[bool, bool, int, float]:
    """Higher for the better one: fit, with a face, with few problems, surely detected."""
    score = frame.quality.get("detection_score", 0.0)
    return frame.is_usable, frame.vector is not None, -len(frame.problems), score


def measure_agreement(vectors: NDArray[np.float32]) -> float:
    """The least score that the frame closest to all others has with one of them: float32[n, d]."""
    count = len(vectors)
    rows, others = np.array(list(product(range(count), repeat=2))).T
    scores = exact_scores(vectors, vectors, rows, others).reshape(count, count)
    np.fill_diagonal(scores, np.inf)
    return float(scores.min(axis=1).max())
