"""YuNet (Wu, Peng & Yu, 2023): where faces are, with five landmarks each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.errors import ModelCardInvalid
from engine.faces.images import Pixels
from engine.models.session import Session

_STRIDES = (8, 16, 32)
_KINDS = ("cls", "obj", "bbox", "kps")
_Raw = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class DetectorConfig:
    """`look_sides_px`: the longer side of each look; a later one follows if nothing was found.

    A face counts from `min_score`; of two that overlap by more than `max_overlap`
    (intersection over union) the better one is kept.
    """

    look_sides_px: tuple[int, ...] = (320, 640)
    min_score: float = 0.6
    max_overlap: float = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class DetectedFace:
    """`box_px` is x, y, width, height; `landmarks_px` float32[5, 2]: eyes, nose, mouth corners.

    The eye and the corner that lie left in an upright picture come first. `score` is 0 to 1.
    """

    box_px: tuple[float, float, float, float]
    landmarks_px: NDArray[np.float32]
    score: float


class FaceDetector:
    """Finds the faces of a picture; may be used by several threads at once."""

    def __init__(self, session: Session, config: DetectorConfig | None = None) -> None:
        missing = {f"{k}_{s}" for k in _KINDS for s in _STRIDES} - set(session.output_names)
        if missing:
            raise ModelCardInvalid("the detector's model has not YuNet's outputs; use yunet")
        self._session = session
        self._config = config or DetectorConfig()

    def detect(self, pixels: Pixels) -> tuple[DetectedFace, ...]:
        """Faces in `pixels` uint8[h, w, 3] (RGB), best score first, in its coordinates."""
        height, width = pixels.shape[:2]
        longer = max(height, width)
        looked = 0
        for wanted in self._config.look_sides_px:
            side = min(wanted, longer)  # enlarging shows the detector nothing new
            if side == looked:
                continue
            looked = side
            faces = self._look(pixels, side / longer)
            if faces:
                return faces
        return ()

    def _look(self, pixels: Pixels, scale: float) -> tuple[DetectedFace, ...]:
        height, width = pixels.shape[:2]
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
        outputs = self._session.run(_pad_to_bgr(np.asarray(small, dtype=np.uint8)))
        raw = dict(zip(self._session.output_names, outputs, strict=True))
        boxes, landmarks, scores = _decode(raw, small.shape[1], self._config.min_score)
        stretch = np.array([width / size[0], height / size[1]], dtype=np.float32)
        kept = _suppress(boxes, scores, self._config.max_overlap)
        return tuple(
            DetectedFace(
                box_px=_as_box(boxes[i] * np.tile(stretch, 2)),
                landmarks_px=landmarks[i] * stretch,
                score=float(scores[i]),
            )
            for i in kept
        )


def _as_box(values: NDArray[np.float32]) -> tuple[float, float, float, float]:
    x, y, width, height = (float(value) for value in values)
    return x, y, width, height


def _pad_to_bgr(pixels: Pixels) -> NDArray[np.float32]:
    """float32[1, 3, h, w] in BGR, black at right and below up to multiples of 32."""
    height, width = pixels.shape[:2]
    padded = np.zeros((1, 3, -(-height // 32) * 32, -(-width // 32) * 32), dtype=np.float32)
    for channel in range(3):
        padded[0, channel, :height, :width] = pixels[:, :, 2 - channel]
    return padded


def _decode(
    raw: _Raw, width: int, min_score: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Boxes float32[n, 4], landmarks float32[n, 5, 2] and scores float32[n] from `min_score`.

    Each cell of each stride proposes one face, relative to its own corner and in strides.
    """
    boxes, landmarks, scores = [], [], []
    for stride in _STRIDES:
        class_score = np.clip(raw[f"cls_{stride}"][0, :, 0], 0, 1)
        object_score = np.clip(raw[f"obj_{stride}"][0, :, 0], 0, 1)
        score = np.sqrt(class_score * object_score)
        (cells,) = np.nonzero(score >= min_score)
        columns = -(-width // 32) * 32 // stride
        corner = np.stack([cells % columns, cells // columns], axis=1).astype(np.float32)
        box = raw[f"bbox_{stride}"][0, cells]
        size = np.exp(box[:, 2:]) * stride
        centre = (corner + box[:, :2]) * stride
        boxes.append(np.concatenate([centre - size / 2, size], axis=1))
        points = raw[f"kps_{stride}"][0, cells].reshape(-1, 5, 2)
        landmarks.append((points + corner[:, None, :]) * stride)
        scores.append(score[cells])
    return np.concatenate(boxes), np.concatenate(landmarks), np.concatenate(scores)


def _suppress(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], max_overlap: float
) -> Sequence[int]:
    """Indices that remain of greedy non-maximum suppression, best score first."""
    order = np.argsort(-scores, kind="stable")
    near, far = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    area = boxes[:, 2] * boxes[:, 3]
    kept: list[int] = []
    while order.size:
        best, rest = int(order[0]), order[1:]
        kept.append(best)
        side = np.minimum(far[best], far[rest]) - np.maximum(near[best], near[rest])
        shared = np.prod(np.maximum(side, 0), axis=1)
        overlap = shared / (area[best] + area[rest] - shared)
        order = rest[overlap <= max_overlap]
    return kept
