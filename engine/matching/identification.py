"""Identification: searches of the gallery that store nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.matching.policy import Candidate
from engine.registry.reader import Reader
from engine.registry.records import AuditEntry
from indexes.gallery import Gallery


@dataclass(frozen=True, slots=True)
class Identification:
    """Candidates, best first, and what was searched.

    Where only the best were asked for, `left_out` more references reach the threshold, of
    `documents_left_out` documents that no candidate names.
    """

    candidates: tuple[Candidate, ...]
    searched: int
    gallery_sequence: int
    left_out: int = 0
    documents_left_out: int = 0

    @property
    def found(self) -> int:
        """How many references reach the threshold."""
        return len(self.candidates) + self.left_out

    @property
    def found_documents(self) -> int:
        """How many documents these references are of."""
        return len({one.document_id for one in self.candidates}) + self.documents_left_out


def identify(
    probes: NDArray[np.float32],
    gallery: Gallery,
    registry: Reader,
    *,
    threshold: float,
    most: int | None = None,
) -> list[Identification]:
    """All references at or above the threshold, for each probe of float32[n, d], unit rows; the
    `most` best of them, where that is given.

    Whatever the number of probes, the registry is asked once; where nobody is found too, or the
    time that an answer takes would tell of holders whom it does not name.
    """
    found = gallery.range_search(probes, threshold)
    # Most probes find nobody, and share one answer.
    answers = [Identification((), found.searched, found.sequence)] * len(found.hits)
    owners = registry.documents_of(np.unique(found.hits.ids).tolist() or [0])
    for query in np.flatnonzero(np.diff(found.hits.offsets)).tolist():
        ids, scores = found.hits.of(query)
        candidates = tuple(
            Candidate(key, owners[key], float(score))
            for key, score in zip(ids.tolist(), scores, strict=True)
            if key in owners
        )
        best = candidates[:most]
        left_out = {one.document_id for one in candidates[len(best) :]}
        answers[query] = Identification(
            best,
            found.searched,
            found.sequence,
            left_out=len(candidates) - len(best),
            documents_left_out=len(left_out.difference(one.document_id for one in best)),
        )
    return answers


def keep_documents(found: Identification, documents: Collection[str]) -> Identification:
    """What of it is about these documents alone, as if there were no others."""
    kept = tuple(one for one in found.candidates if one.document_id in documents)
    return replace(found, candidates=kept, left_out=0, documents_left_out=0)


def note_identified(answers: Sequence[Identification], actor: str) -> AuditEntry:
    """What the audit chain keeps of searches, whoever is found: by whom, and which documents were
    shown."""
    shown = [candidate.document_id for answer in answers for candidate in answer.candidates]
    documents = sorted(set(shown))
    detail = {"probes": len(answers), "candidates": len(shown), "documents": documents}
    return AuditEntry(actor, "faces.identified", "gallery", detail)
