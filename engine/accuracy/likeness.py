"""Whether two photographs are practically one picture: their aligned crops, small and compared.

A picture that was scaled, cropped, compressed anew or mirrored gives the same aligned face; another
photograph of the same person, even of the same minute, gives another light, look or pose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.faces.images import Pixels

FINGERPRINT = 32
"""The side of a crop that is compared."""
BLOCK = 4096
ONE_PICTURE = 0.9
"""From this likeness on two crops are one picture, if the faces score alike too. Of pairs
of LFW that were looked at, those that reach 0.9 in both are one, those in one alone are not."""


def fingerprint(crop: Pixels) -> NDArray[np.float32]:
    """float32[FINGERPRINT²]: the luma of an aligned crop uint8[side, side, 3], without its mean."""
    side = (FINGERPRINT, FINGERPRINT)
    small = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), side, interpolation=cv2.INTER_AREA)
    luma = np.asarray(small, dtype=np.float32).ravel()
    luma -= luma.mean()
    return luma / max(float(np.linalg.norm(luma)), 1.0)


def compare_prints(
    prints: NDArray[np.float32], left: NDArray[np.int64], right: NDArray[np.int64]
) -> NDArray[np.float32]:
    """float32[k]: how alike the crops of each two rows are, mirrored or not; 1 for one picture.

    What all faces have in common, the mean of all prints, is taken away first.
    """
    faces = prints.reshape(-1, FINGERPRINT, FINGERPRINT)
    straight, mirrored = _centre(prints), _centre(faces[:, :, ::-1].reshape(prints.shape))
    alike = np.empty(len(left), np.float32)
    for start in range(0, len(left), BLOCK):
        part = slice(start, start + BLOCK)
        own = straight[left[part]]
        scores = (np.einsum("kf,kf->k", own, x[right[part]]) for x in (straight, mirrored))
        alike[part] = np.maximum(*scores)
    return alike


def _centre(prints: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit rows, without the mean of those that are not zero."""
    own: NDArray[np.float32] = prints - prints[prints.any(axis=1)].mean(axis=0)
    own /= np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-6)
    return own
