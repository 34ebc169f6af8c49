"""Sharded gallery on actors of a Ray cluster, one for each shard."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from threading import Event, Lock, Thread
from time import sleep
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import numpy as np
import ray
from ray.exceptions import RayError

from engine.errors import SosieError
from engine.registry.keyring import forbid_core_dumps
from indexes.base import Ids, Vectors, overwrite_when_freed
from indexes.errors import IndexFault, SearchInvalid, ShardFenced, ShardLost
from indexes.exact.scanner import FEW_QUERIES
from indexes.sharding.host import CALLS_AT_ONCE, ReplicatedShard, Shard, ShardHost
from indexes.sharding.sharded_index import ShardedIndex
from indexes.sharding.shards import ShardMark, ShardPlan, ShardState
from schema import frozen

if TYPE_CHECKING:
    # A shard needs none of them, and is there sooner.
    from serving.settings.settings import Settings

_log = logging.getLogger(__name__)


@frozen
class Place:
    """The place of an actor: the node's id, and the number of cores it may use."""

    node: str
    cores: int


@frozen
class Reply:
    """Result of a call: its value, the refusal of the index, or another failure's type; Ray would
    log a traceback with values."""

    value: Any = None
    refusal: IndexFault | None = None
    failure: str | None = None


class ShardActor:
    """Actor with one `ShardHost`; outlives the writer that opened it, and obeys the next one. A
    large batch arrives in pieces (`stage`) and is added at once (`add_staged`): refused or visible
    as a whole, and one segment. It ends when no writer has called it for so many seconds, if
    given."""

    def __init__(self, abandoned_after_s: float = 0.0) -> None:
        # It has no keys, but templates.
        forbid_core_dumps()
        self._host: ShardHost | None = None
        self._identity = ""
        self._lock = Lock()
        self._staged: dict[str, list[tuple[Ids, Vectors]]] = {}
        self._silent_s = 0
        if abandoned_after_s:
            Thread(target=self._end_if_abandoned, args=(abandoned_after_s,), daemon=True).start()

    def place(self) -> Place:
        return Place(ray.get_runtime_context().get_node_id(), len(os.sched_getaffinity(0)))

    def heartbeat(self) -> str | None:
        """Answers even while other calls run: why it searches more slowly than it was set up to."""
        self._silent_s = 0
        return None if self._host is None else self._host.search_fault

    def open(self, plan: ShardPlan, identity: str) -> Reply:
        """Opens an empty index; once, before any other call."""
        return _reply("open", self._open, plan, identity)

    def adopt(self, plan: ShardPlan, identity: str) -> Reply:
        """Obeys the writer of this plan from now on; its place and state, or None where what it
        holds has another identity."""
        return _reply("adopt", self._adopt, plan, identity)

    def call(self, epoch: int, operation: str, *arguments: Any) -> Reply:
        assert self._host is not None
        return _reply(operation, self._host.call, epoch, operation, *map(_writable, arguments))

    def stage(self, epoch: int, batch: str, ids: Ids, vectors: Vectors) -> Reply:
        return _reply("stage", self._stage, epoch, batch, ids, vectors)

    def add_staged(self, epoch: int, batch: str, mark: ShardMark | None) -> Reply:
        return _reply("add", self._add_staged, epoch, batch, mark)

    def _open(self, plan: ShardPlan, identity: str) -> None:
        assert self._host is None
        self._host, self._identity = ShardHost(plan), identity

    def _adopt(self, plan: ShardPlan, identity: str) -> tuple[Place, ShardState] | None:
        self._silent_s = 0
        if self._host is None or self._identity != identity:
            return None
        state = self._host.adopt(plan.epoch, force=plan.by_force)
        with self._lock:
            self._staged.clear()
        return self.place(), state

    def _stage(self, epoch: int, batch: str, ids: Ids, vectors: Vectors) -> None:
        assert self._host is not None
        # Copied, or each piece would stay in Ray's object store until the batch is complete.
        piece = (np.array(ids), overwrite_when_freed(np.array(vectors)))
        with self._lock:
            # Nothing is kept for a writer that will not come back for it: `adopt` clears later.
            self._host.check_epoch(epoch)
            self._staged.setdefault(batch, []).append(piece)

    def _add_staged(self, epoch: int, batch: str, mark: ShardMark | None) -> None:
        assert self._host is not None
        with self._lock:
            self._host.check_epoch(epoch)
            pieces = self._staged.pop(batch)
        ids, vectors = zip(*pieces, strict=True)
        del pieces
        rows = overwrite_when_freed(np.concatenate(vectors))
        self._host.call(epoch, "add", np.concatenate(ids), rows, mark)

    def _end_if_abandoned(self, after_s: float) -> None:
        """Time is counted in seconds awake: a machine that slept has abandoned nothing."""
        while self._silent_s < after_s:
            sleep(1)
            self._silent_s += 1
        _log.warning("a gallery shard has not heard of its registrar for %g s: it ends", after_s)
        os._exit(0)


