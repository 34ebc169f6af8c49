"""Which of several faces a photograph is of, and whether another competes with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.faces.detector import DetectedFace


def choose_main_face(faces: Sequence[DetectedFace], size_px: tuple[int, int]) -> int:
    """Index of the largest face, weighted by its closeness to the picture's centre.

    `size_px` is (width, height) in the faces' coordinates. A face whose centre lies in a corner
    counts half.
    """
    width, height = size_px

    def weigh(face: DetectedFace) -> float:
        x, y, face_width, face_height = face.box_px
        off_centre = math.hypot(
            (x + face_width / 2) / width - 0.5, (y + face_height / 2) / height - 0.5
        )
        return face_height * (1 - min(off_centre / math.sqrt(2), 0.5))

    return max(range(len(faces)), key=lambda index: weigh(faces[index]))


def has_rival(faces: Sequence[DetectedFace], main: int, height_share: float) -> bool:
    """True if another face is at least `height_share` as high as the main one."""
    smallest = faces[main].box_px[3] * height_share
    return any(face.box_px[3] >= smallest for i, face in enumerate(faces) if i != main)
