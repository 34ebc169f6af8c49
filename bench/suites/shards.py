"""Suite `shards`: a gallery over shards on two Ray nodes of this machine, beside one process; what
is killed, and how it comes back; decisions beside passes, erasures and moves."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from typing import Any
from unittest.mock import patch

import numpy as np
import ray
from ray.cluster_utils import Cluster

from bench.core.machine import (
    DISK,
    clock,
    cores,
    filesystem_of,
    interleave,
    open_folder,
    rested,
    speedup,
)
from bench.core.reports import Figure, Measured, Result, Setup, Skipped, SuiteOutput
from bench.data.vectors import Vectors, describe_population
from bench.suites.gallery import PASS_PROBES
from bench.suites.registrar import DecisionLog
from bench.suites.serve.process import end_with_parent
from bench.suites.workload import (
    QUIET,
    Load,
    Visits,
    are_same,
    draw_visits,
    expect_answers,
    load_holders,
    make_document,
    make_home,
    select,
    write_requests,
)
from engine.accuracy.population import Population
from engine.errors import RequestError
from engine.matching.recovery import finish_move, restore_gallery
from engine.matching.registrar import Outcome
from engine.matching.requests import EnrollmentRequest
from indexes.errors import ShardLost
from indexes.gallery import Gallery
from indexes.sharding.sharded_index import ShardedIndex
from indexes.sharding.shards import Shard, ShardPlan
from serving.cluster.environment import USUAL
from serving.cluster.shards import RayShard, Timing, shard_opener
from serving.deployment.deployment import Deployment
from serving.settings.sections import GallerySettings
from serving.settings.settings import Settings

QUICK = {"references": 5_000, "visitors": 1_000, "rounds": 3, "probes": 256}
BEST = 10
WAIT_S = 600.0
_PROMISED, _MANY = 100_000, 1_000_000
_UNLIKE = 0.1
"""So far below the threshold is every visitor of a holder who is erased."""
_PAUSE_S = 0.05
"""Between two looks at the copies."""
_QUIET_S = 20.0
"""So long decisions are timed before anything is moved."""
_EXACT = ("failed_calls", "failed_beside_moves", "failed_beside_erasures")
"""Goals by the clock count at the size that they are promised for, these at any."""
_OF_MANY = ("sharded_batch_speedup", "decision_over_pass", "decision_beside_erasures")
"""Those that are promised for the larger size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """`probes`: searched over the shards and in one process, in batches of 256; `visitors` are
    decided one after another as long as something is to be waited for, `erasures` holders are
    erased."""

    references: int = _PROMISED
    shards: int = 4
    probes: int = 1_024
    rounds: int = 15
    visitors: int = 2_000
    erasures: int = 50
    parts: tuple[str, ...] = ()
    seed: int = 0
    folder: Path = DISK


@contextmanager
def two_nodes() -> Iterator[str]:
    """Two Ray nodes on this machine, and this process in their cluster; gives its address."""
    room: dict[str, Any] = {"num_cpus": 1}
    # Sockets need a short path. `Cluster` writes its address to where every Ray of this machine
    # would look for one by default.
    with TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        own = {"RAY_TMPDIR": folder} | USUAL
        with patch.dict(os.environ, own):
            cluster = Cluster(
                initialize_head=True, head_node_args=room | {"include_dashboard": False}
            )
            try:
                cluster.add_node(**room)
                _join(cluster.address)
                yield str(cluster.address)
            finally:
                ray.shutdown()
                cluster.shutdown()


def _join(address: str) -> None:
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")


@dataclass(slots=True)
class Opened:
    """A deployment whose gallery is on shards, with the writer's lease, and these shards."""

    deployment: Deployment
    shards: Sequence[Shard]

    @property
    def gallery(self) -> Gallery:
        return self.deployment.restored.gallery

    @property
    def is_wanting(self) -> bool:
        return self.deployment.copies_wanting > 0


