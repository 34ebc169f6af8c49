"""What an answer tells of the comparisons behind a decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from engine.matching.comparison import Comparisons
from engine.matching.policy import Evidence


def tell_scores(evidence: Evidence) -> dict[str, float | None]:
    """The score of each comparison; None for one that was not made."""
    return {
        "live_portrait": evidence.live_portrait_score,
        "holder": evidence.holder_score,
        "best_candidate": max((item.score for item in evidence.candidates), default=None),
    }


def tell_search(
    evidence: Evidence, comparisons: Comparisons, false_candidates: Mapping[str, Any]
) -> dict[str, Any]:
    """Never a silent "no match": where no search ran, the answer says that none did."""
    if evidence.searched is None:
        return {"ran": False}
    return {
        "ran": True,
        "searched": evidence.searched,
        "gallery_sequence": comparisons.sequence,
        "candidates": [asdict(candidate) for candidate in evidence.candidates],
        "expected_false_candidates": dict(false_candidates),
    }
