"""Limits of quality by kind of photograph; it imports nothing heavy, for the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from schema.options import option
from schema.reasons import PhotographKind


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """Limits beyond which a photograph is refused, of the measures in `engine.faces.quality`.

    Each stands where the expected loss exceeds 10 %: where so many of LFW's photographs, degraded
    step by step, no longer match their mates. `sosie bench accuracy` measures what they miss and
    what they refuse without need; docs/decisions/0037 has the curves.
    """

    min_inter_eye_px: float = option(8.0, "pixels; else FACE_TOO_SMALL", ge=0)
    min_sharpness: float = option(0.35, "else BLURRED", ge=0)
    min_exposure: float = option(0.05, "mean brightness, of 1; else TOO_DARK", ge=0)
    max_exposure: float = option(0.93, "else TOO_BRIGHT", ge=0)
    min_contrast: float = option(0.03, "else LOW_CONTRAST", ge=0)
    max_yaw_deg: float = option(45.0, "turned left or right; else POSE", ge=0)
    max_pitch_deg: float = option(35.0, "turned up or down; else POSE", ge=0)
    max_roll_deg: float = option(180.0, "tilted; else POSE", ge=0)
    min_detail_bytes: float = option(
        106.0, "of the file, a square of one eye distance; else COMPRESSED", ge=0
    )
    min_clarity: float = option(
        0.78, "length of the embedder's vector, of 1 for a usual face; else UNCLEAR", ge=0
    )
    max_cut_share: float = option(0.3, "of the face off the picture; else FACE_CUT", ge=0)


QUALITY_LIMITS: Mapping[PhotographKind, QualityLimits] = MappingProxyType(
    {
        PhotographKind.LIVE: QualityLimits(),
        PhotographKind.PRINTED: QualityLimits(),
        PhotographKind.CHIP: QualityLimits(min_detail_bytes=90.0),
    }
)
