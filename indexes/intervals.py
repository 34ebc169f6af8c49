"""How sure a measured share is."""

from __future__ import annotations

import math


def wilson_interval(events: float, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a share of independent trials (Wilson 1927)."""
    z = 1.959964
    centre = (events + z * z / 2) / (trials + z * z)
    spread = z / (trials + z * z) * math.sqrt(events * (trials - events) / trials + z * z / 4)
    share = events / trials
    return min(max(centre - spread, 0.0), share), max(min(centre + spread, 1.0), share)
