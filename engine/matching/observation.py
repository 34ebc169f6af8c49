"""What the registrar tells about its work, to whoever counts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.errors import SosieError
from engine.matching.requests import Answer


@dataclass(frozen=True, slots=True)
class DecidedBatch:
    """One batch after its callers were told.

    `waited_s` is how long its oldest item waited, `judge_s` and `publish_s` what the batch took;
    an error in `outcomes` is an item that could not be judged.
    """

    outcomes: Sequence[Answer | SosieError]
    waited_s: float
    judge_s: float
    publish_s: float


class Observer(Protocol):
    """Called on the writer's thread: it must be quick, and may not raise."""

    def observe_batch(self, batch: DecidedBatch) -> None: ...


class SilentObserver:
    """Counts nothing."""

    def observe_batch(self, batch: DecidedBatch) -> None:
        pass
