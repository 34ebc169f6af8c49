"""A face searched over the gallery for a fraud team: whose it may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engine.matching.identification import Identification
from serving.access.principal import Principal
from serving.api.call import Call
from serving.api.reception import take_face
from serving.api.schemas.identifications import MAX_CANDIDATES
from serving.api.schemas.matching import Face
from serving.parts import Parts


@dataclass(frozen=True, slots=True)
class FaceSearch:
    """Document to the score of its best reference, best first; `found` counts all documents.

    `facts` are what an answer says of the search: how much was searched, at which threshold.
    """

    scores: dict[str, float]
    found: int
    facts: dict[str, Any]

    @property
    def document_ids(self) -> Sequence[str]:
        return list(self.scores)


async def search_face(
    parts: Parts, call: Call, principal: Principal, face: Face, threshold: float
) -> FaceSearch:
    """The documents at or above the threshold, `MAX_CANDIDATES` at most; audited by the desk."""
    probe = await take_face(parts, call, principal, face)
    found = (await parts.desk.identify(probe[None], threshold, call.context(principal)))[0]
    return FaceSearch(
        scores=_best_scores(found),
        found=found.found_documents,
        facts={
            "searched": found.searched,
            "gallery_sequence": found.gallery_sequence,
            "threshold": threshold,
            "expected_false_candidates": _expect(parts, found.searched, threshold),
        },
    )


def _best_scores(found: Identification) -> dict[str, float]:
    scores: dict[str, float] = {}
    for candidate in found.candidates:
        scores.setdefault(candidate.document_id, candidate.score)
    return dict(list(scores.items())[:MAX_CANDIDATES])


def _expect(parts: Parts, searched: int, threshold: float) -> dict[str, Any] | None:
    if parts.calibration is None:
        return None
    return asdict(parts.calibration.expected_false_candidates(searched, threshold))
