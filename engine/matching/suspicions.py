"""What a verdict gives people to look into."""

from __future__ import annotations

from engine.casework.book import NewCase
from engine.casework.model import CaseKind, CaseOrigin
from engine.matching.policy import Evidence, Verdict


def describe_case(
    kind: CaseKind,
    verdict: Verdict,
    evidence: Evidence,
    enrollment_id: str,
    document_id: str | None,
) -> NewCase:
    """One of the verdict's cases, about the document presented and those of the candidates.

    A stolen document's is about that alone. Its holder is wronged, and has another face than
    whoever presented it: so the holder is a suspect in none of them.
    """
    is_theft = kind is CaseKind.STOLEN_DOCUMENT
    others = () if is_theft else tuple(item.document_id for item in evidence.candidates)
    own = () if document_id is None else (document_id,)
    best = max((item.score for item in evidence.candidates), default=None)
    is_suspect = CaseKind.STOLEN_DOCUMENT not in verdict.cases
    return NewCase(
        kind=kind,
        origin=CaseOrigin.DECISION,
        enrollment_id=enrollment_id,
        document_ids=own + others,
        suspect_ids=(own if is_suspect else ()) + others,
        score=evidence.holder_score if is_theft else best,
    )
