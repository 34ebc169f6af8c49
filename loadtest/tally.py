"""What a run has seen: every outcome, as Locust's request event reports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loadtest.guests import Guests
from loadtest.visits import Outcome

OUTCOME = "outcome"
"""Under which an event's context holds it."""


@dataclass(slots=True)
class Tally:
    """A listener of `events.request`; `guests` are told what became of each enrollment."""

    guests: Guests
    outcomes: list[Outcome] = field(default_factory=list)

    def listen(self, context: Mapping[str, Any], **others: Any) -> None:
        del others
        outcome: Outcome = context[OUTCOME]
        self.outcomes.append(outcome)
        key = outcome.visit.call.idempotency_key
        if key is not None:
            self.guests.settle(key, outcome.answer)


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is over. `seconds` is its schedule's length; `generator_share` is the processor
    time of the load generator itself, in cores; `omitted` counts planned visits that a closed loop
    never sent, and `elapsed_s` runs until the last answer."""

    outcomes: tuple[Outcome, ...]
    seconds: float
    elapsed_s: float
    generator_share: float
    omitted: int = 0
