"""Flagged pairs: strangers who may be one person under two names, by an error of the labels.

All figures of an evaluation still count every photograph as it is labelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.accuracy.dataset import Embeddings
from engine.accuracy.error_rates import thresholds_at
from engine.accuracy.pair_scores import Comparisons, Templates, find_close_strangers

MATE_QUANTILE = 0.25
"""Strangers who score higher than a quarter of the mates may be one person."""
MAX_FLAGGED_PAIRS = 1000
"""Limit of flagged pairs; a model that distinguishes nobody would flag all."""


@dataclass(frozen=True, slots=True, eq=False)
class Flagged:
    """Flagged `pairs` as rows of templates, highest score first.

    Pairs from `suspect_score` on are flagged; `mates_reaching` is the share of mated pairs above
    it.
    """

    pairs: Comparisons
    suspect_score: float
    mates_reaching: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "pairs": len(self.pairs),
            "suspect_score": self.suspect_score,
            "mates_reaching": self.mates_reaching,
        }

    def to_rows(self, embeddings: Embeddings) -> list[dict[str, Any]]:
        """The pairs with the paths of their photographs, which may name people."""
        folder, places = embeddings.folder, embeddings.places

        def name(row: int) -> str:
            path = folder.paths[int(places[row])]
            return path.relative_to(folder.root).as_posix()

        columns = (self.pairs.left, self.pairs.right, self.pairs.scores)
        return [
            {"photograph": name(left), "other": name(right), "score": float(score)}
            for left, right, score in zip(*columns, strict=True)
        ]

    def code_people(self, singles: Templates) -> NDArray[np.int64]:
        """int64[k]: `left * population + right` of the people flagged, both ways."""
        left, right = singles.people[self.pairs.left], singles.people[self.pairs.right]
        one, other = left * singles.population + right, right * singles.population + left
        return np.unique(np.concatenate([one, other]))


def flag_strangers(
    singles: Templates, mated: NDArray[np.float32], nonmated: NDArray[np.float32]
) -> Flagged:
    """Flag pairs of strangers; `mated` and `nonmated` are all scores of `singles`."""
    limit = thresholds_at(nonmated, np.array([min(MAX_FLAGGED_PAIRS / len(nonmated), 0.5)]))[0]
    suspect = max(float(np.quantile(mated, MATE_QUANTILE)), float(limit))
    found = find_close_strangers(singles, suspect)
    order = np.argsort(-found.scores, kind="stable")
    return Flagged(
        pairs=Comparisons(found.left[order], found.right[order], found.scores[order]),
        suspect_score=suspect,
        mates_reaching=float((mated >= suspect).mean()),
    )
