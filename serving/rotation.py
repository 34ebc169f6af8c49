"""Rotation of the data key of a home: a new key, every value sealed anew, the old key retired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.registry.rotation import reseal, retire
from serving.compose import Deployment
from serving.settings import KEY_RING_FILE, Settings


@dataclass(frozen=True, slots=True)
class Rotation:
    """Versions of data keys, and how many values were sealed anew, by table.

    `resumed` says that a rotation which had stopped half-way was finished instead.
    """

    active: int
    retired: tuple[int, ...]
    resealed: dict[str, int]
    resumed: bool


def rotate_data_key(
    home: Path,
    settings: Settings,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Rotation:
    """Rotates the data key, or goes on where an earlier rotation stopped; loses no value.

    `WriterBusy`, with nothing changed, where another process writes. Processes that have the
    registry open keep the old ring in memory: start them again afterwards.
    """
    path = home / KEY_RING_FILE
    # With the lease in hand nobody can be sealing with a ring that this one replaces.
    with Deployment(home, settings, cache) as old, old.store.writer():
        resumed = len(old.vault.ring.data) > 1
        if not resumed:
            old.vault.ring.with_new_data_key().save(path)
    with Deployment(home, settings, cache) as deployment, deployment.store.writer() as writer:
        ring = deployment.vault.ring
        resealed = reseal(writer, progress=progress)
        # One sealed with the retired key could not be opened any more.
        if deployment.snapshot_folder.exists() and not deployment.save_snapshot():
            deployment.remove_snapshot()
        retired = [key.version for key in ring.data[:-1]]
        for version in retired:
            retire(writer, version)
            ring = ring.without_data_key(version)
        ring.save(path)
    return Rotation(ring.active_data_key.version, tuple(retired), resealed, resumed)
