"""Sweeps to be looked at, from any process: the registry's rows and the sweeps' folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from engine.errors import SweepOver
from engine.registry.reader import Reader
from engine.sweeps.folder import SweepFolder
from engine.sweeps.groupfile import GroupFile
from engine.sweeps.model import Group, SweepRecord, SweepState
from serving.sweeping.book import ALIVE


@dataclass(frozen=True, slots=True)
class GroupPage:
    """Some groups of a sweep as plain JSON, the riskiest first.

    `next_after` is the `after` of the next page, None on the last one.
    """

    groups: list[dict[str, Any]]
    total: int
    next_after: int | None


class SweepShelf:
    """Reads sweeps; `NotFound` where there is none of this id."""

    def __init__(self, registry: Reader, root: Path) -> None:
        self._registry = registry
        self._root = root
        # Its index alone is long for many groups, and pages are asked one after another.
        self._opened: tuple[tuple[int, int], GroupFile] | None = None

    def status(self, sweep_id: str) -> SweepRecord:
        """The sweep, with how far it was when it last got on."""
        return self._with_progress(self._registry.sweep(sweep_id))

    def list(self, limit: int = 100) -> Sequence[SweepRecord]:
        """The newest sweeps, the newest first."""
        return [self._with_progress(record) for record in self._registry.sweeps(limit)]

    def groups(self, sweep_id: str, after: int = 0, limit: int = 100) -> GroupPage:
        """Groups by rank, those that follow the place `after`; `SweepOver` before it is done."""
        file = self._open(sweep_id)
        if after >= len(file):
            return GroupPage([], len(file), None)
        groups = file.page(limit, after=file.keys[after - 1] if after > 0 else None)
        end = max(after, 0) + len(groups)
        return GroupPage(list(map(_as_json, groups)), len(file), end if end < len(file) else None)

    def group(self, sweep_id: str, key: str) -> dict[str, Any]:
        """One group with its members and links; `SweepOver` before the sweep is done."""
        return _as_json(self._open(sweep_id).group(key))

    def folder(self, sweep_id: str) -> SweepFolder:
        """Where the sweep keeps what it makes."""
        return SweepFolder.of(self._root, self._registry.sweep(sweep_id).id)

    def _with_progress(self, record: SweepRecord) -> SweepRecord:
        if record.state not in ALIVE:
            return record
        standing = SweepFolder.of(self._root, record.id).standing()
        return replace(record, progress=standing.progress)

    def _open(self, sweep_id: str) -> GroupFile:
        record = self._registry.sweep(sweep_id)
        if record.state is not SweepState.DONE:
            raise SweepOver(f"the sweep is {record.state.value}: it has groups when it is done")
        path, opened = SweepFolder.of(self._root, record.id).groups, self._opened
        try:
            found = path.stat()
        except FileNotFoundError:
            raise SweepOver("what this sweep found is not kept any more: sweep again") from None
        # An erasure has it written anew.
        version = (found.st_ino, found.st_mtime_ns)
        if opened is not None and opened[0] == version:
            return opened[1]
        file = GroupFile.open(path)
        self._opened = (version, file)
        return file


@cache
def _type() -> TypeAdapter[Group]:
    return TypeAdapter(Group)


def _as_json(group: Group) -> dict[str, Any]:
    written: dict[str, Any] = _type().dump_python(group, mode="json")
    return written
