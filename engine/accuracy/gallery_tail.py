"""The high scores of strangers' probes against references, and what thresholds they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.accuracy.metrics import thresholds_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.accuracy.templates import Templates

TAIL = 5e-3
"""The share of all comparisons that is kept: enough for an FPIR of 0.1 in the smallest gallery."""
SAMPLE = 512
GRID = 64
LEAST_RATE = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """Rates at the falling `grid` of thresholds, a column a replicate, the first the sample's own.

    `fpir` float64[sizes, grid, replicates] and `fmr` float64[grid, replicates], both rising along
    the grid; `scores` float32[k], falling, of the strangers' comparisons, and which are `flagged`.
    """

    sizes: NDArray[np.int64]
    grid: NDArray[np.float32]
    fpir: NDArray[np.float64]
    fmr: NDArray[np.float64]
    scores: NDArray[np.float32]
    flagged: NDArray[np.bool_]
    comparisons: int

    def thresholds_for(self, rates: NDArray[np.float64], wanted: float) -> NDArray[np.float64]:
        """float64[replicates]: where each column of `rates` has the rate wanted, by logarithms."""
        logs = np.log(np.maximum(rates, LEAST_RATE))
        grid = self.grid.astype(np.float64)
        return np.array([np.interp(np.log(wanted), column, grid) for column in logs.T])

    def fmr_at(self, threshold: float) -> float:
        return float((self.scores >= threshold).sum() / self.comparisons)

    def flagged_share(self, threshold: float) -> float:
        above = self.scores >= threshold
        return float(self.flagged[above].mean()) if above.any() else 0.0


def find_tail(
    probes: Templates,
    references: NDArray[np.float32],
    present: NDArray[np.int64],
    doubtful: NDArray[np.int64],
    weights: NDArray[np.float32],
    sizes: NDArray[np.int64],
) -> Tail:
    """Each of `probes` against the references float32[population, d] of all other `present` people.

    `weights` float32[population, replicates].
    """
    rows, owners, scores = _compare(probes, references, present)
    order = np.argsort(-scores, kind="stable")
    rows, owners, scores = rows[order], owners[order], scores[order]
    ranks = np.unique(np.geomspace(1, len(scores), GRID).astype(np.int64))
    fpir, fmr = _weigh(probes, rows, owners, ranks, weights, sizes)
    return Tail(
        sizes=sizes,
        grid=scores[ranks - 1],
        fpir=fpir,
        fmr=fmr,
        scores=scores,
        flagged=np.isin(probes.people[rows] * probes.population + owners, doubtful),
        comparisons=len(probes.people) * (len(present) - 1),
    )


def _compare(
    probes: Templates, references: NDArray[np.float32], present: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Rows of probes, people of references and scores, of the highest TAIL of all comparisons."""
    gallery = references[present]
    chosen = np.linspace(0, len(probes.people) - 1, SAMPLE).astype(np.int64)
    sample = probes.vectors[chosen] @ gallery.T
    strangers = sample[probes.people[chosen][:, None] != present[None, :]]
    least = thresholds_at(strangers, np.array([TAIL]))[0]
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
    for start in range(0, len(probes.people), SAMPLE):
        block = probes.vectors[start : start + SAMPLE] @ gallery.T
        row, place = np.nonzero(block >= least)
        owner = present[place]
        is_stranger = probes.people[start + row] != owner
        kept = block[row, place][is_stranger]
        found.append((start + row[is_stranger], owner[is_stranger], kept))
    rows, owners, scores = (np.concatenate(part) for part in zip(*found, strict=True))
    return rows, owners, scores


def _weigh(
    probes: Templates,
    rows: NDArray[np.int64],
    owners: NDArray[np.int64],
    ranks: NDArray[np.int64],
    weights: NDArray[np.float32],
    sizes: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """FPIR float64[sizes, ranks, replicates] and FMR float64[ranks, replicates] of best ranks."""
    replicates = weights.shape[1]
    # Rows that match at all, numbered anew: most probes never do.
    used, place = np.unique(rows, return_inverse=True)
    own = weights[probes.people[used]]
    matches = np.zeros((len(used), replicates), np.float32)
    drawn = np.bincount(probes.people, minlength=len(weights)) @ weights.astype(np.float64)
    people = weights[:, 0].sum()
    shares = np.minimum(sizes / (people - 1), 1 - 1e-9)
    logs = np.log1p(-shares).astype(np.float32)
    fpir = np.empty((len(sizes), len(ranks), replicates))
    fmr = np.empty((len(ranks), replicates))
    before = 0
    for number, rank in enumerate(ranks):
        fresh = slice(before, rank)
        np.add.at(matches, place[fresh], weights[owners[fresh]])
        before = rank
        fmr[number] = np.einsum("pb,pb->b", own, matches, dtype=np.float64) / (drawn * (people - 1))
        hit = np.flatnonzero(matches.any(axis=1))
        for size, log in enumerate(logs):
            raised = -np.expm1(matches[hit] * log)
            fpir[size, number] = np.einsum("pb,pb->b", own[hit], raised) / drawn
    return fpir, fmr
