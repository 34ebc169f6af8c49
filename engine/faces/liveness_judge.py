"""A judge that looks at the picture itself: an operator's model that tells how live a face seems.

Sosie ships none. It cuts the face out as the model's card says, and takes the one number that the
card names as the probability of a live face.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from msgspec import structs

from engine.errors import ModelCardInvalid
from engine.faces.embedder import Pixels, prepare
from engine.models.catalog import ModelCard, Role
from engine.models.onnx_sessions import Session, SessionOptions, open_session
from indexes.base import Doubles, Octets
from schema.decisions import JudgeEvidence
from schema.reasons import Decision, Reason

_BATCH = 16


@dataclass(frozen=True, slots=True)
class Judged:
    """A judge's result for a face, with its digest: a probability, NaN where it gave none."""

    digest: str
    score: float


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


class LivenessJudge:
    """Runs a model of role `liveness` by its card, on the CPU; thread-safe."""

    def __init__(self, session: Session, card: ModelCard) -> None:
        """Judges black crops at once: `ModelCardInvalid` where the card does not fit its graph."""
        if card.role is not Role.LIVENESS or card.liveness is None:
            raise ModelCardInvalid(
                f"model {card.name} is of role {card.role}: `judge` under [liveness] takes one of "
                "role liveness"
            )
        self.card = card
        self.digest = digest_judge(card)
        self.side_px = card.input.width_px
        self.crop_scale = card.liveness.crop_scale
        self._contract = card.liveness
        self._session = session
        names = session.output_names
        if self._contract.output and self._contract.output not in names:
            raise ModelCardInvalid(
                f"model {card.name} has no output `output` of its card: use {', '.join(names)}"
            )
        if session.fixed_batch not in (None, 1):
            raise ModelCardInvalid(
                f"model {card.name} takes batches of {session.fixed_batch} only; "
                "export it with a free batch dimension"
            )
        self._output = names.index(self._contract.output) if self._contract.output else 0
        # Two: with one a graph that takes its batch for one face would go unseen.
        self.judge(np.zeros((2, self.side_px, self.side_px, 3), np.uint8))

    def judge(self, crops: Octets) -> Doubles:
        """Crops uint8[n, side, side, 3] (RGB) to float64[n]: the probability that each is live, NaN
        for what is none."""
        step = self._session.fixed_batch or _BATCH
        parts = [self._score(crops[start : start + step]) for start in range(0, len(crops), step)]
        return np.concatenate(parts)

    def _score(self, crops: Octets) -> Doubles:
        """As `judge`, of one batch."""
        found = self._session.run(prepare(self.card.input, crops))[self._output]
        if found.shape[:1] != (len(crops),):
            raise ModelCardInvalid(
                f"model {self.card.name} gives an output of shape {list(found.shape)} for "
                f"{len(crops)} faces; export it with a row for each"
            )
        values = found.astype(np.float64).reshape(len(crops), -1)
        place, count = self._contract.index, values.shape[1]
        if place >= count:
            raise ModelCardInvalid(
                f"model {self.card.name} gives {count} numbers for a face, its card takes number "
                f"{place}; correct `index`"
            )
        with np.errstate(all="ignore"):
            if self._contract.activation == "softmax":
                powers = np.exp(values - values.max(axis=1, keepdims=True))
                values = powers / powers.sum(axis=1, keepdims=True)
            elif self._contract.activation == "sigmoid":
                values = 1 / (1 + np.exp(-values))
        chosen = values[:, place]
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
        left, top = x + width / 2 - side / 2, y + height / 2 - side / 2
        scale = self.side_px / side
        crop = np.zeros((self.side_px, self.side_px, 3), np.uint8)
        # Only what is there is cut: the square may be many times as large as the picture.
        rows, columns = pixels.shape[:2]
        first_x, last_x = max(round(left), 0), min(round(left + side), columns)
        first_y, last_y = max(round(top), 0), min(round(top + side), rows)
        to_x, end_x = (round((at - left) * scale) for at in (first_x, last_x))
        to_y, end_y = (round((at - top) * scale) for at in (first_y, last_y))
        to_x, to_y = max(to_x, 0), max(to_y, 0)
        end_x, end_y = min(end_x, self.side_px), min(end_y, self.side_px)
        if last_x <= first_x or last_y <= first_y or end_x <= to_x or end_y <= to_y:
            return crop
        part = pixels[first_y:last_y, first_x:last_x]
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        crop[to_y:end_y, to_x:end_x] = cv2.resize(
            part, (end_x - to_x, end_y - to_y), interpolation=how
        )
        return crop

    def measure_scale(self, box_px: tuple[float, float, float, float]) -> float:
        """Pixels of its crop for a pixel of the full picture."""
        return self.side_px / max(self.crop_scale * max(box_px[2], box_px[3]), 1.0)


def open_judge(card: ModelCard) -> LivenessJudge:
    """The judge of a card; raises what opening a session does, and `ModelCardInvalid`."""
    return LivenessJudge(open_session(card, SessionOptions(provider="cpu")), card)


def digest_judge(card: ModelCard) -> str:
    """SHA-256 over what determines a score: weights, input contract, crop and which number counts;
    not the limits that it is held against."""
    assert card.liveness is not None, "its role is liveness"
    contract = structs.asdict(card.liveness)
    for limit in ("live", "spoof"):
        del contract[limit]
    shaped_by = {"sha256": card.sha256, "input": structs.asdict(card.input), "liveness": contract}
    return hashlib.sha256(json.dumps(shaped_by, sort_keys=True).encode()).hexdigest()
