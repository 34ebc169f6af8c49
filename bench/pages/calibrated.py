"""What the shipped calibration says of a sweep: figures of documents that no run measures."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from engine.matching.thresholds import Comparison
from engine.sweeps.expectation import FALSE_PAIRS_PER_REFERENCE
from serving.models import load_calibration
from serving.settings import Settings

_MILLION = 1_000_000


@cache
def list_calibrated() -> Mapping[str, float]:
    """By the names that `docs/figures.toml` has for them."""
    last = load_calibration(Settings()).curve(Comparison.FUSED).points[-1]
    # Pairs grow with the square of the gallery, the budget of false ones with its size.
    largest = 1 + 2 * FALSE_PAIRS_PER_REFERENCE / last.fmr
    return {
        "highest threshold": last.threshold,
        "strangers of a million at it": last.fmr * (_MILLION * (_MILLION - 1) // 2),
        "largest sweep, about": float(f"{largest:.1g}"),
    }
