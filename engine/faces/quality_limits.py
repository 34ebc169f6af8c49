"""Limits of quality by kind of photograph; it imports nothing heavy, for the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from schema.reasons import PhotographKind


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """Limits beyond which a photograph is refused, of the measures in `engine.faces.quality`.

    Each stands where the expected loss exceeds 10 %: where so many of LFW's photographs, degraded
    step by step, no longer match their mates. `sosie bench accuracy` measures what they miss and
    what they refuse without need; docs/decisions/0037 has the curves.
    """

    min_inter_eye_px: float = 8.0
    min_sharpness: float = 0.35
    min_exposure: float = 0.05
    max_exposure: float = 0.93
    min_contrast: float = 0.03
    max_yaw_deg: float = 45.0
    max_pitch_deg: float = 35.0
    max_roll_deg: float = 180.0
    min_detail_bytes: float = 106.0
    max_cut_share: float = 0.3
    min_clarity: float = 0.78


QUALITY_LIMITS: Mapping[PhotographKind, QualityLimits] = MappingProxyType(
    {
        PhotographKind.LIVE: QualityLimits(),
        PhotographKind.PRINTED: QualityLimits(),
        PhotographKind.CHIP: QualityLimits(min_detail_bytes=90.0),
    }
)
