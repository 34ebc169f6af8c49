"""What a deployment is to carry, and how soon it must answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.errors import RequestError

MOST_FACES = 100_000_000_000
MOST_ARRIVALS = 1_000_000.0
DAY_S = 86_400
"""What comes in a day is reckoned at the busiest rate all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """`faces` in the gallery; enrollments and searches a second in the busiest hour.

    `*_p99_s` are the objectives: 99 of 100 are answered within so long. Each core, the writer and
    each shard may be busy for `ceiling` of the time.
    """

    faces: int
    enrollments: float
    searches: float = 0.0
    enroll_p99_s: float = 1.0
    search_p99_s: float = 1.0
    ceiling: float = 0.7

    def __post_init__(self) -> None:
        if not 1 <= self.faces <= MOST_FACES:
            raise RequestError(f"{self.faces:,} faces: ask for 1 to {MOST_FACES:,}")
        for name, rate in (("enrollments", self.enrollments), ("searches", self.searches)):
            if not 0 <= rate <= MOST_ARRIVALS:
                raise RequestError(f"{rate:g} {name} a second: ask for 0 to {MOST_ARRIVALS:,.0f}")
        if self.enrollments == 0 and self.searches == 0:
            raise RequestError("nobody comes: give enrollments or searches a second")
        for objective in (self.enroll_p99_s, self.search_p99_s):
            if not 0 < objective < math.inf:
                raise RequestError(f"an objective of {objective:g} s: give a time above 0")
        if not 0.05 <= self.ceiling <= 0.95:
            raise RequestError(
                f"a ceiling of {self.ceiling:g}: give the share of time, 0.05 to 0.95, that "
                "something may be busy"
            )
