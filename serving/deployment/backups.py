"""Backups that a service makes of its home, beside its decisions."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from engine.errors import SosieError
from engine.registry.backup import Manifest, list_backups, make_backup, name_of
from engine.registry.records import utc_now

if TYPE_CHECKING:
    from serving.deployment.deployment import Deployment

FOLDER = "backups"
"""Of a home: what a service backs up."""


class BackupState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
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
