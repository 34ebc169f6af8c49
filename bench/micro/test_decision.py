"""Decisions of a registrar's batch, searched for, judged and committed: alone, and by 32."""

from collections.abc import Iterator

import pytest

from bench.conftest import Clock
from bench.core.machine import DISK, filesystem_of, open_folder
from bench.suites.workload import VisitedHome, make_settings
from engine.matching.requests import Answer
from engine.registry.database import utc_now
from engine.registry.writer import publish
from serving.deployment.deployment import Deployment

BATCHES = (1, 32)


@pytest.fixture(scope="module")
def home(pytestconfig: pytest.Config) -> Iterator[VisitedHome]:
    option = pytestconfig.getoption
    references = option("--n") or (2_000 if option("--quick") else 100_000)
    # Some lie near a threshold, and do not come.
    visitors = 2 * (count_rounds(pytestconfig) + 1) * sum(BATCHES)
    with open_folder(DISK) as folder:
        settings = make_settings(max(BATCHES), visitors)
        yield VisitedHome(folder / "home", references, visitors, option("--seed"), settings)


@pytest.fixture(scope="module")
def deployment(home: VisitedHome) -> Iterator[Deployment]:
    with home.open() as deployment:
        yield deployment


def count_rounds(config: pytest.Config) -> int:
    return 4 if config.getoption("--quick") else 40


@pytest.mark.parametrize("batch", BATCHES)
def test_decide(
    batch: int, home: VisitedHome, deployment: Deployment, clock: Clock, pytestconfig: pytest.Config
) -> None:
    judge = deployment.judge
    with deployment.store.writer() as writer:

        def decide() -> None:
            requests = home.take(batch)
            judged = judge.judge(requests, writer, now=utc_now(), scanned=judge.scan(requests))
            assert judged.writes
            assert all(isinstance(outcome, Answer) for outcome in judged.outcomes)
            publish(writer, judge.gallery, judged.writes)

        setup = {"references": len(home.vectors), "batch": batch, "filesystem": filesystem_of(DISK)}
        rounds = count_rounds(pytestconfig)
        clock("Decisions", f"{batch} a transaction", decide, setup, rounds=rounds, per=batch)