def _writable(argument: Any) -> Any:
    """A writable copy: Ray passes arrays read-only, for which kernels would be compiled again."""
    if isinstance(argument, np.ndarray) and not argument.flags.writeable:
        return overwrite_when_freed(argument.copy())
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

BATCH_GROUP = "batch"
"""Threads of the actor for searches of more than `FEW_QUERIES`, which decisions do not wait for."""

LONG_GROUP = "long"
"""Threads of the actor for the calls in `_LONG`, which no search waits for: it may take less long
than they, and its time counts from its sending."""

GROUPS = {HEARTBEAT_GROUP: 1, BATCH_GROUP: CALLS_AT_ONCE, LONG_GROUP: CALLS_AT_ONCE}
"""The groups of threads of an actor. A call in another one would end it."""

MESSAGE_BYTES = 16 << 20
"""More vectors are sent in pieces: Ray keeps a whole message in its object store."""

_LONG, _LONG_S = ("save", "load", "compact", "join", "digests", "forget"), 7200.0
"""Calls that read, write or compare everything, or wait for one that does, and how long they may
take."""

Value = TypeVar("Value")


@frozen
class Timing:
    """Time limits of a shard. Ray waits half a minute for a node that is switched off; so each
    shard is asked every `heartbeat_every_s`, and lost when silent for `silent_for_s`. One that
    outlives its writer ends `abandoned_after_s` after the last heartbeat."""

    placed_within_s: float = 10.0
    answered_within_s: float = 120.0
    heartbeat_every_s: float = 1.0
    silent_for_s: float = 10.0
    abandoned_after_s: float = 900.0


