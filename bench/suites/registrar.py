"""Suite `registrar`: decisions a second on a full gallery, durable, and every one of them right."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.core.machine import DISK, open_folder, speedup
from bench.core.reports import Figure, Result, SuiteOutput
from bench.datasets import describe_faces
from bench.suites.workload import VisitedHome, make_settings
from engine.errors import RequestError
from engine.matching.registrar import Outcome, Registrar, RegistrarConfig
from engine.matching.requests import EnrollmentRequest
from indexes.upkeep import Upkeep
from serving.deployment.deployment import Deployment

BATCH, SINGLE = 32, 1
QUICK = {"references": 5_000, "decisions": 640, "single_decisions": 32, "rounds": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrarSuiteConfig:
    """`decisions` in full batches, `single_decisions` one a transaction, shared out among
    `rounds` and one that warms up before them. The database
    lies in a folder made in `folder`, which must be on a disk to be durable.
    """

    references: int = 100_000
    decisions: int = 6_400
    single_decisions: int = 320
    rounds: int = 5
    seed: int = 0
    folder: Path = DISK


def plan_rounds(count: int, singles: int, rounds: int) -> Iterator[tuple[int, int, int]]:
    """Round, most of a transaction, and how many requests are decided so, one after another:
    `singles` of `count` one a transaction, in one round more than `rounds`, which warms up.

    Every other round runs backwards. `RequestError` where a round would have none of a kind.
    """
    single = singles // (rounds + 1)
    full = count // (rounds + 1) - single
    if min(single, full) < 1:
        raise RequestError(f"too few decisions for {rounds} rounds and one before: give more")
    full -= full % BATCH if full >= BATCH else 0
    for number in range(rounds + 1):
        sizes = [(number, BATCH, full), (number, SINGLE, single)]
        yield from sizes[:: 1 if number % 2 == 0 else -1]


def decide_all(
    deployment: Deployment, config: RegistrarConfig, requests: Sequence[EnrollmentRequest]
) -> tuple[list[Outcome], float]:
    """By a registrar of its own, with all requests in its queue at once, so that every batch but
    the first can be full: outcomes in order, and how many a second."""
    with Registrar(deployment.store.writer(), deployment.judge, config) as registrar:
        start = time.perf_counter()
        futures = [registrar.submit(request) for request in requests]
        outcomes = [future.result() for future in futures]
        return outcomes, len(outcomes) / (time.perf_counter() - start)


def run(config: RegistrarSuiteConfig) -> SuiteOutput:
    visitors = config.decisions + config.single_decisions
    rates: dict[int, list[float]] = {BATCH: [], SINGLE: []}
    counts = {BATCH: 0, SINGLE: 0}
    with open_folder(config.folder) as folder:
        settings = make_settings(BATCH, visitors)
        home = VisitedHome(folder / "home", config.references, visitors, config.seed, settings)
        with home.open() as deployment, Upkeep(deployment.restored.gallery):
            home.log.note_gallery(len(deployment.restored.gallery), len(home.vectors))
            for number, batch, size in plan_rounds(
                home.left, config.single_decisions, config.rounds
            ):
                given = RegistrarConfig(batch, queue_size=size)
                outcomes, rate = decide_all(deployment, given, home.take(size))
                home.log.outcomes += outcomes
                if number:
                    rates[batch].append(rate)
                    counts[batch] += size
        with home.open() as deployment:
            home.log.note_gallery(len(deployment.restored.gallery), len(home.vectors))
    setup = describe_faces(config.references, home.vectors.shape[1], config.seed)
    setup |= {"database": "SQLite", "decisions": counts[BATCH]}
    setup |= {"single_decisions": counts[SINGLE], "rounds": config.rounds}
    single, full = np.array(rates[SINGLE]), np.array(rates[BATCH])
    figures = (
        Figure.of("one a transaction", "decisions/s", single, 1.0),
        Figure.of(f"batches of {BATCH}", "decisions/s", full, speedup(full, single)),
    )
    return (Result("Decisions", setup, figures),), {
        "decisions_per_second": float(np.median(full)),
        "wrong_decisions": float(home.log.count_wrong()),
        "gallery_difference": float(home.log.difference),
    }
