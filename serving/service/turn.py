"""One call of the desk on its way through a thread."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

from engine.matching.runner import BoundedRunner
from serving.service.desk import CallContext


@dataclass(frozen=True, slots=True)
class Turn:
    """Who asks, who makes its changes, and until when by the monotonic clock."""

    context: CallContext
    runner: BoundedRunner
    expires_at: float

    @property
    def left_s(self) -> float:
        return max(0.0, self.expires_at - monotonic())
