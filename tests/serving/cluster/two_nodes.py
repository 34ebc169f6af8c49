"""A cluster of two nodes on this machine, and vectors to put on its shards."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import ray
from numpy.typing import NDArray

from indexes.sharding.host import ReplicatedShard
from indexes.sharding.shards import ShardPlan
from serving.cluster.environment import SHARED, SUPERVISED
from serving.cluster.shards import Placing, RayShard, Timing
from tests.waiting import wait_until

DIM = 128
PLAN = ShardPlan(DIM)
RESOURCE = "gallery"
PLACING = Placing(RESOURCE)
QUICK = Timing(placed_within_s=60.0, heartbeat_every_s=0.25, silent_for_s=1.5)
"""A loss is seen soon; an actor has time to start, on a busy machine or a node that is new."""

Rows = NDArray[np.float32]


class Nodes:
    """A cluster of two nodes, each with room for one shard; this process is on the first."""

    def __init__(self, folder: str) -> None:
        from ray.cluster_utils import Cluster

        # Nobody reads their logs, and none of them is to be added by itself.
        room: dict[str, Any] = {"num_cpus": 1, "resources": {RESOURCE: 1}}
        head = room | {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
        self._room, self._folder = room, folder
        with self._as_ours():
            self._cluster = Cluster(initialize_head=True, head_node_args=head)
            self._second = self._cluster.add_node(**room)
        self.join()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def join(self) -> None:
        """This process takes part again, as it does from the beginning."""
        ray.init(
            address=self._cluster.address,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )

    def leave(self) -> None:
        """This process is in no cluster, until `join`."""
        ray.shutdown()

    def lose_second(self) -> None:
        """All its processes are killed."""
        self._cluster.remove_node(self._second, allow_graceful=False)

    def bring_back(self) -> None:
        """When it is there again, Ray does not count with the lost one any more."""
        with self._as_ours():
            self._second = self._cluster.add_node(**self._room)
        wait_until(lambda: living_nodes() == 2)

    def stop(self) -> None:
        self.leave()
        with self._as_ours():
            self._cluster.shutdown()

    @contextmanager
    def _as_ours(self) -> Iterator[None]:
        """With Ray's settings of a service: it learns of a lost node in seconds, not in half a
        minute. `Cluster` writes its address to where every Ray of this machine looks for one by
        default, and removes it from there again: neither is for a test to do."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**SHARED, **SUPERVISED, "RAY_TMPDIR": self._folder}.items():
                patch.setenv(name, value)
            yield


@contextmanager
def run_nodes() -> Iterator[Nodes]:
    """Two nodes, and this process connected to them."""
    # A socket's path must be short, so not pytest's own folder.
    folder = tempfile.mkdtemp(prefix="ray-")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = Nodes(folder)
        try:
            yield made
        finally:
            made.stop()
            shutil.rmtree(folder, ignore_errors=True)


def unit_rows(count: int, seed: int = 0) -> Rows:
    rows = np.random.default_rng(seed).standard_normal((count, DIM))
    unit: Rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def likenesses(rows: Rows, seed: int) -> Rows:
    """Another picture of each: scores from about 0.95 down to 0.45."""
    noise = np.linspace(0.3, 2.0, len(rows))[:, None] * unit_rows(len(rows), seed)
    blurred = rows + noise
    unit: Rows = (blurred / np.linalg.norm(blurred, axis=1, keepdims=True)).astype(np.float32)
    return unit


def nodes_of(copied: ReplicatedShard) -> set[str]:
    copies = [copy for copy in copied.copies if isinstance(copy, RayShard)]
    return {copy.actor.place.node for copy in copies}


def living_nodes() -> int:
    return sum(node["Alive"] for node in ray.nodes())
