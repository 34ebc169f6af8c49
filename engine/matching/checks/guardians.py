"""The guardian of a minor: the document, and the face that comes along."""

from __future__ import annotations

from dataclasses import dataclass

from engine.matching.calibration import Thresholds
from engine.matching.checks.authority import find_told
from engine.matching.checks.face import is_below
from engine.matching.policy import Candidate, FaceScores, Finding
from schema.reasons import Decision, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardianEvidence:
    """Evidence of the guardian who came with a minor; scores as in `FacePart`.

    `findings` are on the document, `is_same_person` where it is the minor's own, or the face is
    the minor's.
    """

    findings: tuple[Reason, ...] = ()
    problems: tuple[Reason, ...] = ()
    is_grown_up: bool | None = None
    """None where the date of birth is not known."""
    is_same_person: bool = False
    is_barred: bool = False
    """The document is blocked, replaced, about to be erased, or its holder reported dead."""
    is_other: bool = False
    """The minor's document has a face or another guardian already, and neither has come."""
    name_differs: bool = False
    is_watchlisted: bool = False
    has_all_lines: bool = False
    """As many with the carrier, own ones and those answered for, as one person may have."""
    verify: float
    live_portrait_score: float | None = None
    holder_score: float | None = None
    holder_each: FaceScores | None = None
    candidates: tuple[Candidate, ...] = ()
    searched: int | None = None
    authority_problem: Reason | None = None
    authority_brings: Decision | None = None

    @property
    def is_known(self) -> bool:
        """True where the face was compared with the document's portrait, or with its holder's."""
        return self.live_portrait_score is not None or self.holder_score is not None

    def find(self, thresholds: Thresholds) -> list[Finding]:
        """Finds one rejection at most: a person who does not show the face of the guardian's
        document is told no more of it."""
        best = max((one.score for one in self.candidates), default=None)
        certain, review = (
            best is not None and best >= least for least in (thresholds.certain, thresholds.review)
        )
        is_other = is_below(self.live_portrait_score, self.verify)
        is_other = is_other or is_below(self.holder_score, thresholds.same_document)
        rows = (
            (bool(self.findings), Reason.GUARDIAN_REFUSED),
            (bool(self.problems), Reason.GUARDIAN_UNUSABLE),
            (is_other or not self.is_known, Reason.GUARDIAN_MISMATCH),
            (self.is_barred or self.is_same_person, Reason.GUARDIAN_REFUSED),
            (self.is_grown_up is None, Reason.BIRTH_DATE_MISSING),
            (self.is_grown_up is False, Reason.GUARDIAN_REFUSED),
            (certain, Reason.GUARDIAN_DUPLICATE),
            (self.has_all_lines, Reason.LINE_LIMIT_REACHED),
        )
        said = find_told(self.authority_problem, self.authority_brings)
        refused = [Finding(reason, Decision.REJECTED) for applies, reason in rows if applies]
        refused += [one for one in said if one.decision is Decision.REJECTED]
        if refused:
            return refused[:1]
        doubts = (
            (self.is_other, Reason.GUARDIAN_CHANGED),
            (self.name_differs, Reason.NAME_MISMATCH),
            (review, Reason.GUARDIAN_DUPLICATE),
            (self.is_watchlisted, Reason.WATCHLISTED),
        )
        return [Finding(reason, Decision.REVIEW) for applies, reason in doubts if applies] + said
