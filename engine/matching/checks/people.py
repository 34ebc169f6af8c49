"""People whom rules treat apart: minors, exceptions, the dead, holders of replaced documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from engine.matching.checks.guardians import GuardianEvidence
from engine.matching.checks.replacements import ReplacementEvidence
from engine.matching.policy import Evidence, EvidencePart, Finding
from schema.people import ExceptionCause
from schema.reasons import About, Decision, Reason

_REJECTS_EXCUSED = frozenset({"1", "2", "3"})
"""Versions of the policy that rejected an exception for what is known of its document or number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeoplePart(EvidencePart):
    """What rules of their own go by: on minors, exceptions, the dead and replaced documents.

    `is_minor` is None where no rule asks, or no date of birth is known; `is_age_asked` tells
    which. `asked_exceptions` are the outlet's of late, before this one.
    """

    key = "people"
    is_age_asked: bool = False
    is_minor: bool | None = None
    is_face_waived: bool = False
    """A minor who shows no face, where the guardian's is enough."""
    guardian: GuardianEvidence | None = None
    exception: ExceptionCause | None = None
    is_exception_offered: bool = False
    asked_exceptions: int = 0
    exception_limit: int = 0
    is_deceased: bool = False
    deceased_look_alikes: tuple[str, ...] = ()
    is_replaced: bool = False
    replacement: ReplacementEvidence | None = None

    @property
    def is_excused(self) -> bool:
        """True where a fault of the photographs goes before two people."""
        return self.exception is not None and self.exception_refusal is None

    @property
    def exception_refusal(self) -> Reason | None:
        if self.exception is None:
            return None
        if not self.is_exception_offered:
            return Reason.EXCEPTION_NOT_OFFERED
        is_full = self.asked_exceptions >= self.exception_limit
        return Reason.EXCEPTION_LIMIT_REACHED if is_full else None

    def find(self, evidence: Evidence, version: str) -> Iterator[Finding]:
        rows = (
            (self.exception_refusal is not None, self.exception_refusal, Decision.REJECTED),
            (self.is_deceased, Reason.HOLDER_DECEASED, Decision.REJECTED),
            (self.is_replaced, Reason.DOCUMENT_REPLACED, Decision.REJECTED),
            (bool(self.deceased_look_alikes), Reason.DECEASED_LOOK_ALIKE, Decision.REVIEW),
            (self.is_excused, Reason.EXCEPTION_ASKED, Decision.REVIEW),
            (
                self.is_age_asked and self.is_minor is None,
                Reason.BIRTH_DATE_MISSING,
                Decision.REJECTED,
            ),
        )
        for applies, reason, brings in rows:
            if applies and reason is not None:
                yield Finding(reason, brings)
        if self.replacement is not None:
            yield from self.replacement.find(evidence.thresholds, version)
        if self.is_minor and self.guardian is None:
            yield Finding(Reason.GUARDIAN_MISSING, Decision.REJECTED)
        elif self.is_minor and self.guardian is not None:
            yield from self.guardian.find(evidence.thresholds)

    def temper(self, findings: Sequence[Finding], version: str) -> Sequence[Finding]:
        """Two people look at an exception, and what is granted is checked once more: they have what
        is wrong with its photographs, and all that is known of its document."""
        if not (self.is_excused or self.is_face_waived):
            return findings
        left = [
            one
            for one in findings
            if one.photograph is None or one.reason.row.about is not About.PHOTOGRAPH
        ]
        if not self.is_excused:
            return left
        # A hurt face may not be like the portrait.
        return [
            replace(one, decision=Decision.REVIEW)
            if one.reason is Reason.FACE_MISMATCH
            or (one.reason.is_of_holder and version not in _REJECTS_EXCUSED)
            else one
            for one in left
        ]

    def is_compared(self, decision: Decision) -> bool:
        guardian = self.guardian if self.is_face_waived else None
        is_shown = guardian is not None and guardian.searched is not None and guardian.is_known
        return is_shown or (self.is_excused and decision is Decision.REVIEW)
