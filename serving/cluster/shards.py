"""The gallery on actors of a Ray cluster, one for each shard, and answered as one."""

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

from indexes.base import Ids, Vectors
from indexes.errors import IndexFault, SearchInvalid, ShardLost
from indexes.sharding.host import CALLS_AT_ONCE, ShardHost
from indexes.sharding.shards import Shard, ShardedIndex, ShardPlan, close_all
from serving.settings import Settings

# The inside of a shard that is an actor on Ray.

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an actor runs: the node's id, and how many cores it may use there."""

    node: str
    cores: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a call: its value, or what the index refused, or the type of another failure.

    Failures cross as values: Ray would send, and log, a trace with whatever stands in it.
    """

    value: Any = None
    refusal: IndexFault | None = None
    failure: str | None = None


class ShardActor:
    """Holds one `ShardHost`, and does what its owner calls; ends with its owner.

    A large batch comes in pieces (`stage`) and is added at once at its end (`add_staged`), so
    that it is refused whole or seen whole, and makes one segment.
    """

    def __init__(self) -> None:
        self._host: ShardHost | None = None
        self._lock = Lock()
        self._staged: dict[str, list[tuple[Ids, Vectors]]] = {}

    def place(self) -> Place:
        return Place(ray.get_runtime_context().get_node_id(), len(os.sched_getaffinity(0)))

    def pulse(self) -> None:
        """Answers, whatever else is at work."""

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
        # Copied, or each piece would stay in Ray's store of objects until the batch is whole.
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
    """Ray hands arrays over read-only, for which the kernels would be compiled again."""
    if isinstance(argument, np.ndarray) and not argument.flags.writeable:
        return argument.copy()
    return argument


def _reply(operation: str, perform: Any, *arguments: Any) -> Reply:
    try:
        return Reply(perform(*arguments))
    except IndexFault as refusal:
        return Reply(refusal=type(refusal)(str(refusal)))
    except Exception as failure:  # noqa: BLE001 - whatever it is, the caller must hear of it
        # Its kind and its place; not its text, in which values might stand.
        last = traceback.extract_tb(failure.__traceback__)[-1]
        place = f"{os.path.basename(last.filename)}:{last.lineno}"
        _log.error("%s failed with %s at %s", operation, type(failure).__name__, place)
        return Reply(failure=type(failure).__name__)


# One shard of a gallery that is an actor on Ray, perhaps on another node.

PULSE_GROUP = "pulse"
"""The actor's own thread for `pulse`, which so is answered whatever the others do."""

MESSAGE_BYTES = 16 << 20
"""Vectors that are more than this travel in pieces: Ray keeps each whole in its object store."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a shard may take: to be placed, to answer a call, to answer whether it is there.

    A node that is switched off says nothing, and Ray itself waits half a minute for it; so each
    shard is asked every `pulse_every_s`, and lost when it has been silent for `silent_for_s`.
    """

    placed_within_s: float = 10.0
    answered_within_s: float = 120.0
    pulse_every_s: float = 1.0
    silent_for_s: float = 10.0


