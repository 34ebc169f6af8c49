"""The folder in which the processes of one node count together."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

LIVE = "gauge_live"
ATTEMPTS = 5


def clear_folder(folder: Path) -> None:
    """An empty folder for a node that starts; none of its processes may run yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink(missing_ok=True)


def discard_gauges(folder: Path, pid: int) -> None:
    """Forgets the gauges of a process that is gone; what it counted stays."""
    for file in folder.glob(f"{LIVE}*_{pid}.db"):
        file.unlink(missing_ok=True)


class FolderCollector(Collector):
    """The sum of all processes of the node, without gauges of those that are gone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Reads every file: some milliseconds."""
        for attempt in range(1, ATTEMPTS + 1):
            files = self._list_files()
            try:
                return list(MultiProcessCollector.merge(files))  # type: ignore[no-untyped-call]
            except (FileNotFoundError, RuntimeError, struct.error):
                # Another process made or removed one of the files meanwhile.
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def describe(self) -> Iterable[Metric]:
        # A registry would otherwise read all files to learn the names.
        return []

    def _list_files(self) -> list[str]:
        pids = {_pid_of(file) for file in self._folder.glob(f"{LIVE}*.db")}
        for pid in pids:
            if not _is_alive(pid):
                discard_gauges(self._folder, pid)
        # A process that was killed while it made its file leaves an empty one for ever.
        return [str(file) for file in self._folder.glob("*.db") if _size_bytes(file)]


def _pid_of(file: Path) -> int:
    return int(file.stem.rsplit("_", 1)[1])


def _size_bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
