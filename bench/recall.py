"""How many of the mates whose score is near a threshold each index finds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.bruteforce import find_best
from bench.report import Figure, Result, Setup
from bench.searchers import Searcher
from bench.vectors import Faces, Near, Vectors

_BAND = (0.45, 0.50)
_WIDTH = 0.05
_FEWEST = 20


@dataclass(frozen=True, slots=True, eq=False)
class Findable:
    """Mates in a band that brute force has among the k best of their probe."""

    name: str
    near: Near
    k: int

    def __len__(self) -> int:
        return len(self.near)

    def recall(self, searcher: Searcher) -> float:
        """The share of them that it has among its k best."""
        found = searcher.best(self.near.probes, self.k)
        return float(_holds(found, self.near.rows).mean())


def find_bands(faces: Faces, review: float, count: int, k: int) -> tuple[Findable, ...]:
    """The band of mates that the literature calls hard, and the one above the review threshold."""
    bands = {
        f"score {_BAND[0]:.2f} to {_BAND[1]:.2f}": _BAND,
        f"score {review:.2f} to {review + _WIDTH:.2f}, just in review": (review, review + _WIDTH),
    }
    return tuple(
        Findable(name, _keep_findable(faces.near(*band, count), faces.references, k), k)
        for name, band in bands.items()
    )


def list_recall(
    bands: Iterable[Findable],
    searchers: Iterable[Searcher],
    missing: Mapping[str, str],
    setup: Setup,
) -> list[Result]:
    """A result a band: the share of its findable mates, 1 for brute force itself."""
    results = []
    for band in bands:
        if len(band) < _FEWEST:
            reason = f"only {len(band)} mates have such a score: raise --n"
            figures = [Figure.skip(one.name, "share", reason) for one in searchers]
        else:
            figures = [Figure(one.name, "share", band.recall(one)) for one in searchers]
        figures += [Figure.skip(one, "share", reason) for one, reason in missing.items()]
        counts: Setup = {"k": band.k, "mates": len(band)}
        results.append(Result(f"Recall of mates, {band.name}", setup | counts, tuple(figures)))
    return results


def _keep_findable(near: Near, references: Vectors, k: int) -> Near:
    best = find_best(near.probes, references, k)
    found = np.array([row in best.of(query)[0] for query, row in enumerate(near.rows)], np.bool_)
    return Near(near.rows[found], near.probes[found])


def _holds(found: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    holds: NDArray[np.bool_] = (found == rows[:, None]).any(axis=1)
    return holds
