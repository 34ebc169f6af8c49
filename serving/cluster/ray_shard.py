"""One shard of a gallery that is an actor on Ray, perhaps on another node."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
import ray
from ray.exceptions import RayError

from indexes.base import Ids, Vectors
from indexes.errors import ShardLost
from indexes.sharding.caller import ShardCaller
from indexes.sharding.shards import ShardPlan
from serving.cluster.shard_actor import Reply

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


class RayShard(ShardCaller):
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
