"""Phases of the service and of its backups."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Phase of the registrar; it answers calls in `ready`, and in `full` and `silent` as far as it
    can."""

    STARTING = "starting"
    WAITING = "waiting"
    """For the writer's lease, which another process still holds."""
    REPLAYING = "replaying"
    READY = "ready"
    FULL = "full"
    """The database has no room left."""
    SILENT = "silent"
    """The database does not answer."""
    DRAINING = "draining"
    FAILED = "failed"


class BackupState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
