"""Thresholds, and the kinds of comparisons that they hold for."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct


class Comparison(StrEnum):
    """What is compared: single photographs, or references fused of two photographs of a person."""

    ONE_TO_ONE = "one_to_one"
    FUSED_TO_ONE = "fused_to_one"
    FUSED = "fused"


class Interval(Struct, frozen=True):
    """A rate, or an expected count, with its 95 % interval; where `is_bound`, no more is known than
    "at most `value`"."""

    value: float
    low: float
    high: float
    is_bound: bool


class HolderScore(Struct, frozen=True):
    """A probe against a face, or against the references of a document."""

    is_match: bool
    score: Annotated[
        float | None,
        Meta(
            description="of two faces of the caller's own; against a holder null to a tenant, and "
            "where there is no reference"
        ),
    ]
    threshold: float
    document_id: Annotated[str | None, Meta(description="null between two faces")]
    line_id: str | None


class DecidingScores(Struct, frozen=True):
    """The scores that decisions depend on, of enrollments of any age."""

    verify: float
    same_document: float
    review: float
    certain: float
    verify_fused: Annotated[
        float | None,
        Meta(
            description="the most that `verify` becomes where several frames are fused; null, as "
            "the next, in decisions before there were frames"
        ),
    ] = None
    one_person: Annotated[
        float | None, Meta(description="that one of several frames must have with each other")
    ] = None
    same_document_single: Annotated[
        float | None,
        Meta(
            description="of one photograph against a reference; null, as the next two, in "
            "decisions from before live face and portrait were each held against references"
        ),
    ] = None
    review_single: float | None = None
    certain_single: float | None = None
