"""Searches that store nothing: whose references look like this face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.matching.policy import Candidate
from engine.registry.reader import Reader
from indexes.gallery import Gallery


@dataclass(frozen=True, slots=True)
class Identification:
    """Candidates best first, and what was searched: an empty list is a true "nobody"."""

    candidates: tuple[Candidate, ...]
    searched: int
    gallery_sequence: int


def identify(
    probes: NDArray[np.float32], gallery: Gallery, registry: Reader, *, threshold: float
) -> list[Identification]:
    """All references at or above the threshold, for each probe of float32[n, d], unit rows.

    Whatever the number of probes, the registry is asked once, and only where there are hits.
    """
    found = gallery.range_search(probes, threshold)
    # Most probes find nobody, and share one answer.
    answers = [Identification((), found.searched, found.sequence)] * len(found.hits)
    if len(found.hits.ids) == 0:
        return answers
    owners = registry.documents_of(np.unique(found.hits.ids).tolist())
    for query in np.flatnonzero(np.diff(found.hits.offsets)).tolist():
        ids, scores = found.hits.of(query)
        candidates = tuple(
            Candidate(key, owners[key], float(score))
            for key, score in zip(ids.tolist(), scores, strict=True)
            if key in owners
        )
        answers[query] = Identification(candidates, found.searched, found.sequence)
    return answers
