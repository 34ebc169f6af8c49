"""The inside of a shard that is an actor on Ray."""

from __future__ import annotations

import logging
import os
import traceback
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import ray

from indexes.base import Ids, Vectors
from indexes.errors import IndexFault
from indexes.sharding.host import OPERATIONS, ShardHost
from indexes.sharding.shards import ShardPlan

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
        assert operation in OPERATIONS
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
