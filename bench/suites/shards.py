"""Suite `shards`: a gallery over shards on two Ray nodes of this machine, beside one process; what
is killed, and how it comes back."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from typing import Any
from unittest.mock import patch

import numpy as np
import ray
from ray.cluster_utils import Cluster

from bench.core.machine import DISK, interleave, open_folder, rested, speedup
from bench.core.reports import Figure, Result, SuiteOutput
from bench.datasets import Vectors, describe_faces
from bench.suites.workload import VisitedHome, are_same, select
from engine.matching.recovery import restore_gallery
from indexes.errors import ShardLost
from indexes.gallery import Gallery
from indexes.sharding.host import Shard
from indexes.sharding.sharded_index import ShardedIndex
from indexes.sharding.shards import ShardPlan
from schema import frozen
from serving.cluster.environment import USUAL
from serving.cluster.shards import RayShard, Timing, shard_opener
from serving.deployment.deployment import Deployment
from serving.settings.sections import GallerySettings
from serving.settings.settings import Settings

QUICK = {"references": 5_000, "visitors": 1_000, "rounds": 3, "probes": 256}
BEST = 10
WAIT_S = 600.0
_PAUSE_S = 0.05
"""Of four of these searches go on before a shard is killed."""


@frozen(kw_only=True)
class ShardsConfig:
    """`probes`: searched over the shards and in one process, in batches of 256; `visitors` are
    decided one after another as long as something is to be waited for."""

    references: int = 100_000
    shards: int = 4
    probes: int = 1_024
    rounds: int = 15
    visitors: int = 2_000
    parts: tuple[str, ...] = ()
    seed: int = 0
    folder: Path = DISK


@contextmanager
def two_nodes() -> Iterator[None]:
    """Two Ray nodes on this machine, and this process in their cluster."""
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
                ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
                yield
            finally:
                ray.shutdown()
                cluster.shutdown()


def open_on_shards(home: Path, settings: Settings) -> tuple[Deployment, Sequence[Shard]]:
    """Opens the home with the writer's lease; shards that an earlier one left are adopted."""
    found: list[ShardedIndex] = []

    def open_index(plan: ShardPlan) -> ShardedIndex:
        # On a busy machine the first processes of a cluster take longer than the usual time.
        opener = shard_opener(settings, Timing(placed_within_s=60))
        assert opener is not None
        found.append(opener(plan))
        return found[-1]

    deployment = Deployment(home, settings, open_index=open_index)
    try:
        _ = deployment.registrar
    except BaseException:
        deployment.close()
        raise
    return deployment, found[-1].shards


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


class _Parts:
    """The parts of the suite on one home; each gives the figures that goals name."""

    def __init__(self, home: VisitedHome, config: ShardsConfig) -> None:
        self._home, self._config = home, config
        self.same: list[float] = []
        self.needless = 0
        self.setup = describe_faces(len(home.vectors), home.vectors.shape[1], config.seed)
        self.setup |= {"shards": config.shards, "nodes": 2, "database": "SQLite"}
        self.results: list[Result] = []
        live, dim = home.log.visits.live, home.vectors.shape[1]
        self._probes = home.vault.rotate(np.resize(live, (config.probes, dim)))

    def _open(self) -> tuple[Deployment, Sequence[Shard]]:
        """On the shards that were left, if there are any."""
        settings = Settings(gallery=GallerySettings(shards=self._config.shards))
        opened, shards = open_on_shards(self._home.path, settings)
        self._home.log.note_gallery(len(opened.restored.gallery), len(self._home.vectors))
        return opened, shards

    def _search(self, opened: Deployment) -> None:
        opened.restored.gallery.range_search(self._probes[:1], self._home.review)

    def compare_searches(self) -> dict[str, float]:
        """Batches of 256 over the shards, and in one process, by turns."""
        opened, _ = self._open()
        here, there = self._compare(opened), opened.restored.gallery
        given = (self._probes[:256], self._home.review)
        actions = {
            "here": rested(partial(here.range_search, *given)),
            "there": rested(partial(there.range_search, *given)),
        }
        seconds = interleave(actions, self._config.rounds)
        opened.close(keep_shards=True)
        return {"sharded_batch_speedup": speedup(seconds["here"], seconds["there"])}

    def _compare(self, opened: Deployment) -> Gallery:
        """With a gallery in this process, as the store is now, which it returns."""
        alone = restore_gallery(opened.store, self._home.path / "no-snapshot").gallery
        there = opened.restored.gallery
        self.same.append(share_same(alone, there, self._probes, self._home.review))
        return alone

    def lose_shard(self) -> dict[str, float]:
        """Kills one shard under searches, and opens the gallery again as the service does; then
        opens it with no shard left."""
        opened, shards = self._open()
        shard = shards[self._config.shards // 2]
        held = shard.count().result()
        killed: list[float] = []

        def strike() -> None:
            kill(shard)
            killed.append(time.monotonic())

        striker = Timer(4 * _PAUSE_S, strike)
        striker.start()
        with suppress(ShardLost):
            while True:
                self._search(opened)
        striker.join()
        opened.close(keep_shards=True)
        opened, _ = self._open()
        self._search(opened)
        whole_s = time.monotonic() - killed[0]
        self._compare(opened)
        self.needless += abs(opened.restored.replayed - held)
        # Closed, it leaves no shard.
        opened.close()
        begun_at = time.monotonic()
        opened, _ = self._open()
        self._search(opened)
        everything_s = time.monotonic() - begun_at
        opened.close(keep_shards=True)
        ratio = everything_s / whole_s
        figures = (
            Figure("everything from the store", "s", everything_s, ratio=1.0),
            Figure("one shard: answers whole again", "s", whole_s, ratio=ratio),
            Figure("references that it had", "references", float(held)),
        )
        self.results.append(Result("One shard is killed", self.setup, figures))
        return {"one_shard_speedup": ratio}

    def close(self) -> None:
        """Ends the shards, which must have everything."""
        self._open()[0].close()


PARTS: Mapping[str, Callable[[_Parts], dict[str, float]]] = {
    "searches": _Parts.compare_searches,
    "shard": _Parts.lose_shard,
}


def run(config: ShardsConfig) -> SuiteOutput:
    measured: dict[str, float] = {}
    # Ray tells on standard output, where a report may go, of each process that is lost.
    tell_elsewhere = redirect_stdout(sys.stderr)
    with tell_elsewhere, open_folder(config.folder) as folder, two_nodes():
        home = VisitedHome(folder / "home", config.references, config.visitors, config.seed)
        parts = _Parts(home, config)
        for name, measure in PARTS.items():
            if not config.parts or name in config.parts:
                measured |= measure(parts)
        parts.close()
    return parts.results, measured | {
        "replayed_needlessly": float(parts.needless),
        "identical_answers": min(parts.same, default=1.0),
        "gallery_difference": float(home.log.difference),
    }