class RayShard(Shard):
    """A `Shard` in an actor that is placed and open. An error of Ray, a late answer or a long
    silence lose it for good: every waiting or later call fails with `ShardLost`."""

    def __init__(self, actor: _Actor, plan: ShardPlan, timing: Timing) -> None:
        self.actor = actor
        self._actor = actor.handle
        self._number = number = actor.number
        self._epoch = plan.epoch
        self._rows_at_once = max(1, MESSAGE_BYTES // (4 * plan.dim))
        self._timing = timing
        self._lock = Lock()
        # Each waiting call, and the tick of the watch at which it is late.
        self._waiting: dict[Future[Any], int] = {}
        self._tick = 0
        self._lost: str | None = None
        self._search_fault: str | None = None
        self._is_stuck = self._is_fenced = False
        self._closing = Event()
        self._bulk = ThreadPoolExecutor(1, f"shard-{number}-bulk")
        self._watch = Thread(target=self._look, name=f"shard-{number}-watch", daemon=True)
        self._watch.start()

    @property
    def lost(self) -> str | None:
        return self._lost

    @property
    def search_fault(self) -> str | None:
        return self._search_fault

    def close(self) -> None:
        """Ends the actor, even while it works; not one that a later writer is known to have."""
        self.release()
        if not self._is_fenced:
            end_actor(self._actor)

    def release(self) -> None:
        """Leaves the actor to the next writer, if it may outlive this process and does answer."""
        self._lose("is closed; open the gallery again")
        self._closing.set()
        self._watch.join()
        self._bulk.shutdown()
        if self._is_stuck:
            end_actor(self._actor)

    def _add_in_pieces(self, ids: Ids, vectors: Vectors, mark: ShardMark | None = None) -> None:
        batch, stage = uuid4().hex, partial(self._actor.stage.remote, self._epoch)
        for part in self._parts(ids):
            self._ask("stage", stage, batch, ids[part], vectors[part]).result()
        self._ask("add", self._actor.add_staged.remote, self._epoch, batch, mark).result()

    def _read_in_pieces(self, ids: Ids) -> Vectors:
        parts = [self._call("vectors", ids[part]).result() for part in self._parts(ids)]
        return overwrite_when_freed(np.concatenate(parts))

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

    def _call(self, operation: str, *arguments: Any) -> Future[Any]:
        if operation in ("add", "vectors") and len(arguments[0]) > self._rows_at_once:
            perform = self._add_in_pieces if operation == "add" else self._read_in_pieces
            return self._in_pieces(partial(perform, *arguments))
        call = self._actor.call
        is_search = operation in ("search", "range_search")
        if operation in _LONG:
            call = call.options(concurrency_group=LONG_GROUP)
        elif is_search and len(arguments[0]) > FEW_QUERIES:
            call = call.options(concurrency_group=BATCH_GROUP)
        return self._ask(operation, call.remote, self._epoch, operation, *arguments)

    def _ask(self, operation: str, remote: Callable[..., Any], *arguments: object) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # a call of a shard cannot be cancelled
        with self._lock:
            if self._lost is not None:
                future.set_exception(ShardLost(self._lost))
                return future
            limit_s = _LONG_S if operation in _LONG else self._timing.answered_within_s
            ticks = math.ceil(limit_s / self._timing.heartbeat_every_s)
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
            self._is_fenced |= isinstance(reply.refusal, ShardFenced)
            future.set_exception(reply.refusal)
        elif reply.failure is not None:
            failure = f"shard {self._number} failed at {operation} with {reply.failure}"
            future.set_exception(RuntimeError(f"{failure}; its log line says where"))
        else:
            future.set_result(reply.value)

    def _look(self) -> None:
        """Checks that the actor answers until the shard is lost or closed, by ticks: no call is
        late by a suspended process."""
        every_s, silent = self._timing.heartbeat_every_s, 0
        heartbeat: Future[str | None] | None = None
        while self._lost is None and not self._closing.wait(every_s):
            silent = 0 if heartbeat is None or heartbeat.done() else silent + 1
            if silent * every_s >= self._timing.silent_for_s:
                self._is_stuck = True
                self._lose(f"has been silent for {self._timing.silent_for_s:g} s; {_REBUILD}")
            elif silent == 0:
                try:
                    if heartbeat is not None:
                        self._search_fault = heartbeat.result()
                    group = self._actor.heartbeat.options(concurrency_group=HEARTBEAT_GROUP)
                    heartbeat = _asked(group.remote)
                except Exception as error:  # noqa: BLE001 - any error means no answer
                    self._lose_by(error)
            with self._lock:
                self._tick += 1
                is_late = any(tick <= self._tick for tick in self._waiting.values())
            if is_late:
                self._is_stuck = True
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


_REBUILD = "its part must be built again from the store"


def _asked(remote: Callable[..., Any], *arguments: object) -> Future[Any]:
    if not ray.is_initialized():
        # Ray would start a cluster of its own.
        raise ShardLost("Ray is shut down")
    future: Future[Any] = remote(*arguments).future()
    return future


def shard_opener(
    settings: Settings,
    timing: Timing | None = None,
    read_settings: Callable[[], Settings] | None = None,
) -> Callable[[ShardPlan], ShardedIndex] | None:
    """Opens the shards of these settings, None where there are none; `read_settings` reads their
    number again while they serve."""
    chosen = settings.gallery
    if not chosen.shards:
        return None
    placing = Placing(chosen.shard_resource, int(chosen.shard_memory_gib * (1 << 30)))
    last = [chosen.shards]

    def read_wanted() -> int:
        # Without valid settings, or with none, everything stays as it is until the next start.
        if read_settings is not None:
            with suppress(SosieError):
                last[0] = read_settings().gallery.shards or last[0]
        return last[0]

    def open_index(plan: ShardPlan) -> ShardedIndex:
        index = open_ray_shards(plan, read_wanted(), placing, timing, copies=chosen.shard_copies)
        index.read_wanted = read_wanted
        return index

    return open_index


@frozen
class Placing:
    """A node's requirement for a shard: one of `resource`, if set, and so much of Ray's memory."""

    resource: str = ""
    memory_bytes: int = 0


def open_ray_shards(
    plan: ShardPlan,
    shards: int,
    placing: Placing | None = None,
    timing: Timing | None = None,
    *,
    copies: int = 1,
) -> ShardedIndex:
    """A gallery on actors of the cluster that this process is connected to: as many shards as asked
    for, and those beyond that an earlier writer has left, to be moved. Each has so many copies on
    different nodes, or is `wanting` them. Actors that hold the plan's `content` are adopted, the
    others are new and spread over the nodes; without `content` all are new, and end with this
    process. New shards of a node share its cores if the plan sets no threads. `ShardLost`, with no
    new one left running, where a shard has no copy in time; `ShardFenced` where a later writer has
    one."""
    if shards < 1:
        raise SearchInvalid(f"shards is {shards}; give at least 1")
    if not ray.is_initialized():
        # Ray would start a cluster of its own.
        raise ShardLost("no cluster to put the gallery's shards on: connect to one first")
    opener = _Opener(plan, shards, placing or Placing(), timing or Timing(), copies)
    return opener.open()


NAMESPACE = "sosie"
"""Of the names of shards; a writer finds those that the one before has left by it."""


@frozen(eq=False)
class _Actor:
    """An actor that has a place, for the shard of this number."""

    handle: Any
    number: int
    place: Place
    state: ShardState | None = None


class _Opener:
    """Finds, adopts and starts the actors of a gallery."""

    def __init__(
        self, plan: ShardPlan, shards: int, placing: Placing, timing: Timing, copies: int
    ) -> None:
        self._plan, self._shards, self._copies = plan, shards, copies
        self._placing, self._timing = placing, timing
        # The deployment's: also of shards that hold what it does not want any more.
        whose = plan.content.partition(":")[0] if plan.content else uuid4().hex
        self._prefix = f"sosie-shard-{_digest(whose)}-"
        self._open: list[RayShard] = []

    def open(self) -> ShardedIndex:
        found = self._adopt() if self._plan.content else []
        while self._shards in {one.number for one in found}:
            self._shards += 1
        for one in found:
            # There is none before it: what it has is built from the store, in another one.
            if one.number >= self._shards:
                end_actor(one.handle)
        found = [one for one in found if one.number < self._shards]
        missing = [
            number
            for number in range(self._shards)
            for _ in range(self._copies - sum(one.number == number for one in found))
        ]
        # Where it fails, those that were found stay: they hold what a later start can use.
        actors = [*found, *self._start(missing, found)]
        self._open = [RayShard(one, self._plan, self._timing) for one in actors]
        parts = [
            [shard for shard in self._open if shard.actor.number == number]
            for number in range(self._shards)
        ]
        shards = [own[0] if self._copies == 1 else ReplicatedShard(own) for own in parts]
        try:
            return ShardedIndex(self._plan, shards, self._copies, self.open_copy)
        except BaseException:
            for shard in self._open:
                shard.release() if self._plan.content else shard.close()
            raise

    def open_copy(self, number: int) -> Shard:
        """Another copy of a shard, or the first of a new one, empty, on a node that has none of it;
        `ShardLost` where there is no such node."""
        living = [shard for shard in self._open if shard.lost is None]
        (actor,) = self._start([number], [shard.actor for shard in living], is_copy=True)
        shard = RayShard(actor, self._plan, self._timing)
        self._open = [*living, shard]
        return shard

    def _adopt(self) -> list[_Actor]:
        """The actors of an earlier writer; those of no use are ended."""
        asked: dict[Any, tuple[Any, int]] = {}
        for name in self._names():
            number = int(name.removeprefix(self._prefix).partition("-")[0])
            # One that has just ended has no name any more.
            with suppress(ValueError):
                handle = ray.get_actor(name, namespace=NAMESPACE)
                asked[handle.adopt.remote(self._plan, self._identity(number))] = (handle, number)
        _await(list(asked), self._timing.placed_within_s)
        found: list[_Actor] = []
        for reference, (handle, number) in asked.items():
            reply = _reply_now(reference)
            if reply is not None and reply.refusal is not None:
                raise reply.refusal
            if reply is None or reply.value is None:
                end_actor(handle)
            else:
                place, state = reply.value
                found.append(_Actor(handle, number, place, state))
        # The most advanced first: there are more than are wanted where the settings have changed,
        # or a copy was being made. Two on one node would end together.
        found.sort(key=lambda one: -_sequence_of(one.state))
        kept: list[_Actor] = []
        for one in found:
            nodes = [other.place.node for other in kept if other.number == one.number]
            if len(nodes) < self._copies and one.place.node not in nodes:
                kept.append(one)
            else:
                end_actor(one.handle)
        if kept:
            _log.info("%d shards were left by an earlier writer", len(kept))
        return kept

    def _names(self) -> list[str]:
        named = ray.util.list_named_actors(all_namespaces=True)
        names = [one["name"] for one in named if one["namespace"] == NAMESPACE]
        return [name for name in names if name.startswith(self._prefix)]

    def _identity(self, number: int) -> str:
        """A shard's identity: its content, its node's resources and its name. It changes with the
        configuration and the groups of its threads, not with the number of shards."""
        plan = self._plan
        of = (plan.content, plan.dim, plan.config, plan.virtual_shards)
        return _digest(repr((*of, self._placing, GROUPS, number)))

    def _start(
        self, missing: Sequence[int], beside: Sequence[_Actor], *, is_copy: bool = False
    ) -> list[_Actor]:
        """New actors for the shards of these numbers, placed and open; all, or for each number that
        has none at least one."""
        has_one = set() if is_copy else {one.number for one in beside}
        started: list[_Actor] = []
        waiting = sorted(missing)
        try:
            while waiting:
                # A second copy of a number is placed when the first one is.
                numbers = sorted(set(waiting))
                for number in numbers:
                    waiting.remove(number)
                placed = self._place(numbers, (*beside, *started))
                started += placed
                has_one |= {one.number for one in placed}
                if not has_one.issuperset(numbers):
                    resource = self._placing.resource
                    wanted = f", each on a node with the resource {resource}" if resource else ""
                    raise ShardLost(
                        f"waiting for gallery shards: {len(has_one)} of "
                        f"{1 if is_copy else self._shards} have a place{wanted}"
                    )
            self._open_new(started, beside)
        except BaseException:
            for one in started:
                end_actor(one.handle)
            raise
        return started

    def _place(self, numbers: Sequence[int], beside: Sequence[_Actor]) -> list[_Actor]:
        handles = {}
        for number in numbers:
            nodes = {one.place.node for one in beside if one.number == number}
            handle = self._make(number, nodes)
            handles[handle.place.remote()] = (handle, number)
        _await(list(handles), self._timing.placed_within_s)
        placed = []
        for reference, (handle, number) in handles.items():
            place = _value_now(reference)
            if place is None:
                end_actor(handle)
            else:
                placed.append(_Actor(handle, number, place))
        return placed

    def _make(self, number: int, other_nodes: Collection[str]) -> Any:
        """Starts an actor; on none of these nodes."""
        outlives = bool(self._plan.content)
        options: dict[str, Any] = {"lifetime": "detached"} if outlives else {}
        if self._placing.memory_bytes:
            options["memory"] = self._placing.memory_bytes
        if self._placing.resource:
            options["resources"] = {self._placing.resource: 1}
        if other_nodes:
            elsewhere = {NODE_LABEL: f"!in({','.join(sorted(other_nodes))})"}
            options["label_selector"] = elsewhere
        elif not self._placing.resource:
            options["scheduling_strategy"] = "SPREAD"
        kind = ray.remote(concurrency_groups=GROUPS)(ShardActor)
        return kind.options(
            # A new name each: one that is ending may still have its own.
            name=f"{self._prefix}{number}-{uuid4().hex[:12]}",
            namespace=NAMESPACE,
            num_cpus=0,  # it uses the cores of its node; the resource selects the node
            max_restarts=0,  # a restarted one would be empty, and answer
            max_task_retries=0,
            max_concurrency=CALLS_AT_ONCE,
            **options,
        ).remote(self._timing.abandoned_after_s if outlives else 0.0)

    def _open_new(self, started: Sequence[_Actor], beside: Sequence[_Actor]) -> None:
        """Opens new actors, each with its share of the cores of its node."""
        shards_on = Counter(one.place.node for one in (*beside, *started))
        asked = []
        for one in started:
            cores = one.place.cores // shards_on[one.place.node]
            plan = replace(self._plan, threads=self._plan.threads or max(1, cores))
            node, threads = one.place.node, plan.threads
            _log.info("gallery shard %d is on node %s, %d threads", one.number, node, threads)
            asked.append(one.handle.open.remote(plan, self._identity(one.number)))
        _await(asked, self._timing.answered_within_s)
        for reference in asked:
            reply = _reply_now(reference)
            if reply is None or reply.failure is not None:
                raise ShardLost("a gallery shard did not start")
            if reply.refusal is not None:
                raise reply.refusal


NODE_LABEL = "ray.io/node-id"
"""By which Ray tells its nodes apart in a `label_selector`."""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sequence_of(state: ShardState | None) -> int:
    return -1 if state is None or state.mark is None else state.mark.sequence


def _await(references: list[Any], timeout_s: float) -> None:
    """Until all are there, or the time is over."""
    if references:
        ray.wait(references, num_returns=len(references), timeout=timeout_s)


def _value_now(reference: Any) -> Any:
    """The value of what was waited for; None where it is late, or the actor is gone."""
    with suppress(RayError):  # GetTimeoutError is one
        return ray.get(reference, timeout=0)
    return None


def _reply_now(reference: Any) -> Reply | None:
    reply = _value_now(reference)
    return reply if isinstance(reply, Reply) else None
