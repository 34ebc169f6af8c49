"""Suite `shards`: a gallery over shards on two Ray nodes of this machine, beside one process; what
is killed, and how it comes back; decisions beside passes, erasures and moves."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
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

from bench.core.machine import DISK, cores, filesystem_of, open_folder
from bench.core.reports import (
    LEFT_OUT,
    Figure,
    Measured,
    Result,
    Setup,
    Skipped,
    SuiteOutput,
    choose_names,
)
from bench.core.timing import Seconds, clock, interleave, rested, speedup
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
"""Between two decisions, and between two looks at the copies."""
_QUIET_S = 20.0
"""So long decisions are timed before anything is moved."""

PARTS: Mapping[str, tuple[str, ...]] = {
    "registrar": ("kept_shards_speedup", "resume_seconds"),
    "searches": ("sharded_batch_speedup",),
    "shard": ("one_shard_speedup",),
    "copies": ("failed_calls",),
    "beside": ("failed_beside_erasures", "decision_over_pass", "decision_beside_erasures"),
    "moves": (
        "failed_beside_moves",
        "moves_per_second",
        "decision_beside_moves",
        "longest_move_step",
    ),
}
"""The parts in their order, and the figures of each that goals name; all others are of any."""
_EXACT = ("failed_calls", "failed_beside_moves", "failed_beside_erasures")
"""Of these, those that hold at any size."""
_OF_MANY = ("sharded_batch_speedup", "decision_over_pass", "decision_beside_erasures")
"""Those that are promised for the larger size."""


def read_parts(text: str) -> tuple[str, ...]:
    """Parts by name, with commas between them; all for an empty text."""
    return choose_names(text, PARTS, "no part {name}: choose of {known}") or tuple(PARTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardsConfig:
    """`probes`: searched over the shards and in one process, in batches of 256; `visitors` are
    decided one after another as long as something is to be waited for, `erasures` holders are
    erased."""

    references: int = _PROMISED
    shards: int = 4
    probes: int = 1_024
    rounds: int = 15
    visitors: int = 2_000
    erasures: int = 50
    parts: tuple[str, ...] = tuple(PARTS)
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
    """The process of a registrar: opens the home, decides one visitor, and ends when it is told."""
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


class Child:
    """A registrar in a process of its own."""

    def __init__(self, *given: Any) -> None:
        context = get_context("spawn")
        self._pipe, end = context.Pipe()
        self._process = context.Process(target=run_registrar, args=(*given, end), daemon=True)
        self._process.start()
        end.close()

    def wait(self) -> Start:
        """Until it has decided."""
        if not self._pipe.poll(WAIT_S):
            raise RequestError(f"a registrar did not start in {WAIT_S:g} s")
        try:
            start: Start = self._pipe.recv()
        except EOFError:
            raise RequestError("a registrar did not start: what it wrote says why") from None
        return start

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def stop(self) -> None:
        self._pipe.send(None)
        self._process.join(WAIT_S)


@dataclass(frozen=True, slots=True)
class Restarts:
    """The registrar killed and started again, its shards kept; and one that finds no shards.

    `resumed_s` and `begun_s`: from the kill, or the start of the process, to the first decision.
    """

    kept: Start
    resumed_s: float
    anew: Start
    begun_s: float

    def list_figures(self, setup: Setup) -> Result:
        figures = (
            Figure("killed: until the next decision", "s", self.resumed_s),
            Figure("no shards: until the first decision", "s", self.begun_s),
            Figure("gallery, shards kept", "s", self.kept.opened_s),
            Figure("gallery, from the store", "s", self.anew.opened_s),
            Figure("the store counted", "s", self.kept.counted_s),
            Figure("kept by the shards", "references", float(self.kept.loaded)),
            Figure("read from the store again", "references", float(self.kept.replayed)),
        )
        return Result("The registrar is killed", setup, figures)

    def measure(self) -> dict[str, Measured]:
        return {
            "kept_shards_speedup": self.anew.opened_s / self.kept.opened_s,
            "resume_seconds": self.resumed_s,
        }


@dataclass(frozen=True, slots=True)
class Loss:
    """One shard killed under searches: seconds from the kill; `held` is what it had, `everything_s`
    what it takes to open the same gallery with no shard left."""

    noticed_s: float
    whole_s: float
    held: int
    replayed: int
    everything_s: float

    def list_figures(self, setup: Setup) -> Result:
        figures = (
            Figure("everything from the store", "s", self.everything_s, ratio=1.0),
            Figure("one shard: answers whole again", "s", self.whole_s, ratio=self.ratio),
            Figure("one shard: noticed", "s", self.noticed_s),
            Figure("references that it had", "references", float(self.held)),
            Figure("read from the store", "references", float(self.replayed)),
        )
        return Result("One shard is killed", setup, figures)

    @property
    def ratio(self) -> float:
        return self.everything_s / self.whole_s


@dataclass(frozen=True, slots=True)
class Copies:
    """Two copies of each shard: the second ones made beside searches and decisions, then one of
    them killed, and made again."""

    made_s: float
    again_s: float
    load: Load

    def list_figures(self, setup: Setup) -> Result:
        figures = (
            Figure("second copies of all shards made", "s", self.made_s),
            Figure("killed: a copy made again", "s", self.again_s),
            *self.load.list_figures(),
        )
        return Result("Two copies, one is killed", setup | self.load.count_calls(), figures)


PASSES, ERASURES = "passes are made", "holders are erased"


@dataclass(frozen=True, slots=True)
class Beside:
    """Decisions beside passes of many probes, and beside erasures."""

    pass_s: Sequence[float]
    erase_s: Sequence[float]
    load: Load

    def list_figures(self, setup: Setup) -> Result:
        figures = (
            Figure.of(f"a pass of {PASS_PROBES:,} probes", "ms", np.array(self.pass_s) * 1e3),
            Figure.of("an erasure", "ms", np.array(self.erase_s) * 1e3),
            *self.load.list_figures(),
        )
        counts = self.load.count_calls() | {"erasures": len(self.erase_s)}
        return Result("Beside passes and erasures", setup | counts, figures)

    def measure(self) -> dict[str, Measured]:
        """A decision needs a scan and an add of its own: at most it waits for no whole pass."""
        decisions = self.load.uncommitted
        return {
            "failed_beside_erasures": float(self.load.failed),
            "decision_over_pass": decisions.p99_ms(PASSES) / float(np.median(self.pass_s) * 1e3),
            "decision_beside_erasures": decisions.p99_ms(ERASURES) / decisions.p99_ms(QUIET),
        }


@dataclass(frozen=True, slots=True)
class Steps:
    """The last step of each move, on the writer's thread: how long it took, when it had ended, and
    how many references it moved."""

    taken_ms: list[float] = field(default_factory=list)
    ended_at: list[float] = field(default_factory=list)
    references: list[int] = field(default_factory=list)

    @contextmanager
    def timed(self) -> Iterator[None]:
        def finish(*given: Any) -> int:
            moved, seconds = clock(partial(finish_move, *given))
            self.taken_ms.append(seconds * 1e3)
            self.ended_at.append(time.monotonic())
            self.references.append(moved)
            return moved

        with patch("serving.deployment.snapshots.finish_move", finish):
            yield


MOVING = "virtual shards are moved"


@dataclass(frozen=True, slots=True)
class Moves:
    """Virtual shards moved one by one to one shard more, beside searches and decisions."""

    steps: Steps
    load: Load

    def list_figures(self, setup: Setup) -> Result:
        steps = self.steps
        figures = (
            Figure("virtual shards moved", "moves", float(len(steps.taken_ms))),
            Figure("references moved", "references", float(sum(steps.references))),
            Figure("moves a second", "moves/s", self.per_second),
            Figure.of("the last step, on the writer's thread", "ms", steps.taken_ms),
            Figure("the longest of them", "ms", max(steps.taken_ms)),
            *self.load.list_figures(),
        )
        return Result("One shard more while they serve", setup | self.load.count_calls(), figures)

    @property
    def per_second(self) -> float:
        ended_at = self.steps.ended_at
        return (len(ended_at) - 1) / (ended_at[-1] - ended_at[0])

    def measure(self) -> dict[str, Measured]:
        """Its figures that goals name; a goal is missed where nothing was decided meanwhile."""
        decisions = self.load.uncommitted
        quiet_ms = decisions.p99_ms(QUIET)
        return {
            "failed_beside_moves": float(self.load.failed),
            "moves_per_second": self.per_second,
            "decision_beside_moves": decisions.p99_ms(MOVING) / quiet_ms,
            "longest_move_step": max(self.steps.taken_ms) / quiet_ms,
        }


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


class _Steps:
    """The steps of the suite on one home, in the order of its methods."""

    def __init__(self, home: Path, address: str, config: ShardsConfig) -> None:
        self._home, self._address, self._config = home, address, config
        self.same: list[float] = []
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

    def restart_registrar(self) -> Restarts:
        """Three processes of a registrar after another: from the store, killed; on its shards,
        stopped; from the store again, killed."""
        self._start().kill()
        killed_at = time.monotonic()
        # A registrar before it has compiled and read what this one needs.
        second = self._start()
        resumed_s, kept = time.monotonic() - killed_at, self._started
        second.stop()
        begun_at = time.monotonic()
        third = self._start()
        begun_s, anew = time.monotonic() - begun_at, self._started
        third.kill()
        return Restarts(kept, resumed_s, anew, begun_s)

    def _start(self) -> Child:
        given = (self._home, self._address, self._config.shards, next(self._requests))
        child = Child(*given)
        self._started = child.wait()
        self.log.outcomes.append(self._started.outcome)
        return child

    def _open(self, copies: int = 1, read_settings: Callable[[], Settings] | None = None) -> Opened:
        """On the shards that were left, if there are any."""
        opened = open_on_shards(self._home, self._config.shards, copies, read_settings)
        self.log.note_gallery(len(opened.gallery), self._config.references - self._erased)
        return opened

    def compare(self) -> dict[str, Seconds]:
        """Searches over the shards, and in one process; seconds of each, by turns."""
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
        return seconds

    def _compare(self, opened: Opened) -> None:
        """With a gallery in this process, as the store is now."""
        store = opened.deployment.store
        self._alone = restore_gallery(store, self._home / "no-snapshot").gallery
        self.same.append(share_same(self._alone, opened.gallery, self._probes, self.threshold))

    def lose_shard(self) -> Loss:
        """Kills one shard under searches, and opens the gallery again as the service does."""
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
        noticed_at = time.monotonic()
        opened.deployment.close(keep_shards=True)
        opened = self._open()
        opened.gallery.range_search(self._probes[:1], self.threshold)
        whole_s = time.monotonic() - killed[0]
        self._compare(opened)
        replayed = opened.deployment.restored.replayed
        # And everything, for comparison: closed, it leaves no shard.
        opened.deployment.close()
        begun_at = time.monotonic()
        opened = self._open()
        opened.gallery.range_search(self._probes[:1], self.threshold)
        everything_s = time.monotonic() - begun_at
        opened.deployment.close(keep_shards=True)
        return Loss(noticed_at - killed[0], whole_s, held, replayed, everything_s)

    def lose_copy(self) -> Copies:
        """Gives each shard a second copy, then kills one, and waits for another, under load."""
        opened = self._open(copies=2)
        load = self._load(opened)
        load.state = "a copy is made"
        with load.running():
            _, made_s = clock(partial(wait_for, lambda: not opened.is_wanting))
            load.state = QUIET
            time.sleep(2)
            load.state = "a copy is made"
            doomed = opened.shards[0].copies[0]
            kill(doomed)
            killed_at = time.monotonic()
            wait_for(lambda: doomed not in opened.shards[0].copies and not opened.is_wanting)
            again_s = time.monotonic() - killed_at
        self._end(opened, load)
        return Copies(made_s, again_s, load)

    def decide_beside(self) -> Beside:
        """Decides under load: alone, beside passes of many probes, and while holders are erased."""
        opened = self._open()
        load = self._load(opened)
        probes = np.resize(self._probes, (PASS_PROBES, self._probes.shape[1]))
        pass_s, erase_s = [], []
        load.state = QUIET
        with load.running():
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
        self._end(opened, load)
        return Beside(pass_s, erase_s, load)

    def move(self) -> Moves:
        """Has one shard more, under load, as when the setting is changed while they serve."""
        wanted = [self._config.shards]

        def read_settings() -> Settings:
            return Settings(gallery=GallerySettings(shards=wanted[0]))

        opened, steps = self._open(read_settings=read_settings), Steps()
        load = self._load(opened)
        load.state = QUIET
        with steps.timed(), load.running():
            time.sleep(_QUIET_S)
            load.state = ""
            wanted[0] += 1
            wait_for(lambda: bool(steps.taken_ms))
            load.state = MOVING
            wait_for(lambda: not opened.deployment.moves_wanting)
        self._end(opened, load)
        return Moves(steps, load)

    def _load(self, opened: Opened) -> Load:
        self._compare(opened)
        probes, most_id = self._probes[:8], int(self._alone.ids.max())
        known = select(self._alone.range_search(probes, self.threshold).hits, most_id)
        return Load(opened.deployment, probes, self.threshold, known, most_id, self._requests)

    def _end(self, opened: Opened, load: Load) -> None:
        self.log.outcomes += load.outcomes
        self._compare(opened)
        opened.deployment.close(keep_shards=True)

    def close(self) -> None:
        """Ends the shards, which must have everything."""
        # What is left over was not asked.
        del self.log.places[len(self.log.outcomes) :]
        self._open().deployment.close()


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


def run(config: ShardsConfig) -> SuiteOutput:
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
    # Ray tells on standard output, where a report may go, of each process that is lost.
    tell_elsewhere = redirect_stdout(sys.stderr)
    with tell_elsewhere, open_folder(config.folder) as folder, two_nodes() as address:
        steps = _Steps(folder / "home", address, config)
        steps.prepare(population)
        results, measured = _measure_parts(config, steps, setup)
        steps.close()
    measured |= {
        "identical_answers": min(steps.same, default=1.0),
        "wrong_decisions": float(steps.log.count_wrong()),
        "gallery_difference": float(steps.log.difference),
    }
    return results, measured


def _measure_parts(config: ShardsConfig, steps: _Steps, setup: Setup) -> SuiteOutput:
    """What was asked for, in the order of `PARTS`."""
    results: list[Result] = []
    measured: dict[str, Measured] = {}
    needless = 0
    for part, names in PARTS.items():
        if part not in config.parts:
            measured |= dict.fromkeys(names, Skipped(f"{LEFT_OUT} {part}"))
            continue
        found: dict[str, Measured]
        match part:
            case "registrar":
                restarts = steps.restart_registrar()
                needless += restarts.kept.replayed
                results.append(restarts.list_figures(setup))
                found = restarts.measure()
            case "searches":
                seconds = steps.compare()
                listed = _list_searches(seconds, steps.same, setup | {"rounds": config.rounds})
                results.append(listed)
                here, there = (seconds[f"{where}: {BATCH}"] for where in (HERE, THERE))
                found = {"sharded_batch_speedup": speedup(here, there)}
            case "shard":
                loss = steps.lose_shard()
                needless += abs(loss.replayed - loss.held)
                results.append(loss.list_figures(setup))
                found = {"one_shard_speedup": loss.ratio}
            case "copies":
                copies = steps.lose_copy()
                results.append(copies.list_figures(setup))
                found = {"failed_calls": float(copies.load.failed)}
            case "beside":
                beside = steps.decide_beside()
                results.append(beside.list_figures(setup))
                found = beside.measure()
            case _:
                moves = steps.move()
                results.append(moves.list_figures(setup))
                found = moves.measure()
        measured |= {name: _judge(name, value, config.references) for name, value in found.items()}
    return results, measured | {"replayed_needlessly": float(needless)}


def _judge(name: str, value: Measured, references: int) -> Measured:
    """A figure by the clock counts at the size that it is promised for."""
    promised = _MANY if name in _OF_MANY else _PROMISED
    if references >= promised or name in _EXACT:
        return value
    return Skipped(f"promised for {promised:,} references or more")


def _list_searches(seconds: Mapping[str, Seconds], same: Sequence[float], setup: Setup) -> Result:
    figures = []
    for what in (ONE, BATCH):
        here, there = (seconds[f"{where}: {what}"] for where in (HERE, THERE))
        figures.append(Figure.of(f"{HERE}: {what}", "ms", here * 1e3, 1.0))
        figures.append(Figure.of(f"{THERE}: {what}", "ms", there * 1e3, speedup(here, there)))
    figures.append(Figure("the same answers, whatever was lost", "share", min(same)))
    return Result("Searches over shards", setup, tuple(figures))
