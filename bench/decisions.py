"""Decisions a second: full batches beside one a transaction, round by round in turn."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from bench.report import Figure, Result, Setup
from bench.timing import speedup
from engine.errors import RequestError
from engine.matching.arrivals import Outcome
from engine.matching.registrar import Registrar, RegistrarConfig
from engine.matching.requests import Answer, EnrollmentRequest
from indexes.upkeep import Upkeep
from serving.compose import Deployment

BATCH, SINGLE = 32, 1


@dataclass(frozen=True, slots=True)
class Turn:
    """What is decided in one go, so many a transaction at most; round 0 warms up."""

    number: int
    batch: int
    requests: Sequence[EnrollmentRequest]


@dataclass(frozen=True, slots=True)
class Decided:
    """Outcomes in order, the seconds of all, and of each full batch."""

    outcomes: list[Outcome]
    seconds: float
    batch_s: list[float]

    @property
    def rate(self) -> float:
        return len(self.outcomes) / self.seconds


Rounds = Mapping[int, Sequence[Decided]]
"""What was decided in each round that counts, by the size of a batch."""


def plan_turns(
    requests: Sequence[EnrollmentRequest], singles: int, rounds: int
) -> tuple[Turn, ...]:
    """All requests in their order, `singles` of them one a transaction, in one round more than
    `rounds`: it warms up, and takes what would not fill a batch.

    Every other round runs backwards. `RequestError` where a round would have none of a kind.
    """
    single = singles // (rounds + 1)
    full = len(requests) // (rounds + 1) - single
    if min(single, full) < 1:
        raise RequestError(f"too few decisions for {rounds} rounds and one before: give more")
    if full >= BATCH:
        full -= full % BATCH
    first = len(requests) - rounds * (full + single) - single
    turns: list[Turn] = []
    start = 0
    for number in range(rounds + 1):
        counts = [(BATCH, full if number else first), (SINGLE, single)]
        for batch, count in counts[:: 1 if number % 2 == 0 else -1]:
            turns.append(Turn(number, batch, requests[start : start + count]))
            start += count
    return tuple(turns)


def decide_in_turn(deployment: Deployment, turns: Sequence[Turn]) -> Iterator[tuple[Turn, Decided]]:
    """Each by a registrar of its own, over one gallery with the upkeep of a deployment."""
    with Upkeep(deployment.restored.gallery):
        for turn in turns:
            config = RegistrarConfig(turn.batch, queue_size=len(turn.requests))
            with Registrar(deployment.store.writer(), deployment.judge, config) as registrar:
                yield turn, decide_all(registrar, turn.requests)


def decide_all(registrar: Registrar, requests: Sequence[EnrollmentRequest]) -> Decided:
    """Puts all requests in the queue at once, so that every batch but the first can be full."""
    start = time.perf_counter()
    futures = [registrar.submit(request) for request in requests]
    outcomes, ends = [], []
    for future in futures:
        outcomes.append(future.result())
        ends.append(time.perf_counter())
    return Decided(outcomes, ends[-1] - start, _find_batches(outcomes, ends))


def list_decisions(rounds: Rounds, setup: Setup) -> Result:
    """Medians over rounds; a ratio is of two neighbours. Batches are those of all rounds."""
    full, single = rounds[BATCH], rounds[SINGLE]
    rates, single_rates = (np.array([one.rate for one in each]) for each in (full, single))
    figures = [
        Figure.of("one a transaction", "decisions/s", single_rates, 1.0),
        Figure.of(f"batches of {BATCH}", "decisions/s", rates, speedup(rates, single_rates)),
    ]
    batch_ms = [seconds * 1e3 for one in full for seconds in one.batch_s]
    for share in (0.5, 0.99):
        name, unit = f"a batch, p{share * 100:.0f}", "ms"
        figures.append(
            Figure(name, unit, float(np.quantile(batch_ms, share)))
            if batch_ms
            else Figure.skip(name, unit, "too few decisions for a full batch")
        )
    counts: Setup = {
        "decisions": sum(len(one.outcomes) for one in full),
        "single_decisions": sum(len(one.outcomes) for one in single),
        "rounds": len(full),
    }
    return Result("Decisions", setup | counts, tuple(figures))


def _find_batches(outcomes: Sequence[Outcome], ends: Sequence[float]) -> list[float]:
    """Seconds of each full batch: all that were decided at one moment; the first has no start."""
    moments = [
        (outcome.body["decided_at"] if isinstance(outcome, Answer) else "", end)
        for outcome, end in zip(outcomes, ends, strict=True)
    ]
    seconds, before = [], None
    for _, group in groupby(moments, key=lambda moment: moment[0]):
        batch = [end for _, end in group]
        if before is not None and len(batch) == BATCH:
            seconds.append(batch[-1] - before)
        before = batch[-1]
    return seconds
