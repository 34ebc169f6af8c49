"""Five landmarks onto a template: the crop that an embedder was trained on."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.faces.images import Pixels

Points = NDArray[np.float32]

# Deng et al., "ArcFace" (2019), on 112x112: the eyes (left in the picture first), the tip of the
# nose, the corners of the mouth.
_ARCFACE_112 = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ],
    dtype=np.float64,
)


def arcface_template(side_px: int) -> Points:
    """The ArcFace template float32[5, 2] for a square crop of this side."""
    return (_ARCFACE_112 * (side_px / 112)).astype(np.float32)


def estimate_similarity(source: Points, target: Points) -> NDArray[np.float64]:
    """float64[2, 3]: the rotation, uniform scale and shift with the least squared error.

    Umeyama (1991). In the plane, with points as complex numbers, it has this closed form.
    """
    z = source.astype(np.float64) @ [1, 1j]
    w = target.astype(np.float64) @ [1, 1j]
    centred = z - z.mean()
    turn = np.vdot(centred, w - w.mean()) / np.vdot(centred, centred)
    shift = w.mean() - turn * z.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def align(pixels: Pixels, landmarks_px: Points, side_px: int) -> Pixels:
    """uint8[side, side, 3]: the face with `landmarks_px` float32[5, 2] on the ArcFace template.

    What lies outside of the picture is black.
    """
    matrix = estimate_similarity(landmarks_px, arcface_template(side_px))
    crop = cv2.warpAffine(pixels, matrix, (side_px, side_px), flags=cv2.INTER_LINEAR)
    return np.asarray(crop, dtype=np.uint8)
