"""Rotation of a home's data key: new key, every value sealed again, old key retired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.registry.rotation import reseal, retire
from serving.deployment.deployment import Deployment
from serving.deployment.snapshots import SHARD_KEYS_FOLDER, ShardKeys
from serving.settings.settings import KEY_RING_FILE, Settings


@dataclass(frozen=True, slots=True)
class Rotation:
    """Result of a rotation: versions of data keys, and values sealed again by table.

    `resumed`: an interrupted rotation was finished. `damaged`: rows with values that do not open,
    and so stay sealed with an old key, which is kept for them and opens nothing. `shard_snapshots`:
    shards whose snapshots, each on a node of its own, open no more; the next start reads these from
    the store, and saves them.
    """

    active: int
    retired: tuple[int, ...]
    resealed: dict[str, int]
    resumed: bool
    damaged: tuple[str, ...]
    shard_snapshots: int


def rotate_data_key(
    home: Path, settings: Settings, progress: Callable[[int, int], None] | None = None
) -> Rotation:
    """Rotates the data key, or continues an interrupted rotation; loses no value.

    `WriterBusy`, with nothing changed, where another process writes. Processes that have the
    registry open keep the old ring in memory: restart them afterwards.
    """
    path = home / KEY_RING_FILE
    # Under the lease no other process can seal with the ring that is replaced.
    with Deployment(home, settings) as old, old.store.writer():
        resumed = len(old.vault.ring.data) > 1
        if not resumed:
            old.vault.ring.with_new_data_key().save(path)
    with Deployment(home, settings) as deployment, deployment.store.writer() as writer:
        ring = deployment.vault.ring
        resealed = reseal(writer, progress=progress)
        # A snapshot sealed with the retired key could not be opened any more.
        if deployment.snapshot_folder.exists() and not deployment.save_snapshot():
            deployment.remove_snapshot()
        # Their own keys are sealed with the old one, and whoever had that may have them.
        keys = ShardKeys(deployment.store, home / SHARD_KEYS_FOLDER)
        shard_snapshots = keys.destroy_all_but(())
        retired = [key.version for key in ring.data[:-1]]
        narrow = retire(writer)
        narrow.save(path)
        damaged = tuple(deployment.vault.set_aside.names()) if narrow.kept else ()
    active = ring.active_data_key.version
    return Rotation(active, tuple(retired), resealed, resumed, damaged, shard_snapshots)
