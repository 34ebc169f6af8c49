"""Journal of an import, from which the next run continues after a kill.

An entry is durable before its chunk is committed, and the chunk's audit entry names it: trailing
entries that the audit chain does not have were never committed, and are dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

from engine.errors import RequestError
from engine.imports.import_report import Tally
from engine.registry.database import new_id

FORMAT = 1
_OWNER_ONLY = 0o600


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity of an import; only a journal of the same one is continued."""

    deployment_id: str
    source_digest: str
    terms_digest: str


@dataclass(frozen=True, slots=True)
class Entry:
    """The state after a chunk: rows up to `last_row` are done, as `tally` counts them.

    `report_bytes` is the report's size, `audit_number` the last audit entry before the chunk's.
    """

    chunk: int
    last_row: int
    report_bytes: int
    audit_number: int
    tally: Tally


class Journal:
    """One import's journal; `entry` is its last, None before the first chunk."""

    def __init__(self, path: Path, import_id: str, ends: list[int], entries: list[Entry]) -> None:
        self._path = path
        self.import_id = import_id
        # Byte offsets behind the head and behind each entry.
        self._ends = ends
        self._entries = entries
        self._handle: int | None = None

    @property
    def entry(self) -> Entry | None:
        return self._entries[-1] if self._entries else None

    @classmethod
    def begin(cls, path: Path, identity: Identity) -> Self:
        """A new journal, replacing any other; `RequestError` where the file is not a journal."""
        _read_journal(path)
        made = cls(path, new_id(), [], [])
        head = {"format": FORMAT, "import_id": made.import_id, **asdict(identity)}
        with made._writing():
            path.unlink(missing_ok=True)
        made._append(head)
        return made

    @classmethod
    def resume(cls, path: Path, identity: Identity) -> Self | None:
        """The existing journal of this import, or None.

        Raises `RequestError` where it is damaged, or belongs to another file or other options.
        """
        lines, head, entries = _read_journal(path)
        if head is None:
            return None
        if Identity(**{key: str(head.get(key)) for key in Identity.__slots__}) != identity:
            raise RequestError(
                f"{path} belongs to another import: the data, an option or the deployment has "
                "changed; start over with --no-resume, no row is imported twice"
            )
        return cls(path, str(head["import_id"]), list(accumulate(map(len, lines))), entries)

    def add(self, entry: Entry) -> None:
        """Append an entry, durably."""
        self._append(
            {
                "chunk": entry.chunk,
                "last_row": entry.last_row,
                "report_bytes": entry.report_bytes,
                "audit_number": entry.audit_number,
                "tally": entry.tally.to_dict(),
            }
        )
        self._entries.append(entry)

    def drop_uncommitted(self, was_committed: Callable[[Entry], bool]) -> None:
        """Drop the trailing entries whose chunks were not committed."""
        while self._entries and not was_committed(self._entries[-1]):
            self._entries.pop()
            self._ends.pop()
        with self._writing():
            # This also cuts a torn last line.
            os.truncate(self._path, self._ends[-1])

    def drop_last(self) -> None:
        """Drop the last entry: its chunk is written anew."""
        last = self.entry
        self.drop_uncommitted(lambda one: one is not last)

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _append(self, content: Mapping[str, Any]) -> None:
        line = json.dumps(content, separators=(",", ":")).encode() + b"\n"
        with self._writing():
            if self._handle is None:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                self._handle = os.open(self._path, flags, _OWNER_ONLY)
            with open(self._handle, "ab", closefd=False) as file:
                file.write(line)
            os.fsync(self._handle)
            self._ends.append(os.fstat(self._handle).st_size)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RequestError(
                f"{self._path} cannot be written ({error.strerror}): fix that, then import again"
            ) from None


def _read_journal(path: Path) -> tuple[list[bytes], Mapping[str, Any] | None, list[Entry]]:
    """The complete lines, the head and the entries; no head where there is no file."""
    lines = _read_lines(path)
    if not lines:
        return [], None, []
    try:
        head, *written = [json.loads(line) for line in lines]
        entries = [Entry(**{**one, "tally": Tally.from_dict(one["tally"])}) for one in written]
        is_ours = head["format"] == FORMAT and "import_id" in head
    except (ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise RequestError(f"{path} is not an import journal: move it, or choose another --report")
    return lines, head, entries


def _read_lines(path: Path) -> list[bytes]:
    """The complete lines of a journal; a kill may have torn the last one."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None
    return lines[:-1] if lines and not lines[-1].endswith(b"\n") else lines
