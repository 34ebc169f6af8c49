"""Visits: what is due when, and what its answer must be."""

from __future__ import annotations

from dataclasses import dataclass, field

from loadtest.calls import Call
from loadtest.mix import Kind, Traffic
from loadtest.truth import Answer, Expectation


@dataclass(frozen=True, slots=True)
class Visit:
    """One planned request. `number` is its plan number, by which reports name it.

    `partner` is the number of the visit that it repeats or races with, `has_repeat` says that a
    later one comes with its key; `person` is the number of the person whose face it shows, for
    look-alikes to be told from that person himself.
    """

    number: int
    due_s: float
    traffic: Traffic
    kind: Kind
    call: Call = field(repr=False)
    expected: Expectation
    stretch: int = 0
    partner: int | None = None
    person: int | None = None
    has_repeat: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a visit; seconds from the start of its run. Latency counts from when it was
    due, so that a slow server cannot hide behind a load that waits for it."""

    visit: Visit
    started_s: float
    done_s: float
    answer: Answer
    size_bytes: int = 0

    @property
    def latency_s(self) -> float:
        return self.done_s - self.visit.due_s

    @property
    def lateness_s(self) -> float:
        """What the generator itself, or its bound of requests in flight, has added."""
        return self.started_s - self.visit.due_s
