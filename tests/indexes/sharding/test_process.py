"""Shards in processes: the same answers, and nothing left behind however things end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from indexes.approximate.faiss_kinds import IvfConfig
from indexes.base import Hits, Vectors
from indexes.errors import IdInvalid, SearchInvalid, ShardLost, VectorInvalid
from indexes.exact.certificate import CertifiedHits
from indexes.flat import FlatIndex
from indexes.gallery import Gallery
from indexes.segmented.merging import SegmentsConfig
from indexes.sharding import process
from indexes.sharding.process import ProcessShard, open_processes
from indexes.sharding.shards import ShardedIndex, ShardPlan

UnitRows = Callable[..., Vectors]

PLAN = ShardPlan("flat", 64)
PLANS = [PLAN, ShardPlan("exact8", 64, config=SegmentsConfig(head_rows=64, fan=2))]
BATCH = 8
LONG_S = 300


@pytest.fixture(scope="module", params=PLANS, ids=lambda plan: plan.kind)
def processes(request: pytest.FixtureRequest) -> Iterator[ShardedIndex]:
    with open_processes(request.param, 2) as index:
        yield index


def test_a_kind_that_misses_some_is_opened_as_it_is_told(unit_rows: UnitRows) -> None:
    config = IvfConfig(threshold=0.6, erasure_deadline_s=7200)
    with open_processes(ShardPlan("ivf", 64, config=config), 1) as index:
        index.add(np.arange(5), unit_rows(5, 64))
        assert index.search(unit_rows(2, 64), 1).ids.tolist() == [0, 1]


@pytest.fixture
def index(processes: ShardedIndex) -> Iterator[ShardedIndex]:
    yield processes
    processes.remove(processes.ids)
    assert len(processes) == 0


def test_a_shard_runs_the_code_of_its_parent() -> None:
    assert Path(process._HOME, "indexes", "sharding", "process.py").samefile(process.__file__)


def pids(index: ShardedIndex) -> list[int]:
    return [cast(ProcessShard, shard).pid for shard in index.shards]


def is_running(pid: int) -> bool:
    """False for one that ended and that nobody has waited for yet, too."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def children() -> set[int]:
    """The processes that this one has started, ended ones that nobody waited for included."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == os.getpid():
            found.add(int(folder.name))
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_same(hits: Hits, expected: Hits) -> None:
    assert np.array_equal(hits.offsets, expected.offsets)
    assert np.array_equal(hits.ids, expected.ids)
    assert np.array_equal(hits.scores.view(np.int32), expected.scores.view(np.int32))


@pytest.mark.parametrize("n", [0, 1, 5, 3000])
def test_answers_are_those_of_one_flat_index(
    index: ShardedIndex, unit_rows: UnitRows, n: int
) -> None:
    rows, ids = unit_rows(n, 64), np.arange(n) * 7
    rows[n // 2 :] = rows[: n - n // 2]  # every face twice: ties at every place
    flat = FlatIndex(64)
    for each in (flat, index):
        each.add(ids[::2], rows[::2])
        each.add(ids[1::2], rows[1::2])
        each.remove(ids[::5])
    for queries in (rows[:40], rows[:1], unit_rows(9, 64, seed=2), rows[:0]):
        for k in (1, 7, n + 1):
            assert_same(index.search(queries, k), flat.search(queries, k))
        for threshold in (-1.0, 0.3, 0.999):
            found = index.range_search(queries, threshold)
            assert_same(found, flat.range_search(queries, threshold))
    assert index.account().references == len(index) == len(flat)
    if index.kind == "exact8 x 2":
        hits = index.search(rows[:3], 5)
        assert isinstance(hits, CertifiedHits)
        assert hits.certificate.compared == len(flat)
    assert np.array_equal(index.ids, flat.ids)
    backwards = flat.ids[::-1].copy()
    assert np.array_equal(index.vectors(backwards), flat.vectors(backwards))


def test_what_is_refused_changes_no_shard(index: ShardedIndex, unit_rows: UnitRows) -> None:
    index.add(np.arange(20), unit_rows(20, 64))
    before = [shard.ids().result().tolist() for shard in index.shards]
    assert all(before)
    for ids, rows, refusal in (
        (np.arange(19, 40), unit_rows(21, 64), IdInvalid),
        (np.array([30, 31, 30]), unit_rows(3, 64), IdInvalid),
        (np.arange(30, 33), unit_rows(3, 64) * 2, VectorInvalid),
        (np.array([7]), unit_rows(1, 64), IdInvalid),
    ):
        with pytest.raises(refusal):
            index.add(ids, rows)
    with pytest.raises(IdInvalid, match="id 20 is not in the index"):
        index.remove(np.arange(21))
    with pytest.raises(IdInvalid):
        index.vectors(np.array([3, 99]))
    assert [shard.ids().result().tolist() for shard in index.shards] == before


def test_a_search_sees_all_of_a_change_or_nothing(index: ShardedIndex, unit_rows: UnitRows) -> None:
    """Batches of one face under eight ids, in both shards: a search finds eight or none."""
    gallery, faces, done = Gallery(index), unit_rows(60, 64, seed=3), threading.Event()

    def change() -> None:
        try:
            for number, face in enumerate(faces):
                ids = np.arange(number * BATCH, (number + 1) * BATCH)
                gallery.add(ids, np.repeat(face[None], BATCH, axis=0), gallery.sequence + 1)
                if number % 3 == 2:
                    gallery.remove(ids - 2 * BATCH, gallery.sequence + 1)
        finally:
            done.set()

    def search(seed: int) -> int:
        random, seen = np.random.default_rng(seed), 0
        while not done.is_set():
            number = int(random.integers(0, 60))
            found = gallery.range_search(faces[number : number + 1], 0.99)
            assert len(found.hits.ids) in (0, BATCH)
            seen += len(found.hits.ids)
        return seen

    with ThreadPoolExecutor(4) as pool:
        searchers = [pool.submit(search, seed) for seed in range(3)]
        pool.submit(change).result()
        assert sum(searcher.result() for searcher in searchers) > 0
    assert len(gallery) == 40 * BATCH


def test_a_fault_inside_a_shard_is_said_and_ends_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with open_processes(PLAN, 1) as index:
        shard = cast(Any, index.shards[0])
        with pytest.raises(RuntimeError, match="shard 0 failed at contains with TypeError"):
            shard.contains(None).result()
        said = capfd.readouterr().err
        assert "shard 0: ERROR indexes.sharding.process: contains failed with TypeError at" in said
        assert "NoneType" not in said  # its text might hold what a caller gave
        with pytest.raises(RuntimeError, match="AssertionError"):
            shard._call("__class__").result()
        assert len(index.ids) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_all_processes_are_left_to_the_parent(index: ShardedIndex, number: int) -> None:
    for pid in pids(index):
        os.kill(pid, number)
    time.sleep(0.1)
    assert index.ids.tolist() == []


def test_a_killed_shard_is_lost_and_never_answered_around(unit_rows: UnitRows) -> None:
    with open_processes(PLAN, 2) as index:
        index.add(np.arange(50), unit_rows(50, 64))
        os.kill(pids(index)[1], signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(ShardLost, match="restart"):
                index.search(unit_rows(1, 64), 1)
        with pytest.raises(ShardLost):
            len(index)
        with pytest.raises(ShardLost):
            index.remove(np.array([1]))


def stop(pid: int) -> None:
    """Returns once no thread of the process can answer any more: a signal takes its time."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + LONG_S
    while any(
        stat.read_text().rpartition(") ")[2][0] != "T"
        for stat in Path(f"/proc/{pid}/task").glob("*/stat")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_calls_under_way_fail_when_their_shard_is_killed(unit_rows: UnitRows) -> None:
    with open_processes(PLAN, 2) as index:
        index.add(np.arange(50), unit_rows(50, 64))
        stop(pids(index)[0])
        with ThreadPoolExecutor(3) as pool:
            searches = [pool.submit(index.search, unit_rows(1, 64), 1) for _ in range(2)]
            change = pool.submit(index.add, np.arange(50, 99), unit_rows(49, 64))
            time.sleep(0.1)
            os.kill(pids(index)[0], signal.SIGKILL)
            for search in searches:
                assert isinstance(search.exception(LONG_S), ShardLost)
            assert isinstance(change.exception(LONG_S), ShardLost)
        with pytest.raises(ShardLost):
            index.search(unit_rows(1, 64), 1)


def test_closing_leaves_no_process_even_one_that_hangs() -> None:
    before = children()
    index = open_processes(PLAN, 2)
    started = pids(index)
    assert children() - before == set(started)
    os.kill(started[0], signal.SIGSTOP)
    index.close()
    index.close()
    assert children() - before == set()
    assert not any(is_running(pid) for pid in started)
    with pytest.raises(ShardLost, match="closed"):
        index.search(np.empty((0, 64), np.float32), 1)


def test_a_start_that_fails_leaves_no_process() -> None:
    before = children()
    with pytest.raises(ShardLost, match="did not start within"):
        open_processes(PLAN, 2, start_within_s=0.001)
    with pytest.raises(VectorInvalid, match="dim is 0"):
        open_processes(ShardPlan("flat", 0), 2)
    with pytest.raises(SearchInvalid):
        open_processes(PLAN, 0)
    assert children() - before == set()


_PARENT = """
import os, sys, time
from indexes.sharding.process import open_processes
from indexes.sharding.shards import ShardPlan
index = open_processes(ShardPlan("flat", 64), 2)
heir = os.fork() if sys.argv[1] == "fork" else 0
if sys.argv[1] == "fork" and not heir:
    time.sleep(600)
print(*[shard.pid for shard in index.shards], heir, flush=True)
if sys.argv[1] != "exit":
    time.sleep(600)
"""


@pytest.mark.parametrize("way", ["kill", "fork", "exit"])
def test_shards_end_with_their_parent(way: str) -> None:
    """Killed, killed while a fork of it holds its sockets open, and leaving without closing."""
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _PARENT, way], stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout
        *shards, heir = map(int, parent.stdout.readline().split())
        try:
            if way != "exit":
                assert all(is_running(pid) for pid in shards)
                parent.kill()
            wait_until(lambda: not any(is_running(pid) for pid in shards))
        finally:
            if heir:
                os.kill(heir, signal.SIGKILL)
    assert len(shards) == 2