def open_on_shards(
    home: Path, shards: int, copies: int = 1, read_settings: Callable[[], Settings] | None = None
) -> Opened:
    """Opens the home; shards that an earlier one left are adopted."""
    settings = Settings(gallery=GallerySettings(shards=shards, shard_copies=copies))
    found: list[ShardedIndex] = []

    def open_index(plan: ShardPlan) -> ShardedIndex:
        # On a busy machine the first processes of a cluster take longer than the usual time.
        opener = shard_opener(settings, Timing(placed_within_s=60), read_settings)
        assert opener is not None
        found.append(opener(plan))
        return found[-1]

    deployment = Deployment(home, settings, open_index=open_index)
    try:
        _ = deployment.registrar
    except BaseException:
        deployment.close()
        raise
    return Opened(deployment, found[-1].shards)


@dataclass(frozen=True, slots=True)
class Start:
    """What the process of a registrar says of its start: how long its gallery took, the counting of
    the store in it, and from where it came; what became of the first visitor."""

    opened_s: float
    counted_s: float
    loaded: int
    replayed: int
    outcome: Outcome


def run_registrar(
    home: Path, address: str, shards: int, request: EnrollmentRequest, end: Connection
) -> None:
    """The process of a registrar: opens the home, decides one visitor, and waits for its end."""
    end_with_parent()
    _join(address)
    opened, opened_s = clock(partial(open_on_shards, home, shards))
    with opened.deployment as deployment:
        outcome = deployment.registrar.submit(request).result()
        restored = deployment.restored
        counted_s = clock(deployment.store.live_total)[1]
        end.send(Start(opened_s, counted_s, restored.loaded, restored.replayed, outcome))
        end.recv()
    ray.shutdown()


def share_same(one: Gallery, other: Gallery, probes: Vectors, threshold: float) -> float:
    """The share of batches of probes to which both give the same ids and scores, bit for bit."""
    most_id = int(one.ids.max())
    parts = [probes[start : start + 256] for start in range(0, len(probes), 256)]
    parts += [probes[place : place + 1] for place in range(0, len(probes), 64)]
    same = [
        are_same(select(left.hits, most_id), select(right.hits, most_id))
        for part in parts
        for left, right in (
            (gallery.range_search(part, threshold) for gallery in (one, other)),
            (gallery.search(part, BEST) for gallery in (one, other)),
        )
    ]
    return float(np.mean(same))


def kill(shard: Shard) -> None:
    """SIGKILL to the process of a shard."""
    assert isinstance(shard, RayShard)
    process = shard.actor.handle.__ray_call__.remote(lambda _: os.getpid())
    os.kill(ray.get(process), signal.SIGKILL)


ONE, BATCH = "one query", "a batch of 256"
HERE, THERE = "one process", "shards"
PASSES, ERASURES = "passes are made", "holders are erased"
COPYING, MOVING = "a copy is made", "virtual shards are moved"

Part = tuple[Result, dict[str, float]]
"""A result, and the figures of it that goals name."""


