"""A document that takes the place of another one of the same person."""

from __future__ import annotations

from dataclasses import dataclass

from engine.matching.calibration import Thresholds
from engine.matching.checks.authority import find_told
from engine.matching.policy import FaceScores, Finding
from schema.reasons import Decision, Reason

_REPLACES_AT_ONCE = frozenset({"1", "2", "3", "4"})
"""Versions of the policy that let any face of the old holder replace a document, under whatever
name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacementEvidence:
    """What there is of a document that is said to be replaced: `score` and `each` are those of the
    faces shown with its references, as a holder's, None without any; `is_free` whether nothing
    else stands against it."""

    document_id: str | None = None
    score: float | None = None
    each: FaceScores | None = None
    is_free: bool = False
    name_differs: bool = False
    is_always_asked: bool = False
    """Whether two people decide of every one: a delay is set."""
    is_confirmed: bool = False
    """Two people have decided of this face and these two documents, and the delay has passed."""
    is_waiting: bool = False
    """They have, and it has not."""
    authority_problem: Reason | None = None
    authority_brings: Decision | None = None

    def find(self, thresholds: Thresholds, version: str) -> list[Finding]:
        """All lines move with a document: only a face beyond doubt under the same name does it
        alone, for a look-alike of one holder among many is soon found."""
        score = self.score
        if score is None or not score >= thresholds.same_document or not self.is_free:
            # Who is not its holder is not told what is known of it, either.
            return [Finding(Reason.REPLACEMENT_REFUSED, Decision.REJECTED)]
        said = find_told(self.authority_problem, self.authority_brings)
        is_sure = score >= thresholds.certain and not self.name_differs
        is_asked = self.is_always_asked or not is_sure
        if version in _REPLACES_AT_ONCE or self.is_confirmed or not is_asked:
            return said
        return [*said, Finding(Reason.REPLACEMENT_ASKED, Decision.REVIEW)]
