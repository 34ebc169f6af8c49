"""Sharded gallery on actors of a Ray cluster, one for each shard."""

from __future__ import annotations

import logging
import math
import os
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Event, Lock, Thread
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
import ray
from ray.exceptions import RayError

from engine.registry.keyring import forbid_core_dumps
from indexes.base import Ids, Vectors
from indexes.errors import IndexFault, SearchInvalid, ShardLost
from indexes.sharding.host import CALLS_AT_ONCE, ShardHost
from indexes.sharding.shards import Shard, ShardedIndex, ShardPlan, close_all
from serving.settings import Settings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an actor runs: the node's id, and the number of cores it may use."""

    node: str
    cores: int


@dataclass(frozen=True, slots=True)
class Reply:
    """Result of a call: its value, or the refusal of the index, or the type of another failure.

    Failures are returned as values: Ray would send, and log, a traceback with any values in it.
    """

    value: Any = None
    refusal: IndexFault | None = None
    failure: str | None = None


class ShardActor:
    """Actor with one `ShardHost`, called by its owner; ends with its owner.

    A large batch arrives in pieces (`stage`) and is added at once at its end (`add_staged`), so
    that it is refused or visible as a whole, and makes one segment.
    """

    def __init__(self) -> None:
        # It has no keys, but templates.
        forbid_core_dumps()
        self._host: ShardHost | None = None
        self._lock = Lock()
        self._staged: dict[str, list[tuple[Ids, Vectors]]] = {}

    def place(self) -> Place:
        return Place(ray.get_runtime_context().get_node_id(), len(os.sched_getaffinity(0)))

    def heartbeat(self) -> None:
        """Answers even while other calls run."""

    def open(self, plan: ShardPlan) -> Reply:
        """Opens an empty index; once, before any other call."""
        return _reply("open", self._open, plan)

    def call(self, operation: str, *arguments: Any) -> Reply:
        assert self._host is not None
        return _reply(operation, getattr(self._host, operation), *map(_writable, arguments))

    def stage(self, batch: str, ids: Ids, vectors: Vectors) -> Reply:
        return _reply("stage", self._stage, batch, ids, vectors)

    def add_staged(self, batch: str) -> Reply:
        return _reply("add", self._add_staged, batch)

    def _open(self, plan: ShardPlan) -> None:
        assert self._host is None
        self._host = ShardHost(plan)

    def _stage(self, batch: str, ids: Ids, vectors: Vectors) -> None:
        # Copied, or each piece would stay in Ray's object store until the batch is complete.
        piece = (np.array(ids), np.array(vectors))
        with self._lock:
            self._staged.setdefault(batch, []).append(piece)

    def _add_staged(self, batch: str) -> None:
        assert self._host is not None
        with self._lock:
            pieces = self._staged.pop(batch)
        ids, vectors = zip(*pieces, strict=True)
        del pieces
        self._host.add(np.concatenate(ids), np.concatenate(vectors))


def _writable(argument: Any) -> Any:
    """A writable copy: Ray passes arrays read-only, for which kernels would be compiled again."""
    if isinstance(argument, np.ndarray) and not argument.flags.writeable:
        return argument.copy()
    return argument


def _reply(operation: str, perform: Any, *arguments: Any) -> Reply:
    try:
        return Reply(perform(*arguments))
    except IndexFault as refusal:
        return Reply(refusal=type(refusal)(str(refusal)))
    except Exception as failure:  # noqa: BLE001 - the caller must learn of any failure
        # Its type and place; not its text, which may contain values.
        last = traceback.extract_tb(failure.__traceback__)[-1]
        place = f"{os.path.basename(last.filename)}:{last.lineno}"
        _log.error("%s failed with %s at %s", operation, type(failure).__name__, place)
        return Reply(failure=type(failure).__name__)


HEARTBEAT_GROUP = "heartbeat"
"""The actor's own thread for `heartbeat`, which is answered while others are busy."""