class RayShard(Shard):
    """A `Shard` behind an actor that is placed already; it owns the actor.

    It is of use when `opened` is done. Whatever Ray reports, an answer that is too late and a
    silence that is too long mean the same: the shard is lost for good, and every call that waits,
    or comes, fails with `ShardLost`.
    """

    def __init__(self, actor: Any, number: int, plan: ShardPlan, timing: Timing) -> None:
        self._actor = actor
        self._number = number
        self._rows_at_once = max(1, MESSAGE_BYTES // (4 * plan.dim))
        self._timing = timing
        self._lock = Lock()
        # Each call that waits, and the turn of the watch at which it is too late.
        self._waiting: dict[Future[Any], int] = {}
        self._turn = 0
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
        """Ends the actor, whatever it is doing."""
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
        """In a thread, for each piece waits for the one before it."""
        with suppress(RuntimeError):  # closed meanwhile
            return self._bulk.submit(perform)
        refused: Future[Value] = Future()
        refused.set_exception(ShardLost(self._lost))
        return refused

    def _call(self, operation: str, *arguments: object) -> Future[Any]:
        return self._ask(operation, self._actor.call.remote, operation, *arguments)

    def _ask(self, operation: str, remote: Callable[..., Any], *arguments: object) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # a shard cannot be told to stop
        with self._lock:
            if self._lost is not None:
                future.set_exception(ShardLost(self._lost))
                return future
            turns = math.ceil(self._timing.answered_within_s / self._timing.pulse_every_s)
            self._waiting[future] = self._turn + turns
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
                return  # it has been told that the shard is lost
        reply = done.result()
        if reply.refusal is not None:
            future.set_exception(reply.refusal)
        elif reply.failure is not None:
            failure = f"shard {self._number} failed at {operation} with {reply.failure}"
            future.set_exception(RuntimeError(f"{failure}; its log line says where"))
        else:
            future.set_result(reply.value)

    def _look(self) -> None:
        """Sees that the actor is there and answers, until the shard is lost or closed.

        Time is counted in turns: while this process itself stands still, nothing is too late.
        """
        every_s, silent = self._timing.pulse_every_s, 0
        pulse: Future[None] | None = None
        while self._lost is None and not self._closing.wait(every_s):
            silent = 0 if pulse is None or pulse.done() else silent + 1
            if silent * every_s >= self._timing.silent_for_s:
                self._lose(f"has been silent for {self._timing.silent_for_s:g} s; {_REBUILD}")
            elif silent == 0:
                try:
                    if pulse is not None:
                        pulse.result()
                    group = self._actor.pulse.options(concurrency_group=PULSE_GROUP)
                    pulse = _asked(group.remote)
                except Exception as error:  # noqa: BLE001 - whatever it is, it does not answer
                    self._lose_by(error)
            self._refuse_late()

    def _refuse_late(self) -> None:
        with self._lock:
            self._turn += 1
            is_late = any(turn <= self._turn for turn in self._waiting.values())
        if is_late:
            self._lose(f"has not answered in {self._timing.answered_within_s:g} s; {_REBUILD}")

    def _lose_by(self, error: BaseException) -> None:
        # Not its text: Ray's have addresses and traces.
        self._lose(f"is lost ({type(error).__name__}); {_REBUILD}")

    def _lose(self, why: str) -> None:
        with self._lock:
            self._lost = self._lost or f"shard {self._number} of the gallery {why}"
            waiting, self._waiting = self._waiting, {}
        for future in waiting:
            future.set_exception(ShardLost(self._lost))


def end_actor(actor: Any) -> None:
    """Ends an actor, if it is not gone already."""
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
    """How a deployment with these settings opens its shards; None where it wants none."""
    chosen = settings.gallery
    if not chosen.shards:
        return None
    return lambda plan: open_ray_shards(plan, chosen.shards, chosen.shard_resource, timing)


def open_ray_shards(
    plan: ShardPlan, shards: int, resource: str = "", timing: Timing | None = None
) -> ShardedIndex:
    """An empty gallery over so many actors of the cluster that this process is connected to.

    Each takes one of `resource`, where it is named; else they are spread over the nodes. They end
    with this process, or with `close`. Where the plan leaves the number of threads open, the
    shards of a node share its cores. `ShardLost` where they are not placed and opened in time,
    and then none is left running.
    """
    if shards < 1:
        raise SearchInvalid(f"shards is {shards}; give at least 1")
    if not ray.is_initialized():
        # Ray would start a cluster of its own.
        raise ShardLost("no cluster to put the gallery's shards on: connect to one first")
    timing = timing or Timing()
    # A name that no earlier start has used: its actors may still be ending.
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
    kind = ray.remote(concurrency_groups={PULSE_GROUP: 1})(ShardActor)
    return kind.options(
        name=name,
        num_cpus=0,  # it uses what its node has; the resource says which node
        max_restarts=0,  # a new one would be empty, and answer
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
    crowd = Counter(place.node for place in places)
    plans = [
        replace(plan, threads=plan.threads or max(1, place.cores // crowd[place.node]))
        for place in places
    ]
    for number, (place, each) in enumerate(zip(places, plans, strict=True)):
        _log.info("gallery shard %d is on node %s, %d threads", number, place.node, each.threads)
    return plans
