"""Arrivals that are given away: to one planted visit, or to two that belong together."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from loadtest.mix import PAIRED, Kind

REPEAT_AFTER_S = 0.7
"""So long at least after the first; a service that is well has answered that by then."""
LAST_SHARE = 0.9
"""Nothing is planted in the last arrivals, so that what follows has room."""


class Slots:
    """Places in a sorted list of moments; each is given once."""

    def __init__(self, moments: Sequence[float], rng: np.random.Generator) -> None:
        self._moments = moments
        self._is_free = [True] * len(moments)
        last = max(1, int(len(moments) * LAST_SHARE))
        self._order = rng.permutation(last).tolist() if moments else []

    def take(self, kind: Kind) -> tuple[int, int] | None:
        """A place at random, and a second one for kinds that take two; None where there is none.

        The second of a race is the next that is free, of the others one that is later.
        """
        while self._order:
            place = self._order.pop()
            if not self._is_free[place]:
                continue
            if kind not in PAIRED:
                self._is_free[place] = False
                return place, place
            after = 0.0 if kind is Kind.RACE else REPEAT_AFTER_S
            second = self._find(place + 1, self._moments[place] + after)
            if second is not None:
                self._is_free[place] = self._is_free[second] = False
                return place, second
        return None

    def list_free(self) -> list[int]:
        return [place for place, is_free in enumerate(self._is_free) if is_free]

    def _find(self, first: int, moment: float) -> int | None:
        start = max(first, bisect_left(self._moments, moment))
        return next((one for one in range(start, len(self._moments)) if self._is_free[one]), None)
