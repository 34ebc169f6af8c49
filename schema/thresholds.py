"""Thresholds, and the kinds of comparisons that they hold for."""

from __future__ import annotations

from enum import StrEnum


class Comparison(StrEnum):
    """What is compared: single photographs, or references fused of two photographs of a person."""

    ONE_TO_ONE = "one_to_one"
    FUSED_TO_ONE = "fused_to_one"
    FUSED = "fused"
