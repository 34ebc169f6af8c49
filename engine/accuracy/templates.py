"""Labelled templates to compare: one of each photograph, or one fused of two photographs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Templates:
    """Unit rows in the order of their people.

    `vectors` float32[n, d]; `people` int64[n], rising, from 0 to `population` - 1; `photographs`
    int64[n, 2], the two photographs of each row, twice the same where there is but one.
    """

    vectors: NDArray[np.float32]
    people: NDArray[np.int64]
    photographs: NDArray[np.int64]
    population: int

    def starts(self) -> NDArray[np.int64]:
        """int64[population + 1]: person `p` has the rows `starts[p]` to `starts[p + 1]`."""
        return np.searchsorted(self.people, np.arange(self.population + 1)).astype(np.int64)


def single_templates(vectors: NDArray[np.float32], people: NDArray[np.int64]) -> Templates:
    """A template of every photograph; `people` number them from 0 in any order."""
    order = np.argsort(people, kind="stable")
    population = int(people.max()) + 1 if len(people) else 0
    return Templates(vectors[order], people[order], np.stack([order, order], axis=1), population)


def limit_photographs(templates: Templates, most: int) -> Templates:
    """The first `most` templates of each person, so that no one fills the statistics alone."""
    rank = np.arange(len(templates.people)) - templates.starts()[templates.people]
    kept = rank < most
    return Templates(
        templates.vectors[kept],
        templates.people[kept],
        templates.photographs[kept],
        templates.population,
    )


def fused_templates(singles: Templates, most_photographs: int) -> Templates:
    """A template of every two of each person's first `most_photographs` photographs."""
    starts = singles.starts()
    rows = [
        pair
        for start, stop in pairwise(starts)
        for pair in combinations(range(start, min(stop, start + most_photographs)), 2)
    ]
    pairs = np.array(rows, dtype=np.int64).reshape(-1, 2)
    return Templates(
        fuse(singles.vectors[pairs[:, 0]], singles.vectors[pairs[:, 1]]),
        singles.people[pairs[:, 0]],
        singles.photographs[pairs, 0],
        singles.population,
    )


def fuse(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """The normalised mean of two photographs of each person; float32[n, d], unit rows."""
    total = one + other
    total /= np.linalg.norm(total, axis=1, keepdims=True)
    return total
