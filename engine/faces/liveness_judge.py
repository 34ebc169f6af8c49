"""A judge that looks at the picture itself: an operator's model that tells how live a face seems.

Sosie ships none. It cuts the face out as the model's card says, and takes the one number that the
card names as the probability of a live face.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable

import cv2
import numpy as np
from msgspec import structs

from engine.faces.embedder import CropScorer, Pixels
from engine.models.catalog import ModelCard
from indexes.base import Doubles, Octets
from schema import frozen
from schema.decisions import JudgeEvidence
from schema.reasons import Decision, Reason


@frozen
class Judged:
    """A judge's result for a face, with its digest: a probability, NaN where it gave none."""

    digest: str
    score: float


@frozen
class JudgeTerms:
    """What is made of the scores of a judge that looks at the picture itself, of the model
    `digest`: live from `live` on, not live below `spoof`. Its findings decide where it `enforces`.
    """

    digest: str
    live: float
    spoof: float
    enforces: bool = False

    def weigh(self, judged: Judged | None) -> Judgement:
        """A face that was not judged, or by another model, is not passed over in silence."""
        if judged is None:
            return Judgement(self, None, "none", Reason.LIVENESS_MISSING, Decision.REVIEW)
        score = judged.score
        if judged.digest != self.digest or math.isnan(score):
            return Judgement(self, None, "none", Reason.LIVENESS_UNCERTAIN, Decision.REVIEW)
        if score >= self.live:
            return Judgement(self, score, "live", None, None)
        if score < self.spoof:
            return Judgement(self, score, "spoof", Reason.LIVENESS_FAILED, Decision.REJECTED)
        return Judgement(self, score, "uncertain", Reason.LIVENESS_UNCERTAIN, Decision.REVIEW)

    def weigh_all(self, judged: Iterable[Judged | None]) -> Judgement:
        """The gravest of what was found of several faces: one that lives speaks for no other."""
        found = map(self.weigh, judged)
        return max(found, key=lambda one: (_GRAVITY[one.gravity], -(one.score or 0.0)))


_GRAVITY = {None: 0, Decision.REVIEW: 1, Decision.REJECTED: 2}


@frozen
class Judgement:
    """A judge's finding on the picture itself; `found` is live, spoof, uncertain or none."""

    terms: JudgeTerms
    score: float | None
    found: str
    problem: Reason | None
    gravity: Decision | None

    @property
    def brings(self) -> Decision | None:
        """The reason that it brings to an enrollment, where it has a say."""
        return self.gravity if self.terms.enforces else None

    @property
    def band(self) -> str:
        """Which tenth its score is in, for metrics."""
        return "none" if self.score is None else f"{min(int(self.score * 10), 9) / 10:.1f}"

    def describe(self) -> JudgeEvidence:
        """Describes it for the evidence."""
        return JudgeEvidence(
            mode="enforce" if self.terms.enforces else "observe",
            model_digest=self.terms.digest,
            found=self.found,
            score=None if self.score is None else round(self.score, 4),
            live=self.terms.live,
            spoof=self.terms.spoof,
        )


class LivenessJudge(CropScorer):
    """Runs a model of role `liveness` by its card, on the CPU; thread-safe."""

    def __init__(self, card: ModelCard) -> None:
        assert card.liveness is not None, "its role is liveness"
        super().__init__(card, card.liveness)
        self.digest = digest_judge(card)
        self.crop_scale = card.liveness.crop_scale
        self._activation = card.liveness.activation

    def judge(self, crops: Octets) -> Doubles:
        """Crops uint8[n, side, side, 3] (RGB) to float64[n]: the probability that each is live, NaN
        for what is none."""
        values = self._read(crops)
        with np.errstate(all="ignore"):
            if self._activation == "softmax":
                powers = np.exp(values - values.max(axis=1, keepdims=True))
                values = powers / powers.sum(axis=1, keepdims=True)
            elif self._activation == "sigmoid":
                values = 1 / (1 + np.exp(-values))
        chosen = values[:, self._index]
        return np.where((chosen >= 0) & (chosen <= 1), chosen, np.nan)

    def cut(
        self, pixels: Pixels, box_px: tuple[float, float, float, float], share: float = 1.0
    ) -> Pixels:
        """The square crop uint8[side, side, 3] around a face: `crop_scale` times the longer side
        of its box (x, y, width, height in the full picture), black beyond the picture.

        `pixels` show the picture at this share of its width and height.
        """
        x, y, width, height = (value * share for value in box_px)
        side = max(self.crop_scale * max(width, height), 1.0)
        crop = np.zeros((self.side_px, self.side_px, 3), np.uint8)
        # Only what is there is cut: the square may be many times as large as the picture.
        rows, down = self._overlap(y + height / 2 - side / 2, side, pixels.shape[0])
        columns, across = self._overlap(x + width / 2 - side / 2, side, pixels.shape[1])
        part, place = pixels[rows, columns], crop[down, across]
        if part.size and place.size:
            how = cv2.INTER_AREA if self.side_px < side else cv2.INTER_LINEAR
            place[:] = cv2.resize(part, place.shape[1::-1], interpolation=how)
        return crop

    def _overlap(self, start: float, side: float, length: int) -> tuple[slice, slice]:
        """One axis of the square where it lies in a picture of this length, and in its crop."""
        first, last = max(round(start), 0), max(min(round(start + side), length), 0)
        scale = self.side_px / side
        places = (min(max(round((at - start) * scale), 0), self.side_px) for at in (first, last))
        return slice(first, last), slice(*places)

    def measure_scale(self, box_px: tuple[float, float, float, float]) -> float:
        """Pixels of its crop for a pixel of the full picture."""
        return self.side_px / max(self.crop_scale * max(box_px[2], box_px[3]), 1.0)


def digest_judge(card: ModelCard) -> str:
    """SHA-256 over what determines a score: weights, input contract, crop and which number counts;
    not the limits that it is held against."""
    assert card.liveness is not None, "its role is liveness"
    contract = structs.asdict(card.liveness)
    for limit in ("live", "spoof"):
        del contract[limit]
    shaped_by = {"sha256": card.sha256, "input": structs.asdict(card.input), "liveness": contract}
    return hashlib.sha256(json.dumps(shaped_by, sort_keys=True).encode()).hexdigest()
