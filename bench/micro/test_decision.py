"""Decisions of a registrar's batch, searched for, judged and committed: alone, and by 32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest

from bench.conftest import Clock
from bench.core.machine import DISK, filesystem_of, open_folder
from bench.core.reports import Setup
from bench.suites.workload import (
    draw_visits,
    load_holders,
    make_home,
    make_settings,
    write_requests,
)
from engine.accuracy.population import Population
from engine.matching.registrar import publish
from engine.matching.requests import Answer, EnrollmentRequest
from engine.registry.database import utc_now
from serving.deployment.deployment import Deployment

BATCHES = (1, 32)


@dataclass(frozen=True, slots=True, eq=False)
class Day:
    """A deployment with its holders, and the visitors that come to it."""

    deployment: Deployment
    requests: list[EnrollmentRequest]
    rounds: int
    setup: Setup


@pytest.fixture(scope="module")
def day(pytestconfig: pytest.Config) -> Iterator[Day]:
    option = pytestconfig.getoption
    references = option("--n") or (2_000 if option("--quick") else 100_000)
    rounds, seed = (4 if option("--quick") else 40), option("--seed")
    population = Population.load("sface")
    faces = population.references(references, seed)
    visits = draw_visits(population, references, (rounds + 1) * sum(BATCHES), seed)
    with open_folder(DISK) as folder:
        home, settings = Path(folder) / "home", make_settings(max(BATCHES), len(visits))
        make_home(home, settings)
        with Deployment(home, settings) as deployment:
            with deployment.store.writer() as writer:
                load_holders(writer, faces)
            places = range(len(visits))
            requests = list(write_requests(visits, places, deployment.vault, references))
            setup = {"references": references, "seed": seed, "filesystem": filesystem_of(DISK)}
            yield Day(deployment, requests, rounds, setup)


def test_decide(day: Day, clock: Clock, batch: int, taken: Iterator[EnrollmentRequest]) -> None:
    judge = day.deployment.judge
    with day.deployment.store.writer() as writer:

        def decide() -> None:
            requests = list(islice(taken, batch))
            judged = judge.judge(requests, writer, now=utc_now(), scanned=judge.scan(requests))
            assert judged.writes
            assert all(isinstance(outcome, Answer) for outcome in judged.outcomes)
            publish(writer, judge.gallery, judged.writes)

        setup = day.setup | {"batch": batch, "database": "SQLite"}
        clock("Decisions", f"{batch} a transaction", decide, setup, rounds=day.rounds, per=batch)


@pytest.fixture(scope="module")
def taken(day: Day) -> Iterator[EnrollmentRequest]:
    """Each visitor comes once."""
    return iter(day.requests)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "batch" in metafunc.fixturenames:
        metafunc.parametrize("batch", BATCHES)
