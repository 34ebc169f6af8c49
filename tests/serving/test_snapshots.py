"""Copies of shards that are made again beside decisions, and what becomes of them meanwhile."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from engine.matching.registrar import Registrar
from engine.matching.requests import Answer
from indexes.base import Ids
from indexes.errors import ShardLost
from indexes.sharding.host import ReplicatedShard, Shard
from indexes.sharding.sharded_index import ShardedIndex
from indexes.sharding.shards import ShardMark, ShardPlan
from serving.deployment import snapshots
from serving.deployment.deployment import Deployment
from serving.settings.settings import load_settings
from tests.engine.matching.conftest import People
from tests.indexes.sharding.local_shards import LocalShard

WAIT_S = 120


@pytest.fixture
def open_single(full_home, monkeypatch) -> Callable[..., tuple[Deployment, ReplicatedShard]]:
    """`open_single(open_copy, warn)`: a deployment, and its one shard, which lacks a copy."""
    monkeypatch.setattr(snapshots, "LOOK_AT_SHARDS_S", 0.01)
    monkeypatch.setattr(snapshots, "_AGAIN_S", 0.01)

    def build(
        open_copy: Callable[[ShardPlan], Shard], warn: Callable[[str], None] = print
    ) -> tuple[Deployment, ReplicatedShard]:
        opened: list[ReplicatedShard] = []

        def open_index(plan: ShardPlan) -> ShardedIndex:
            plan = replace(plan, threads=1)
            opened.append(ReplicatedShard([LocalShard(plan)]))
            return ShardedIndex(plan, opened, copies=2, open_copy=lambda _: open_copy(plan))

        deployment = Deployment(full_home, load_settings(full_home), warn, open_index)
        assert deployment.registrar.failure is None
        return deployment, opened[0]

    return build


def assert_decides(deployment: Deployment) -> None:
    people = People(seed=4, dim=deployment.registrar.gallery.dim, outlet="b1")
    (answer,) = deployment.registrar.enroll([people.request()])
    assert isinstance(answer, Answer), answer
    assert deployment.registrar.failure is None


class LastStep(LocalShard):
    """A copy that answers the last step of its filling, which makes it whole, with this future; as
    one whose process has ended, when it is closed meanwhile."""

    def __init__(self, plan: ShardPlan, answer: Future[None]) -> None:
        super().__init__(plan)
        self._answer = answer
        self.begun = threading.Event()

    def remove(self, ids: Ids, mark: ShardMark | None = None) -> Future[None]:
        if mark is None:
            return super().remove(ids, mark)
        self.begun.set()
        return self._answer

    def close(self) -> None:
        if not self._answer.done():
            self._answer.set_exception(ShardLost("its process has ended"))
        super().close()


@pytest.mark.parametrize("failure", [ShardLost("it has ended"), RuntimeError("it fails")])
def test_a_copy_that_fails_as_it_joins_stops_no_decision_and_is_made_again(
    open_single, failure: Exception
) -> None:
    made: list[Shard] = []
    told: list[str] = []

    def open_copy(plan: ShardPlan) -> Shard:
        answer: Future[None] = Future()
        answer.set_exception(failure)
        made.append(LocalShard(plan) if made else LastStep(plan, answer))
        return made[-1]

    deployment, shard = open_single(open_copy, told.append)
    with deployment:
        while deployment.snapshots.copies_wanting and deployment.registrar.failure is None:
            time.sleep(0.01)
        assert_decides(deployment)
        assert told == [f"shard 0 has one copy only ({type(failure).__name__})"]
        assert [one.lost is None for one in made] == [False, True]
        states = [copy.state().result() for copy in shard.copies]
        assert len(states) == 2
        assert states[0] == states[1]


def test_a_copy_that_is_ended_with_the_upkeep_as_it_joins_stops_no_decision(open_single) -> None:
    made: list[LastStep] = []
    joining = threading.Event()

    def open_copy(plan: ShardPlan) -> Shard:
        made.append(LastStep(plan, Future()))
        joining.set()
        return made[-1]

    told: list[str] = []
    deployment, shard = open_single(open_copy, told.append)
    with deployment:
        assert joining.wait(WAIT_S)
        assert made[0].begun.wait(WAIT_S)
        deployment.snapshots.stop_tending()
        assert made[0].lost
        assert_decides(deployment)
        assert (len(made), len(shard.copies), told) == (1, 1, [])


def test_a_copy_that_has_joined_outlives_the_upkeep(open_single, monkeypatch) -> None:
    joined, ended, run = threading.Event(), threading.Event(), Registrar.run

    def linger(registrar: Registrar, perform: Any) -> Any:
        result = run(registrar, perform)
        if threading.current_thread().name == "shards":
            joined.set()
            assert ended.wait(WAIT_S)
        return result

    monkeypatch.setattr(Registrar, "run", linger)
    deployment, shard = open_single(LocalShard)
    with deployment:
        assert joined.wait(WAIT_S)
        thread = deployment.snapshots._upkeep._thread
        join = thread.join

        def release_and_join() -> None:
            """All that ends the upkeep is done by now, but for waiting."""
            ended.set()
            join()

        monkeypatch.setattr(thread, "join", release_and_join)
        deployment.snapshots.stop_tending()
        assert [copy.lost for copy in shard.copies] == [None, None]
        assert_decides(deployment)
