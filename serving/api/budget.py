"""How much of all bodies together an ingress holds in memory at once."""

from __future__ import annotations

from serving.refusals import Busy

BODIES_HELD = 8
"""So many of the largest bodies, or as many more as are smaller."""


class BodyBudget:
    """Bytes that may still be held; for one event loop."""

    __slots__ = ("_left",)

    def __init__(self, max_body_mib: float) -> None:
        self._left = BODIES_HELD * int(max_body_mib * 2**20)

    def take(self, size_bytes: int) -> None:
        """`Busy` where other requests hold too much."""
        if size_bytes > self._left:
            raise Busy("the bodies of other requests fill the memory set aside: try again later")
        self._left -= size_bytes

    def give_back(self, size_bytes: int) -> None:
        self._left += size_bytes
