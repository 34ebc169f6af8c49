"""The document that is presented: what is wrong with it, and whether it is the holder's by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.matching.policy import Evidence, EvidencePart, Finding
from schema.reasons import Decision, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentPart(EvidencePart):
    """The document was checked on the date `judged_on`, in the outlet's `time_zone`; decisions from
    before there were time zones have neither."""

    document_findings: tuple[Reason, ...] = ()
    judged_on: str | None = None
    time_zone: str | None = None
    name_differs: bool = False

    def find(self, evidence: Evidence, version: str) -> Iterator[Finding]:
        del evidence, version
        for reason in self.document_findings:
            yield Finding(reason, Decision.REJECTED)
        if self.name_differs:
            yield Finding(Reason.NAME_MISMATCH, Decision.REVIEW)
