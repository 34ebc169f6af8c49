"""Backups that a service makes of its home beside its decisions, and rotation of the data key."""

import threading
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from engine.errors import SosieError
from engine.registry.backup import Manifest, list_backups, make_backup, name_of
from engine.registry.database import Progress, untold, utc_now
from engine.registry.resealing import reseal, retire
from schema import frozen
from schema.phases import BackupState
from serving.deployment.deployment import Deployment
from serving.deployment.snapshots import SHARD_KEYS_FOLDER, ShardKeys
from serving.settings.settings import KEY_RING_FILE, Settings

FOLDER = "backups"
"""Of a home: what a service backs up."""


@frozen
class BackupRecord:
    """One backup in the home's folder `backups`; `fault` is one line where it failed, or where what
    it holds is damaged."""

    name: str
    state: BackupState
    started_at: datetime
    manifest: Manifest | None = None
    fault: str | None = None


class _Stopped(Exception):
    """The service closes."""


class BackupManager:
    """Makes one backup at a time, in a thread of its own."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._folder = deployment.home / FOLDER
        self._lock = threading.Lock()
        self._newest: BackupRecord | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    def start(self, actor: str) -> BackupRecord:
        """Begins a backup; the one that runs, where one does."""
        with self._lock:
            if self._newest is not None and self._newest.state is BackupState.RUNNING:
                return self._newest
            now = utc_now()
            self._newest = BackupRecord(name_of(now), BackupState.RUNNING, now)
            self._thread = threading.Thread(
                target=self._work, args=(self._newest, actor), name="backup", daemon=True
            )
            self._thread.start()
            return self._newest

    def list(self) -> list[BackupRecord]:
        """Every backup in the folder, and the one that runs or has failed last; newest first."""
        newest = self._newest
        found = [
            BackupRecord(
                name,
                BackupState.DONE,
                datetime.fromisoformat(one.made_at),
                one,
                "; ".join(one.damage) or None,
            )
            for name, one in list_backups(self._folder, self._deployment.vault)
        ]
        if newest is not None and newest.name not in {one.name for one in found}:
            found.append(newest)
        return sorted(found, key=lambda one: one.name, reverse=True)

    def close(self) -> None:
        """Stops the backup that runs, of which nothing stays."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self, record: BackupRecord, actor: str) -> None:
        deployment = self._deployment
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            manifest = make_backup(
                deployment.store,
                deployment.writer,
                self._folder / record.name,
                actor=actor,
                progress=self._look,
            )
            ended = replace(record, state=BackupState.DONE, manifest=manifest)
        except SosieError as error:
            ended = replace(record, state=BackupState.FAILED, fault=str(error))
        except Exception as error:  # noqa: BLE001 - shown by its type, a text may hold anything
            fault = f"it has stopped ({type(error).__name__}): start it again"
            ended = replace(record, state=BackupState.FAILED, fault=fault)
        with self._lock:
            self._newest = ended

    def _look(self, _done: int, _total: int) -> None:
        if self._closing.is_set():
            raise _Stopped


@frozen
class Rotation:
    """Result of a rotation: versions of data keys, and values sealed again by table. `resumed` one
    that was interrupted. `damaged` rows do not open and stay sealed with an old key, kept for them.
    The snapshots of `shard_snapshots` open no more: the next start reads these shards from the
    store."""

    active: int
    retired: tuple[int, ...]
    resealed: dict[str, int]
    resumed: bool
    damaged: tuple[str, ...]
    shard_snapshots: int


def rotate_data_key(home: Path, settings: Settings, progress: Progress = untold) -> Rotation:
    """Rotates the data key, or continues an interrupted rotation; loses no value. `WriterBusy`,
    with nothing changed, where another process writes; restart processes that have the registry
    open."""
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
            deployment.snapshots.remove()
        # Their own keys are sealed with the old one, and whoever had that may have them.
        keys = ShardKeys(deployment.store, home / SHARD_KEYS_FOLDER)
        shard_snapshots = keys.destroy_all_but(())
        retired = [key.version for key in ring.data[:-1]]
        narrow = retire(writer)
        narrow.save(path)
        damaged = tuple(deployment.vault.set_aside.names()) if narrow.kept else ()
    active = ring.active_data_key.version
    return Rotation(active, tuple(retired), resealed, resumed, damaged, shard_snapshots)
