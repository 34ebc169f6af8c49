"""File of the groups of a sweep, read a page at a time.

The file is one JSON object: a head of fixed size, one group per line in the order of ranks, and an
index of where each line begins. Any JSON reader can read it, and a page takes the index and its own
lines, not the whole file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Self

from pydantic import TypeAdapter

from engine.atomic_files import replacing
from engine.errors import NotFound, RegistryError
from engine.sweeps.sweep_model import Group, GroupKind

FORMAT = 1
_OFFSET_DIGITS = 15


@dataclass(frozen=True, slots=True)
class _Entry:
    kind: GroupKind
    offset: int
    rank: int


@dataclass(frozen=True, slots=True)
class GroupFile:
    """A file written by `write_groups`; `keys` are in the order of ranks."""

    _path: Path
    _entries: Mapping[str, _Entry] = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Reads the index; `RegistryError` if the file is missing or damaged."""
        try:
            with path.open("rb") as file:
                entries = _read_index(file)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path) from error
        return cls(path, entries)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def group(self, key: str) -> Group:
        """Raises `NotFound`."""
        return self._read([self._entry(key)])[0]

    def page(
        self, limit: int, *, after: str | None = None, kind: GroupKind | None = None
    ) -> list[Group]:
        """At most `limit` groups (of `kind`) after the one with the key `after`, by rank.

        Raises `NotFound` for a key that is not in this sweep.
        """
        start = 0 if after is None else self._entry(after).rank + 1
        following = list(self._entries.values())[start:]
        return self._read([one for one in following if kind in {None, one.kind}][:limit])

    def _entry(self, key: str) -> _Entry:
        if key not in self._entries:
            raise NotFound("this sweep has no such group: list its groups")
        return self._entries[key]

    def _read(self, entries: Sequence[_Entry]) -> list[Group]:
        try:
            with self._path.open("rb") as file:
                return list(_read_lines(file, entries))
        except (OSError, ValueError) as error:
            raise _damaged(self._path) from error


def write_groups(path: Path, groups: Sequence[Group]) -> None:
    """Writes ranked groups, each key once, readable by the owner alone."""
    assert len({group.key for group in groups}) == len(groups), "a group is listed twice"
    lines = _lines_of_groups()
    index = []
    with replacing(path) as beside, beside.open("wb") as file:
        file.write(_head(len(groups), 0))
        for number, group in enumerate(groups, start=1):
            index.append((group.key, group.kind.value, file.tell()))
            file.write(lines.dump_json(group) + (b",\n" if number < len(groups) else b"\n"))
        file.write(b"],\n")
        index_at = file.tell()
        file.write(b'"index": ' + json.dumps(index).encode() + b"}\n")
        file.seek(0)
        file.write(_head(len(groups), index_at))


@cache
def _lines_of_groups() -> TypeAdapter[Group]:
    return TypeAdapter(Group)


def _head(count: int, index_at: int) -> bytes:
    """Of fixed size, since it is written again at the end."""
    return (
        f'{{"format": {FORMAT}, "count": {count:>{_OFFSET_DIGITS}}, '
        f'"index_at": {index_at:>{_OFFSET_DIGITS}}, "groups": [\n'
    ).encode()


def _read_index(file: IO[bytes]) -> dict[str, _Entry]:
    head = json.loads(file.readline() + b"]}")
    if head["format"] != FORMAT:
        raise ValueError("another format")
    file.seek(head["index_at"])
    index = json.loads(b"{" + file.read())["index"]
    if len(index) != head["count"]:
        raise ValueError("not all groups")
    return {
        key: _Entry(GroupKind(kind), int(offset), rank)
        for rank, (key, kind, offset) in enumerate(index)
    }


def _read_lines(file: IO[bytes], entries: Sequence[_Entry]) -> Iterator[Group]:
    for entry in entries:
        file.seek(entry.offset)
        yield _lines_of_groups().validate_json(file.readline().rstrip(b"\n,"))


def _damaged(path: Path) -> RegistryError:
    return RegistryError(f"the groups in {path.name} cannot be read: sweep again")
