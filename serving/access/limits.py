"""Rates: how many items a key may ask for, as a bucket of tokens that fills steadily."""

from __future__ import annotations

MIN_BURST = 256
"""The largest batch that one call may bring passes a full bucket whole."""

_ROUNDING = 1e-9


class TokenBucket:
    """`rate` items a second, and as many at once as a second brings, or `MIN_BURST`.

    A call passes while one token is there, however many items it brings: a large batch goes into
    debt, which is paid before the next call passes, so that over time the rate holds. For one
    thread; `now` is in seconds of any clock that never goes back.
    """

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, now: float) -> None:
        assert rate > 0
        self.rate = rate
        self.burst = max(rate, float(MIN_BURST))
        self._tokens = self.burst
        self._at = now

    def take(self, items: int, now: float, *, paid: int = 0) -> float:
        """Takes the tokens of a call and returns 0, or takes none and returns the seconds to wait.

        `paid` are those that the same call took before: it passes if it had passed with all its
        items at once.
        """
        tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        missing = 1.0 - (tokens + paid)
        if missing > _ROUNDING:
            self._tokens = tokens
            return missing / self.rate
        self._tokens = tokens - items
        return 0.0