MESSAGE_BYTES = 16 << 20
"""More vectors are sent in pieces: Ray keeps a whole message in its object store."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Timing:
    """Time limits of a shard: to be placed, to answer a call, and for heartbeats.

    A node that is switched off sends nothing, and Ray itself waits half a minute for it; so each
    shard is asked every `heartbeat_every_s`, and lost when it has been silent for `silent_for_s`.
    """

    placed_within_s: float = 10.0
    answered_within_s: float = 120.0
    heartbeat_every_s: float = 1.0
    silent_for_s: float = 10.0


class RayShard(Shard):
    """A `Shard` in an actor that is placed already; it owns the actor.

    It can be used when `opened` is done. An error of Ray, a late answer and a long silence mean the
    same: the shard is lost for good, and every waiting or later call fails with `ShardLost`.
    """

    def __init__(self, actor: Any, number: int, plan: ShardPlan, timing: Timing) -> None:
        self._actor = actor
        self._number = number
        self._rows_at_once = max(1, MESSAGE_BYTES // (4 * plan.dim))
        self._timing = timing
        self._lock = Lock()
        # Each waiting call, and the tick of the watch at which it is late.
        self._waiting: dict[Future[Any], int] = {}
        self._tick = 0
        self._lost: str | None = None
        self._closing = Event()
        self._bulk = ThreadPoolExecutor(1, f"shard-{number}-bulk")
        self._watch = Thread(target=self._look, name=f"shard-{number}-watch", daemon=True)
        self.opened: Future[None] = self._ask("open", lambda: actor.open.remote(plan))
        self._watch.start()

    @property
    def lost(self) -> str | None:
        return self._lost

    def add(self, ids: Ids, vectors: Vectors) -> Future[None]:
        if len(ids) <= self._rows_at_once:
            return super().add(ids, vectors)
        return self._in_pieces(lambda: self._add_staged(ids, vectors))

    def vectors(self, ids: Ids) -> Future[Vectors]:
        if len(ids) <= self._rows_at_once:
            return super().vectors(ids)
        return self._in_pieces(lambda: self._read(ids))

    def close(self) -> None:
        """Ends the actor, even while it works."""
        self._lose("is closed; open the gallery again")
        self._closing.set()
        self._watch.join()
        self._bulk.shutdown()
        end_actor(self._actor)

    def _add_staged(self, ids: Ids, vectors: Vectors) -> None:
        batch = uuid4().hex
        for part in self._parts(ids):
            self._ask("stage", self._actor.stage.remote, batch, ids[part], vectors[part]).result()
        self._ask("add", self._actor.add_staged.remote, batch).result()

    def _read(self, ids: Ids) -> Vectors:
        return np.concatenate([self._call("vectors", ids[x]).result() for x in self._parts(ids)])

    def _parts(self, ids: Ids) -> list[slice]:
        step = self._rows_at_once
        return [slice(start, start + step) for start in range(0, len(ids), step)]

    def _in_pieces(self, perform: Callable[[], Value]) -> Future[Value]:
        """Runs in a thread, for each piece waits for the one before it."""
        with suppress(RuntimeError):  # closed meanwhile
            return self._bulk.submit(perform)
        refused: Future[Value] = Future()
        refused.set_exception(ShardLost(self._lost))
        return refused

    def _call(self, operation: str, *arguments: object) -> Future[Any]:
        return self._ask(operation, self._actor.call.remote, operation, *arguments)

    def _ask(self, operation: str, remote: Callable[..., Any], *arguments: object) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # a call of a shard cannot be cancelled
        with self._lock:
            if self._lost is not None:
                future.set_exception(ShardLost(self._lost))
                return future
            ticks = math.ceil(self._timing.answered_within_s / self._timing.heartbeat_every_s)
            self._waiting[future] = self._tick + ticks
        try:
            asked = _asked(remote, *arguments)
        except Exception as error:  # noqa: BLE001 - the object store is full, Ray is shut down, …
            self._lose_by(error)
        else:
            asked.add_done_callback(lambda done: self._settle(operation, future, done))
        return future

    def _settle(self, operation: str, future: Future[Any], done: Future[Reply]) -> None:
        if (error := done.exception()) is not None:
            self._lose_by(error)
            return
        with self._lock:
            if self._waiting.pop(future, None) is None:
                return  # it has failed already: the shard is lost
        reply = done.result()
        if reply.refusal is not None:
            future.set_exception(reply.refusal)
        elif reply.failure is not None:
            failure = f"shard {self._number} failed at {operation} with {reply.failure}"
            future.set_exception(RuntimeError(f"{failure}; its log line says where"))
        else:
            future.set_result(reply.value)

    def _look(self) -> None:
        """Checks that the actor answers, until the shard is lost or closed.

        Time is counted in ticks: while this process itself is suspended, no call becomes late.
        """
        every_s, silent = self._timing.heartbeat_every_s, 0
        heartbeat: Future[None] | None = None
        while self._lost is None and not self._closing.wait(every_s):
            silent = 0 if heartbeat is None or heartbeat.done() else silent + 1
            if silent * every_s >= self._timing.silent_for_s:
                self._lose(f"has been silent for {self._timing.silent_for_s:g} s; {_REBUILD}")
            elif silent == 0:
                try:
                    if heartbeat is not None:
                        heartbeat.result()
                    group = self._actor.heartbeat.options(concurrency_group=HEARTBEAT_GROUP)
                    heartbeat = _asked(group.remote)
                except Exception as error:  # noqa: BLE001 - any error means no answer
                    self._lose_by(error)
            self._refuse_late()

    def _refuse_late(self) -> None:
        with self._lock:
            self._tick += 1
            is_late = any(tick <= self._tick for tick in self._waiting.values())
        if is_late:
            self._lose(f"has not answered in {self._timing.answered_within_s:g} s; {_REBUILD}")

    def _lose_by(self, error: BaseException) -> None:
        # Not its text: those of Ray contain addresses and tracebacks.
        self._lose(f"is lost ({type(error).__name__}); {_REBUILD}")

    def _lose(self, why: str) -> None:
        with self._lock:
            self._lost = self._lost or f"shard {self._number} of the gallery {why}"
            waiting, self._waiting = self._waiting, {}
        for future in waiting:
            future.set_exception(ShardLost(self._lost))


def end_actor(actor: Any) -> None:
    """Ends an actor, if it still exists."""
    if ray.is_initialized():
        with suppress(RayError, ValueError):
            ray.kill(actor, no_restart=True)


_REBUILD = "the gallery must be built again from the store"


def _asked(remote: Callable[..., Any], *arguments: object) -> Future[Any]:
    if not ray.is_initialized():
        # Ray would start a cluster of its own.
        raise ShardLost("Ray is shut down")
    future: Future[Any] = remote(*arguments).future()
    return future


def shard_opener(
    settings: Settings, timing: Timing | None = None
) -> Callable[[ShardPlan], ShardedIndex] | None:
    """A function that opens the shards of these settings; None where there are none."""
    chosen = settings.gallery
    if not chosen.shards:
        return None
    return lambda plan: open_ray_shards(plan, chosen.shards, chosen.shard_resource, timing)


def open_ray_shards(
    plan: ShardPlan, shards: int, resource: str = "", timing: Timing | None = None
) -> ShardedIndex:
    """An empty gallery on so many actors of the cluster that this process is connected to.

    Each takes one of `resource` if that is set; else they are spread over the nodes. They end with
    this process, or with `close`. If the plan sets no number of threads, the shards of a node share
    its cores. `ShardLost`, with none left running, where they are not placed and opened in time.
    """
    if shards < 1:
        raise SearchInvalid(f"shards is {shards}; give at least 1")
    if not ray.is_initialized():
        # Ray would start a cluster of its own.
        raise ShardLost("no cluster to put the gallery's shards on: connect to one first")
    timing = timing or Timing()
    # A new name: actors of an earlier start may still be ending.
    boot = uuid4().hex[:12]
    actors = [_start(f"sosie-shard-{boot}-{number}", resource) for number in range(shards)]
    try:
        places = _await_places(actors, resource, timing.placed_within_s)
    except BaseException:
        for actor in actors:
            end_actor(actor)
        raise
    started = [
        RayShard(actor, number, each, timing)
        for number, (actor, each) in enumerate(zip(actors, _plans(plan, places), strict=True))
    ]
    try:
        for shard in started:
            shard.opened.result()
        return ShardedIndex(plan, started)
    except BaseException:
        close_all(started)
        raise


def _start(name: str, resource: str) -> Any:
    where: dict[str, Any] = (
        {"resources": {resource: 1}} if resource else {"scheduling_strategy": "SPREAD"}
    )
    kind = ray.remote(concurrency_groups={HEARTBEAT_GROUP: 1})(ShardActor)
    return kind.options(
        name=name,
        num_cpus=0,  # it uses the cores of its node; the resource selects the node
        max_restarts=0,  # a restarted one would be empty, and answer
        max_task_retries=0,
        max_concurrency=CALLS_AT_ONCE,
        **where,
    ).remote()


def _await_places(actors: Sequence[Any], resource: str, within_s: float) -> list[Place]:
    asked = [actor.place.remote() for actor in actors]
    placed, missing = ray.wait(asked, num_returns=len(asked), timeout=within_s)
    if missing:
        wanted = f", each on a node with the resource {resource}" if resource else ""
        raise ShardLost(
            f"waiting for gallery shards: {len(placed)} of {len(asked)} have a place{wanted}"
        )
    try:
        places: list[Place] = ray.get(asked)
    except RayError as error:
        raise ShardLost(f"a gallery shard did not start ({type(error).__name__})") from None
    return places


def _plans(plan: ShardPlan, places: Sequence[Place]) -> list[ShardPlan]:
    """The plan of each shard, with its share of the cores of its node."""
    shards_on = Counter(place.node for place in places)
    plans = [
        replace(plan, threads=plan.threads or max(1, place.cores // shards_on[place.node]))
        for place in places
    ]
    for number, (place, each) in enumerate(zip(places, plans, strict=True)):
        _log.info("gallery shard %d is on node %s, %d threads", number, place.node, each.threads)
    return plans