class _Suite:
    """The parts of the suite on one home."""

    def __init__(self, home: Path, address: str, config: Config, setup: Setup) -> None:
        self._home, self._address, self._config, self._setup = home, address, config, setup
        self.same: list[float] = []
        self.needless = 0
        self._erased = 0

    def prepare(self, population: Population) -> None:
        """Enrolls all holders; the right answer to each visitor is known before the first one."""
        config = self._config
        references = population.references(config.references, config.seed)
        visits = draw_visits(population, config.references, config.visitors, config.seed)
        make_home(self._home)
        with Deployment(self._home, Settings()) as deployment:
            with deployment.store.writer() as writer:
                load_holders(writer, references)
            self.threshold = deployment.thresholds.review
            expected = expect_answers(visits, references, deployment.thresholds)
            places = [place for place, answer in enumerate(expected) if answer is not None]
            self.log = DecisionLog(visits, expected, places)
            self._erasable = _list_erasable(references, visits, self.threshold, config.erasures)
            self._requests = write_requests(visits, places, deployment.vault, config.references)
            self._probes = deployment.vault.rotate(
                np.resize(visits.live, (config.probes, population.dim))
            )

    def restart_registrar(self) -> Part:
        """The registrar killed and started again, its shards kept; and one that finds no shards.

        Three processes after another: from the store, killed; on its shards, stopped; from the
        store again, killed. Before the second one another has compiled and read what it needs.
        """
        with self._start() as (process, _, _):
            process.kill()
            process.join()
        killed_at = time.monotonic()
        with self._start() as (process, end, kept):
            resumed_s = time.monotonic() - killed_at
            end.send(None)
            process.join(WAIT_S)
        begun_at = time.monotonic()
        with self._start() as (process, _, anew):
            begun_s = time.monotonic() - begun_at
            process.kill()
            process.join()
        self.needless += kept.replayed
        figures = (
            Figure("killed: until the next decision", "s", resumed_s),
            Figure("no shards: until the first decision", "s", begun_s),
            Figure("gallery, shards kept", "s", kept.opened_s),
            Figure("gallery, from the store", "s", anew.opened_s),
            Figure("the store counted", "s", kept.counted_s),
        )
        return Result("The registrar is killed", self._setup, figures), {
            "kept_shards_speedup": anew.opened_s / kept.opened_s,
            "resume_seconds": resumed_s,
        }

    @contextmanager
    def _start(self) -> Iterator[tuple[Any, Connection, Start]]:
        """A registrar in a process of its own, once it has decided a visitor."""
        context = get_context("spawn")
        pipe, end = context.Pipe()
        given = (self._home, self._address, self._config.shards, next(self._requests), end)
        process = context.Process(target=run_registrar, args=given, daemon=True)
        process.start()
        end.close()
        if not pipe.poll(WAIT_S):
            raise RequestError(f"a registrar did not start in {WAIT_S:g} s")
        try:
            start: Start = pipe.recv()
        except EOFError:
            raise RequestError("a registrar did not start: what it wrote says why") from None
        self.log.outcomes.append(start.outcome)
        yield process, pipe, start

    def _open(self, copies: int = 1, read_settings: Callable[[], Settings] | None = None) -> Opened:
        """On the shards that were left, if there are any."""
        opened = open_on_shards(self._home, self._config.shards, copies, read_settings)
        self.log.note_gallery(len(opened.gallery), self._config.references - self._erased)
        return opened

    def compare_searches(self) -> Part:
        """Searches over the shards, and in one process, by turns."""
        opened = self._open()
        self._compare(opened)
        probes, threshold = self._probes, self.threshold
        actions = {}
        for name, gallery in ((HERE, self._alone), (THERE, opened.gallery)):
            actions[f"{name}: {ONE}"] = rested(partial(gallery.search, probes[:1], BEST))
            actions[f"{name}: {BATCH}"] = rested(
                partial(gallery.range_search, probes[:256], threshold)
            )
        seconds = interleave(actions, self._config.rounds)
        opened.deployment.close(keep_shards=True)
        figures = []
        for what in (ONE, BATCH):
            here, there = (seconds[f"{where}: {what}"] for where in (HERE, THERE))
            ratio = speedup(here, there)
            figures.append(Figure.of(f"{HERE}: {what}", "ms", here * 1e3, 1.0))
            figures.append(Figure.of(f"{THERE}: {what}", "ms", there * 1e3, ratio))
        setup = self._setup | {"rounds": self._config.rounds}
        result = Result("Searches over shards", setup, tuple(figures))
        # Of the batch, which is the last.
        return result, {"sharded_batch_speedup": ratio}

    def _compare(self, opened: Opened) -> None:
        """With a gallery in this process, as the store is now."""
        store = opened.deployment.store
        self._alone = restore_gallery(store, self._home / "no-snapshot").gallery
        self.same.append(share_same(self._alone, opened.gallery, self._probes, self.threshold))

    def lose_shard(self) -> Part:
        """Kills one shard under searches, and opens the gallery again as the service does; then
        opens it with no shard left."""
        opened = self._open()
        shard = opened.shards[self._config.shards // 2]
        held = shard.count().result()
        killed: list[float] = []

        def strike() -> None:
            kill(shard)
            killed.append(time.monotonic())

        striker = Timer(4 * _PAUSE_S, strike)
        striker.start()
        with suppress(ShardLost):
            while True:
                opened.gallery.range_search(self._probes[:1], self.threshold)
        striker.join()
        opened.deployment.close(keep_shards=True)
        opened = self._open()
        opened.gallery.range_search(self._probes[:1], self.threshold)
        whole_s = time.monotonic() - killed[0]
        self._compare(opened)
        self.needless += abs(opened.deployment.restored.replayed - held)
        # Closed, it leaves no shard.
        opened.deployment.close()
        begun_at = time.monotonic()
        opened = self._open()
        opened.gallery.range_search(self._probes[:1], self.threshold)
        everything_s = time.monotonic() - begun_at
        opened.deployment.close(keep_shards=True)
        ratio = everything_s / whole_s
        figures = (
            Figure("everything from the store", "s", everything_s, ratio=1.0),
            Figure("one shard: answers whole again", "s", whole_s, ratio=ratio),
            Figure("references that it had", "references", float(held)),
        )
        return Result("One shard is killed", self._setup, figures), {"one_shard_speedup": ratio}

    def lose_copy(self) -> Part:
        """Gives each shard a second copy, then kills one, and waits for another, under load."""
        opened = self._open(copies=2)
        with self._load(opened, COPYING) as load:
            _, made_s = clock(partial(wait_for, lambda: not opened.is_wanting))
            load.state = QUIET
            time.sleep(2)
            load.state = COPYING
            doomed = opened.shards[0].copies[0]
            kill(doomed)
            killed_at = time.monotonic()
            wait_for(lambda: doomed not in opened.shards[0].copies and not opened.is_wanting)
            again_s = time.monotonic() - killed_at
        result = load.report(
            "Two copies, one is killed",
            self._setup,
            Figure("second copies of all shards made", "s", made_s),
            Figure("killed: a copy made again", "s", again_s),
        )
        return result, {"failed_calls": float(load.failed)}

    def decide_beside(self) -> Part:
        """Decides under load: alone, beside passes of many probes, and while holders are erased. A
        decision needs a scan and an add of its own: at most it waits for no whole pass."""
        opened = self._open()
        probes = np.resize(self._probes, (PASS_PROBES, self._probes.shape[1]))
        pass_s, erase_s = [], []
        with self._load(opened, QUIET) as load:
            time.sleep(_QUIET_S)
            load.state, end_at = PASSES, time.monotonic() + _QUIET_S
            while time.monotonic() < end_at:
                search = partial(opened.gallery.range_search, probes, self.threshold)
                pass_s.append(clock(search)[1])
            load.state = ERASURES
            for serial in self._erasable:
                erase = partial(opened.deployment.erase, make_document(serial), "bench")
                erase_s.append(clock(erase)[1])
                time.sleep(_QUIET_S / len(self._erasable))
            load.state = ""
            self._erased += len(erase_s)
        pass_ms, decisions = np.array(pass_s) * 1e3, load.uncommitted
        result = load.report(
            "Beside passes and erasures",
            self._setup | {"erasures": len(erase_s)},
            Figure.of(f"a pass of {PASS_PROBES:,} probes", "ms", pass_ms),
            Figure.of("an erasure", "ms", np.array(erase_s) * 1e3),
        )
        return result, {
            "failed_beside_erasures": float(load.failed),
            "decision_over_pass": decisions.p99_ms(PASSES) / float(np.median(pass_ms)),
            "decision_beside_erasures": decisions.p99_ms(ERASURES) / decisions.p99_ms(QUIET),
        }

    def move(self) -> Part:
        """Has one shard more, under load, as when the setting is changed while they serve: each
        move's last step is on the writer's thread."""
        wanted = [self._config.shards]
        steps: list[tuple[float, float, int]] = []

        def read_settings() -> Settings:
            return Settings(gallery=GallerySettings(shards=wanted[0]))

        def finish(*given: Any) -> int:
            moved, seconds = clock(partial(finish_move, *given))
            steps.append((seconds * 1e3, time.monotonic(), moved))
            return moved

        opened = self._open(read_settings=read_settings)
        with (
            patch("serving.deployment.snapshots.finish_move", finish),
            self._load(opened, QUIET) as load,
        ):
            time.sleep(_QUIET_S)
            load.state = ""
            wanted[0] += 1
            wait_for(lambda: bool(steps))
            load.state = MOVING
            wait_for(lambda: not opened.deployment.moves_wanting)
        taken_ms, ended_at, moved = zip(*steps, strict=True)
        rate = (len(steps) - 1) / (ended_at[-1] - ended_at[0])
        decisions = load.uncommitted
        quiet_ms = decisions.p99_ms(QUIET)
        result = load.report(
            "One shard more while they serve",
            self._setup,
            Figure("virtual shards moved", "moves", float(len(steps))),
            Figure("references moved", "references", float(sum(moved))),
            Figure("moves a second", "moves/s", rate),
            Figure.of("the last step, on the writer's thread", "ms", taken_ms),
        )
        return result, {
            "failed_beside_moves": float(load.failed),
            "moves_per_second": rate,
            "decision_beside_moves": decisions.p99_ms(MOVING) / quiet_ms,
            "longest_move_step": max(taken_ms) / quiet_ms,
        }

    @contextmanager
    def _load(self, opened: Opened, state: str) -> Iterator[Load]:
        """Searches and decisions go on meanwhile; afterwards the answers are compared."""
        self._compare(opened)
        probes, most_id = self._probes[:8], int(self._alone.ids.max())
        known = select(self._alone.range_search(probes, self.threshold).hits, most_id)
        load = Load(opened.deployment, probes, self.threshold, known, most_id, self._requests)
        load.state = state
        with load.running():
            yield load
        self.log.outcomes += load.outcomes
        self._compare(opened)
        opened.deployment.close(keep_shards=True)

    def close(self) -> None:
        """Ends the shards, which must have everything."""
        # What is left over was not asked.
        del self.log.places[len(self.log.outcomes) :]
        self._open().deployment.close()


PARTS: Mapping[str, Callable[[_Suite], Part]] = {
    "registrar": _Suite.restart_registrar,
    "searches": _Suite.compare_searches,
    "shard": _Suite.lose_shard,
    "copies": _Suite.lose_copy,
    "beside": _Suite.decide_beside,
    "moves": _Suite.move,
}


def _list_erasable(references: Vectors, visits: Visits, threshold: float, count: int) -> list[int]:
    """Serials of holders whom no visitor resembles, so that no answer changes with them."""
    free = np.setdiff1d(np.arange(len(references)), visits.people)[: 4 * count]
    nearest = [(references[free] @ part.T).max(axis=1) for part in (visits.live, visits.portrait)]
    unlike: list[int] = free[np.max(nearest, axis=0) < threshold - _UNLIKE].tolist()
    return unlike[:count]


def wait_for(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > give_up_at:
            raise RequestError(f"the shards were not what they are to be in {WAIT_S:g} s")
        time.sleep(_PAUSE_S)


def run(config: Config) -> SuiteOutput:
    population = Population.load("sface")
    setup: Setup = {
        "references": config.references,
        "dim": population.dim,
        "population": describe_population(population.dim),
        "shards": config.shards,
        "nodes": 2,
        "seed": config.seed,
        "threads": cores(),
        "database": "SQLite",
        "filesystem": filesystem_of(config.folder),
    }
    results: list[Result] = []
    measured: dict[str, Measured] = {}
    # Ray tells on standard output, where a report may go, of each process that is lost.
    tell_elsewhere = redirect_stdout(sys.stderr)
    with tell_elsewhere, open_folder(config.folder) as folder, two_nodes() as address:
        suite = _Suite(folder / "home", address, config, setup)
        suite.prepare(population)
        for part in (one for one in PARTS if not config.parts or one in config.parts):
            result, found = PARTS[part](suite)
            results.append(result)
            for name, value in found.items():
                measured[name] = _judge(name, value, config.references)
        suite.close()
    return results, measured | {
        "replayed_needlessly": float(suite.needless),
        "identical_answers": min(suite.same, default=1.0),
        "wrong_decisions": float(suite.log.count_wrong()),
        "gallery_difference": float(suite.log.difference),
    }


def _judge(name: str, value: float, references: int) -> Measured:
    """A figure by the clock counts at the size that it is promised for."""
    promised = _MANY if name in _OF_MANY else _PROMISED
    if references >= promised or name in _EXACT:
        return value
    return Skipped(f"promised for {promised:,} references or more")
