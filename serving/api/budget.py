"""How much of all bodies together an ingress holds in memory at once."""

from __future__ import annotations

from collections import defaultdict

from serving.refusals import Busy

BODIES_HELD = 8
"""So many of the largest bodies, or as many more as are smaller."""


class BodyBudget:
    """Bytes that may still be held, and who holds the others; for one event loop.

    No key holds more than is free besides: one alone takes half, the next a quarter, so that
    whoever comes, however slowly others send, finds some left.
    """

    __slots__ = ("_held", "_left")

    def __init__(self, max_body_mib: float) -> None:
        self._left = BODIES_HELD * int(max_body_mib * 2**20)
        self._held: defaultdict[str, int] = defaultdict(int)

    def take(self, size_bytes: int, key_id: str) -> None:
        """`Busy` where this key, or all others, hold too much."""
        if self._held[key_id] + size_bytes > self._left - size_bytes:
            self._forget(key_id)
            raise Busy("the bodies of other requests fill the memory set aside: try again later")
        self._left -= size_bytes
        self._held[key_id] += size_bytes

    def give_back(self, size_bytes: int, key_id: str) -> None:
        self._left += size_bytes
        self._held[key_id] -= size_bytes
        self._forget(key_id)

    def _forget(self, key_id: str) -> None:
        if not self._held[key_id]:
            del self._held[key_id]
