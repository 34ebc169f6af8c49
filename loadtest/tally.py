"""What a run has seen: every outcome, as Locust's request event reports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loadtest.truth import APPROVED
from loadtest.visits import Outcome

OUTCOME = "outcome"
"""Under which an event's context holds it."""


@dataclass(slots=True)
class Tally:
    """A listener of `events.request`. `enrolled` grows by each document that has a holder now."""

    enrolled: list[str]
    outcomes: list[Outcome] = field(default_factory=list)

    def listen(self, context: Mapping[str, Any], **others: Any) -> None:
        del others
        outcome: Outcome = context[OUTCOME]
        self.outcomes.append(outcome)
        answer = outcome.answer
        if answer.decision == APPROVED and answer.document_id is not None:
            self.enrolled.append(answer.document_id)


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
