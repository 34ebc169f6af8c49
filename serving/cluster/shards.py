"""The gallery on actors of a Ray cluster, one for each shard, and answered as one."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayError

from indexes.errors import SearchInvalid, ShardLost
from indexes.sharding.host import CALLS_AT_ONCE
from indexes.sharding.shards import ShardedIndex, ShardPlan, close_all
from serving.cluster.ray_shard import PULSE_GROUP, RayShard, Timing, end_actor
from serving.cluster.shard_actor import Place, ShardActor
from serving.settings import Settings

_log = logging.getLogger(__name__)


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
