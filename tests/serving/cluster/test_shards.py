"""A gallery on the nodes of a cluster: the answers of one process, or an error."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from numpy.typing import NDArray
from ray._private.utils import read_ray_address

from engine.errors import RequestError
from engine.registry.file_ciphers import ShardSealer
from engine.registry.keyring import Key
from indexes.errors import IdInvalid, SearchInvalid, ShardFenced, ShardLost, SnapshotDamaged
from indexes.exact.scanner import FEW_QUERIES
from indexes.segmented.merging import SegmentsConfig
from indexes.sharding.host import CALLS_AT_ONCE
from indexes.sharding.sharded_index import ShardedIndex
from indexes.sharding.shards import ShardMark, ShardPlan
from indexes.snapshots.manifest import Origin
from serving.cluster import shards
from serving.cluster.node import require_gpus
from serving.cluster.shards import (
    HEARTBEAT_GROUP,
    Place,
    RayShard,
    Reply,
    ShardActor,
    Timing,
    _Opener,
    _reply,
    open_ray_shards,
    shard_opener,
)
from serving.settings.sections import ServeSettings
from serving.settings.settings import Settings, make_settings
from tests.indexes.freed_memory import count_in_memory, forms_of
from tests.indexes.oracle import BruteForce
from tests.serving.cluster.two_nodes import (
    DIM,
    PLACING,
    PLAN,
    QUICK,
    RESOURCE,
    Nodes,
    Rows,
    likenesses,
    living_nodes,
    nodes_of,
    unit_rows,
)
from tests.waiting import wait_until

PATIENT = Timing(placed_within_s=120)
IMPATIENT = replace(QUICK, placed_within_s=1.0)
"""Where there is no place, however long one waits."""


def assert_exact(index: ShardedIndex, ids: NDArray[np.int64], rows: Rows) -> None:
    flat = BruteForce(DIM)
    flat.add(ids, rows)
    queries = likenesses(rows[:50], seed=9)
    for found, expected in (
        (index.range_search(queries, 0.4), flat.range_search(queries, 0.4)),
        (index.search(queries, 5), flat.search(queries, 5)),
    ):
        assert np.array_equal(found.offsets, expected.offsets)
        assert np.array_equal(found.ids, expected.ids)
        assert np.array_equal(found.scores.view(np.int32), expected.scores.view(np.int32))


def shard(index: ShardedIndex, number: int) -> RayShard:
    return index.shards[number]


def test_without_a_cluster_none_is_started_and_without_shards_none_are_opened(nodes) -> None:
    nodes.leave()
    try:
        assert shard_opener(make_settings({})) is None
        opener = shard_opener(make_settings({"gallery": {"shards": 2}}))
        assert opener is not None
        with pytest.raises(ShardLost, match="cluster"):
            opener(PLAN)
        assert not ray.is_initialized()
    finally:
        nodes.join()


def test_a_cluster_of_the_tests_is_no_other_rays_default(nodes) -> None:
    assert read_ray_address() != nodes.address


def test_gpus_are_counted_as_ray_finds_them(nodes) -> None:
    settings = ServeSettings(embedder="deployment", embedder_gpus=64)
    with pytest.raises(RequestError, match="and Ray finds 0"):
        require_gpus(settings, 0.0, threading.Event())


def test_each_node_has_a_shard_and_the_answers_are_exact(nodes) -> None:
    ids, rows = np.arange(3000), unit_rows(3000)
    with open_ray_shards(PLAN, 2, PLACING, PATIENT) as index:
        asked = [shard(index, number)._actor.place.remote() for number in range(2)]
        assert len({place.node for place in ray.get(asked)}) == 2
        index.add(ids, rows)
        assert_exact(index, ids, rows)
        index.remove(ids[:1000])
        index.compact()
        assert index.account().references == 2000
        assert_exact(index, ids[1000:], rows[1000:])
    index.close()
    for call in (index.shards[0].count, lambda: index.shards[0].vectors(np.arange(10**6))):
        with pytest.raises(ShardLost, match="closed"):
            call().result()


def test_another_shard_that_new_settings_want_takes_its_share(nodes) -> None:
    wanted = [1]

    def read_settings() -> Settings:
        return make_settings({"gallery": {"shards": wanted[0]}})

    opener = shard_opener(read_settings(), PATIENT, read_settings)
    ids, rows = np.arange(1000), unit_rows(1000)
    assert opener is not None
    with opener(replace(PLAN, virtual_shards=8)) as index:
        index.add(ids, rows)
        wanted[0] = 2
        assert index.open_copy is not None
        index.append(index.open_copy(index.read_wanted() - 1))
        for virtual_shard in range(4):
            index.begin_move(virtual_shard, 1)
            index.copy_moving(lambda: None)
            index.finish_move(1, "h")
        assert min(each.count().result() for each in index.shards) > 0
        assert_exact(index, ids, rows)


def test_a_refusal_of_a_shard_arrives_with_its_type_and_breaks_nothing(nodes) -> None:
    with open_ray_shards(PLAN, 1, timing=PATIENT) as index:
        index.add(np.arange(5), unit_rows(5))
        with pytest.raises(IdInvalid):
            index.add(np.array([7, 4]), unit_rows(2))
        with pytest.raises(IdInvalid):
            index.vectors(np.array([6]))
        with pytest.raises(SearchInvalid):
            index.search(unit_rows(1), 0)
        assert index.ids.tolist() == [0, 1, 2, 3, 4]


@pytest.fixture
def actor() -> Iterator[ShardActor]:
    """One in this process, without Ray."""
    made = ShardActor()
    assert made.open(PLAN, "it") == Reply()
    yield made
    made._host.close()  # type: ignore[union-attr]


def test_an_unforeseen_failure_arrives_without_its_text(actor) -> None:
    def fail() -> None:
        raise KeyError("+8613800138000")

    assert _reply("search", fail) == Reply(failure="KeyError")
    assert isinstance(actor.call(0, "search", unit_rows(1), 0).refusal, SearchInvalid)


class LateIds:
    """Ids whose copying takes until a later writer has adopted the actor."""

    def __init__(self, actor: ShardActor, later: ShardPlan) -> None:
        self._actor, self._later = actor, later

    def __array__(self, *_: object, **__: object) -> NDArray[np.int64]:
        self._actor.adopt(self._later, "it")
        return np.arange(2)


def test_a_piece_that_arrives_while_a_later_writer_adopts_is_not_kept(actor, monkeypatch) -> None:
    # It is Ray that knows the place, and none is here.
    monkeypatch.setattr(ShardActor, "place", lambda _: Place("node", 1))
    late = LateIds(actor, replace(PLAN, epoch=1))
    reply = actor.stage(0, "batch", late, unit_rows(2))  # type: ignore[arg-type]
    assert actor._staged == {}
    assert isinstance(reply.refusal, ShardFenced)


def test_a_large_batch_is_sent_in_pieces_and_visible_or_refused_as_a_whole(
    nodes, monkeypatch
) -> None:
    monkeypatch.setattr(shards, "MESSAGE_BYTES", 64 << 10)
    ids, rows = np.arange(20_000), unit_rows(20_000)
    with open_ray_shards(PLAN, 1, timing=PATIENT) as index:
        assert shard(index, 0)._rows_at_once < 1000
        index.add(ids[:10_000], rows[:10_000])
        with pytest.raises(IdInvalid):
            index.add(ids[9_999:], rows[9_999:])
        assert len(index) == 10_000
        index.add(ids[10_000:], rows[10_000:])
        assert np.array_equal(index.vectors(ids), rows)
        assert_exact(index, ids, rows)


def test_shards_without_a_place_are_waited_for_a_while_and_not_left_behind(nodes) -> None:
    with pytest.raises(ShardLost, match=r"waiting for gallery shards: \d of 3 .* gallery"):
        open_ray_shards(PLAN, 3, PLACING, IMPATIENT)
    wait_until(lambda: ray.available_resources().get(RESOURCE) == 2)


def test_a_removed_face_is_nowhere_in_the_memory_of_a_shards_process(nodes) -> None:
    # Rows of no other test: what Ray copies of a message is freed and not overwritten. So vectors
    # are looked for of rows that came by none, and what a shard makes of them of all.
    count, made, seed = 6000, 3000, 77

    def fill(actor: ShardActor) -> int:
        host: Any = actor._host
        own = unit_rows(count, seed)
        host.add(np.arange(made), own[:made])
        own[:] = 0
        return os.getpid()

    plan, timing = replace(PLAN, config=SegmentsConfig(head_rows=1024)), Timing(silent_for_s=120)
    with open_ray_shards(plan, 1, PLACING, timing) as index:
        send = shard(index, 0)._actor.__ray_call__.remote
        pid = ray.get(send(fill))
        index.recount()
        rows, strangers = unit_rows(count, seed), unit_rows(50)
        for start in range(made, count, 100):
            index.add(np.arange(start, start + 100), rows[start : start + 100])
        ray.get(send(lambda actor: actor._host._gallery.settle()))
        assert len(index.range_search(strangers, 0.2).ids) > 0
        assert len(index.search(strangers, 5).ids) == 5 * len(strangers)
        index.remove(np.arange(0, count, 50))
        # No message after this: its padding may hold anything that was freed here.
        there, gone = (forms_of(rows[first::50]) for first in (1, 0))
        for forms in (there, gone):
            forms["vectors"] = forms["vectors"][: made // 50]
        # Stopped, for Ray's own threads map memory and give it back at any time.
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: ") T " in Path(f"/proc/{pid}/stat").read_text())
            held, left = (count_in_memory(pid, forms) for forms in (there, gone))
        finally:
            os.kill(pid, signal.SIGCONT)
    # What is not sealed yet has vectors alone.
    assert min(held.values()) >= made // 50
    assert left == dict.fromkeys(gone, 0)


def test_a_silent_shard_is_lost_and_its_waiting_calls_fail(nodes) -> None:
    with open_ray_shards(PLAN, 1, PLACING, QUICK) as index, ThreadPoolExecutor(1) as pool:
        index.add(np.arange(10), unit_rows(10))
        pid = ray.get(shard(index, 0)._actor.__ray_call__.remote(lambda _: os.getpid()))
        os.kill(pid, signal.SIGSTOP)
        try:
            waiting = pool.submit(index.search, unit_rows(1), 1)
            with pytest.raises(ShardLost, match="silent"):
                waiting.result(120)
            with pytest.raises(ShardLost):
                len(index)
        finally:
            os.kill(pid, signal.SIGCONT)


def test_a_call_that_takes_too_long_loses_the_shard(nodes) -> None:
    with open_ray_shards(PLAN, 1, PLACING, PATIENT) as index:
        chosen = shard(index, 0)
        chosen._timing = Timing(answered_within_s=1.0)
        stuck = chosen._ask("sleep", chosen._actor.__ray_call__.remote, lambda _: time.sleep(60))
        with pytest.raises(ShardLost, match="not answered in 1 s"):
            stuck.result(120)


@contextmanager
def held_open(index: ShardedIndex, operation: str, release: Path) -> Iterator[None]:
    """While the only shard begins calls of this operation and ends none; searches of few apart."""

    def hold(actor: ShardActor) -> None:
        host: Any = actor._host
        perform = getattr(host, operation)

        def wait_and_perform(*arguments: Any) -> object:
            while "search" not in operation or len(arguments[0]) > FEW_QUERIES:
                if release.exists():
                    break
                time.sleep(0.01)
            return perform(*arguments)

        setattr(host, operation, wait_and_perform)

    ray.get(shard(index, 0)._actor.__ray_call__.remote(hold))
    try:
        yield
    finally:
        release.touch()


LONG = ("join", "digests", "compact", "range_search")


def test_long_calls_take_no_decisions_place_in_a_shard(nodes, tmp_path) -> None:
    ids, rows = np.arange(100), unit_rows(100)
    few = rows[:FEW_QUERIES]
    arguments = {"join": (ids, rows, 0.5, 0), "range_search": (rows, 0.5)}
    with open_ray_shards(PLAN, 1, PLACING, Timing(answered_within_s=60)) as index:
        index.add(ids, rows)
        for gone, operation in enumerate(LONG):
            call = getattr(index.shards[0], operation)
            with held_open(index, operation, tmp_path / operation):
                held = [call(*arguments.get(operation, ())) for _ in range(CALLS_AT_ONCE)]
                index.add(ids + 100 * (gone + 1), unit_rows(100, seed=gone + 1))
                index.remove(ids[gone : gone + 1])
                left = list(range(gone + 1, 100))
                assert index.range_search(few, 0.9).ids.tolist() == left[: FEW_QUERIES - gone - 1]
                if operation != "range_search":
                    # A large search has less time than they, from its sending on.
                    assert index.range_search(rows, 0.9).ids.tolist() == left
                assert not any(future.done() for future in held), operation
            for future in held:
                future.result(120)


def test_a_sweeps_call_may_take_longer_than_a_search(nodes, tmp_path) -> None:
    calls: dict[str, Any] = {"join": (np.arange(9), unit_rows(9), 0.5, 0), "digests": ()}
    with open_ray_shards(PLAN, 1, PLACING, replace(PATIENT, heartbeat_every_s=0.25)) as index:
        chosen = shard(index, 0)
        for operation, arguments in calls.items():
            with held_open(index, operation, tmp_path / operation):
                chosen._timing = replace(QUICK, answered_within_s=0.5)
                held = getattr(chosen, operation)(*arguments)
                begun = chosen._tick
                wait_until(lambda begun=begun: chosen._tick > begun + 4 or chosen.lost is not None)
                assert chosen.lost is None
                assert not held.done()
            held.result(120)


OWNER = """
import os, sys, time
import numpy as np
import ray
from indexes.sharding.shards import ShardPlan
from serving.cluster.shards import Placing, Timing, open_ray_shards
from tests.serving.cluster.two_nodes import unit_rows
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
patient = Timing(placed_within_s=120)
without = open_ray_shards(ShardPlan(128), 1, timing=patient)
plan = ShardPlan(128, content=sys.argv[2], epoch=1)
index = open_ray_shards(plan, 2, Placing("gallery"), patient)
index.note(7, "7:h")
index.add(np.arange(100), unit_rows(100))
(shard,) = without.shards
print(ray.get(shard.actor.handle.__ray_call__.remote(lambda _: os.getpid())), flush=True)
time.sleep(1000)
"""
ORIGIN = Origin("exact8", DIM, "model", "keys", "one")


def lose_owner(nodes: Nodes, content: str) -> int:
    """Kills a process that has two shards with this content and 100 references, and one without:
    the process id of that."""
    command = [sys.executable, "-c", OWNER, nodes.address, content]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        line = owner.stdout.readline()
        owner.kill()
    return int(line)


def test_shards_of_a_killed_process_obey_the_next_alone_and_end_if_they_have_no_content(
    nodes, tmp_path
) -> None:
    own = replace(PLAN, content="one:of this test", epoch=2)
    left = lose_owner(nodes, own.content)
    wait_until(lambda: not psutil.pid_exists(left))
    sealer = ShardSealer(Key.generate(1), b"one")
    index = open_ray_shards(own, 2, PLACING, PATIENT)
    ids, rows = np.arange(100), unit_rows(100)
    assert_exact(index, ids, rows)
    marks = [each.state().result().mark for each in index.shards]
    assert marks == [ShardMark(7, "7:h", index.placement.owned(number)) for number in range(2)]
    # Whoever looks after a later writer has come is refused, and so is a change on its way.
    later = open_ray_shards(replace(own, epoch=3), 2, PLACING, PATIENT)
    with pytest.raises(ShardFenced):
        open_ray_shards(own, 2, PLACING, PATIENT)
    with pytest.raises(ShardFenced):
        index.shards[0].remove(ids[:1]).result()
    with pytest.raises(ShardLost):
        index.search(rows[:1], 1)
    index.close()
    assert_exact(later, ids, rows)
    # Each comes back from its own snapshot; one of another key is refused.
    for number, each in enumerate(later.shards):
        snapshot = (str(tmp_path / str(number)), ORIGIN)
        each.save(*snapshot, sealer).result()
        each.clear().result()
        with pytest.raises(SnapshotDamaged):
            each.load(*snapshot, replace(sealer, key=Key.generate(1))).result()
        each.load(*snapshot, sealer).result()
        assert each.state().result().mark == marks[number]
    assert_exact(later, ids, rows)
    later.release()
    # Of other content, in their place.
    other = replace(own, content="one:of another model", epoch=4)
    with open_ray_shards(other, 2, PLACING, PATIENT) as new:
        assert len(new) == 0


def test_an_actor_without_the_groups_of_its_calls_is_replaced_and_not_killed_by_one(
    nodes, monkeypatch
) -> None:
    own = replace(PLAN, content="one:of an earlier version", epoch=1)
    with monkeypatch.context() as earlier:
        earlier.setattr(shards, "GROUPS", {HEARTBEAT_GROUP: 1})
        left = open_ray_shards(own, 1, PLACING, PATIENT)
        left.add(np.arange(5), unit_rows(5))
        left.release()
    with open_ray_shards(replace(own, epoch=2), 1, PLACING, PATIENT) as index:
        assert len(index) == 0
        index.add(np.arange(100), unit_rows(100))
        index.compact()
        assert_exact(index, np.arange(100), unit_rows(100))


def test_a_copy_has_a_node_of_its_own_or_is_wanting(nodes) -> None:
    with open_ray_shards(PLAN, 1, timing=QUICK, copies=2) as index:
        (copied,) = index.shards
        opener = index.open_copy.__self__  # type: ignore[union-attr]
        assert len(nodes_of(copied)) == 2
        nodes.lose_second()
        try:
            wait_until(lambda: index.wanting == [copied] and living_nodes() == 1)
            opener._timing = IMPATIENT
            with pytest.raises(ShardLost, match="waiting for gallery shards"):
                opener.open_copy(0)
            assert index.wanting == [copied]
        finally:
            nodes.bring_back()
        opener._timing = QUICK

        def is_whole() -> bool:
            with suppress(ShardLost):
                copied.attach(opener.open_copy(0))
            return index.wanting == []

        wait_until(is_whole)
        assert len(nodes_of(copied)) == 2


def test_of_two_copies_left_on_one_node_one_is_kept(nodes, monkeypatch) -> None:
    own = replace(PLAN, content="one:of copies on one node", epoch=1)
    make, (_, *others) = _Opener._make, [one["NodeID"] for one in ray.nodes() if one["Alive"]]
    with monkeypatch.context() as earlier:
        earlier.setattr(_Opener, "_make", lambda self, number, _: make(self, number, others))
        left = open_ray_shards(own, 1, timing=QUICK, copies=2)
        left.add(np.arange(5), unit_rows(5))
        (copied,) = left.shards
        assert len(copied.copies) == 2
        assert len(nodes_of(copied)) == 1
        left.release()
    with open_ray_shards(replace(own, epoch=2), 1, timing=QUICK, copies=2) as index:
        (copied,) = index.shards
        assert sorted(copy.count().result() for copy in copied.copies) == [0, 5]
        assert len(nodes_of(copied)) == 2
