"""The report of an import, and its journal, from which the next run continues after a kill.

An entry is durable before its chunk is committed, and the chunk's audit entry names it: trailing
entries that the audit chain does not have were never committed, and are dropped.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, field, fields
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import msgspec
import pyarrow as pa
from pyarrow import csv

from engine.errors import RequestError
from engine.imports.row_faces import JudgedRow
from engine.imports.row_parser import Columns, RowFault
from engine.registry.database import new_id
from engine.spreadsheets import guard_cells
from indexes.atomic_files import OWNER_ONLY
from schema import frozen
from schema.documents import RowOutcome


@frozen(kw_only=True)
class Tally:
    """Counts of rows; `failures` and `warnings` count faults by code: a row may have several.

    `admitted` rows added a reference, `lines` a line, `present` nothing new; `failed` rows were
    not imported. `fused` references are of two photographs. `look_alikes` were imported although
    another document has a similar face.
    """

    rows: int = 0
    admitted: int = 0
    lines: int = 0
    present: int = 0
    failed: int = 0
    warned: int = 0
    photographs: int = 0
    fused: int = 0
    expired: int = 0
    look_alikes: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    warnings: Mapping[str, int] = field(default_factory=dict)

    def plus(self, other: Tally) -> Tally:
        """The sum of both."""
        return Tally(
            **{
                one.name: _add(getattr(self, one.name), getattr(other, one.name))
                for one in fields(self)
            }
        )


def count_chunk(
    rows: Sequence[JudgedRow],
    admissions: Sequence[RowOutcome | None],
    faults: Sequence[Sequence[RowFault]],
    look_alikes: int,
) -> Tally:
    """The counts of a chunk, from the admission (None: it had failed before) and faults of each
    row."""
    counts = Counter(rows=len(rows), look_alikes=look_alikes)
    for row, one in zip(rows, admissions, strict=True):
        counts["photographs"] += row.photographs
        if one is None or one.refusal is not None:
            counts["failed"] += 1
            continue
        counts["admitted"] += one.adds_reference
        counts["lines"] += one.adds_line
        counts["present"] += not (one.adds_reference or one.adds_line)
        counts["fused"] += row.is_fused and one.adds_reference
        counts["expired"] += row.is_expired
    failures, warnings = Counter[str](), Counter[str]()
    for some in faults:
        counts["warned"] += any(not fault.is_failure for fault in some)
        for fault in some:
            (failures if fault.is_failure else warnings)[str(fault.code)] += 1
    return Tally(**counts, failures=failures, warnings=warnings)


def _add(one: Any, other: Any) -> Any:
    return one + other if isinstance(one, int) else dict(Counter(one) + Counter(other))


SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("severity", pa.string()),
        ("column", pa.string()),
        ("code", pa.string()),
        ("message", pa.string()),
    ]
)
FAILURE, WARNING = "failure", "warning"


class FaultReport:
    """CSV report, readable by its owner only; rows count from 1 after the header of the data.

    Cells that a spreadsheet would take for a formula get an apostrophe, as OWASP advises: the
    names of columns come from the file.
    """

    def __init__(self, path: Path, columns: Columns, size_bytes: int | None = None) -> None:
        """A new report, or one that continues after `size_bytes`; what follows them is dropped.

        Raises `RequestError` where the file cannot be written or is not a report.
        """
        self._path = path
        self._columns = columns
        _require_report(path)
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY)
        except OSError as error:
            raise RequestError(f"{path} cannot be written: {error.strerror}") from None
        if self.size_bytes < (size_bytes or 0):
            self.close()
            raise RequestError(
                f"{path} was changed since the import stopped: restore it, or start over with "
                "--no-resume"
            )
        os.ftruncate(self._handle, size_bytes or 0)
        if not size_bytes:
            self._write(_header())

    @property
    def size_bytes(self) -> int:
        return os.fstat(self._handle).st_size

    def add(self, numbers: Sequence[int], faults: Sequence[Sequence[RowFault]]) -> None:
        """Write the faults of these rows, durably."""
        rows = [
            {
                "row": number,
                "severity": FAILURE if fault.is_failure else WARNING,
                "column": self._columns.name(fault.field),
                "code": str(fault.code),
                "message": fault.message,
            }
            for number, some in zip(numbers, faults, strict=True)
            for fault in some
        ]
        if rows:
            table = guard_cells(pa.Table.from_pylist(rows, SCHEMA))
            self._write(_to_csv(table, has_header=False))

    def cut(self, size_bytes: int) -> None:
        """Takes back what was written after so many bytes."""
        os.ftruncate(self._handle, size_bytes)

    def close(self) -> None:
        os.close(self._handle)

    def _write(self, data: bytes) -> None:
        with _writing(self._path):
            _append(self._handle, data)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RequestError(
            f"{path} cannot be written ({error.strerror}): fix that, then import again"
        ) from None


def _append(handle: int, data: bytes) -> None:
    with open(handle, "ab", closefd=False) as file:
        file.write(data)
    os.fsync(handle)


def _header() -> bytes:
    return _to_csv(SCHEMA.empty_table(), has_header=True)


def _to_csv(table: pa.Table, *, has_header: bool) -> bytes:
    sink = pa.BufferOutputStream()
    csv.write_csv(table, sink, csv.WriteOptions(include_header=has_header, quoting_style="needed"))
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _require_report(path: Path) -> None:
    """Refuse to overwrite anything but an earlier report."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_header()))
    except FileNotFoundError:
        return
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None
    if start not in (_header(), b""):
        raise RequestError(f"{path} is not an import report: name another file with --report")


FORMAT = 1


@frozen
class Identity:
    """Identity of an import; only a journal of the same one is continued."""

    deployment_id: str
    source_digest: str
    terms_digest: str


@frozen
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
        with _writing(path):
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
        if Identity(**{one.name: str(head.get(one.name)) for one in fields(Identity)}) != identity:
            raise RequestError(
                f"{path} belongs to another import: the data, an option or the deployment has "
                "changed; start over with --no-resume, no row is imported twice"
            )
        return cls(path, str(head["import_id"]), list(accumulate(map(len, lines))), entries)

    def add(self, entry: Entry) -> None:
        """Append an entry, durably."""
        self._append(msgspec.to_builtins(entry))
        self._entries.append(entry)

    def drop_uncommitted(self, was_committed: Callable[[Entry], bool]) -> None:
        """Drop the trailing entries whose chunks were not committed."""
        while self._entries and not was_committed(self._entries[-1]):
            self._entries.pop()
            self._ends.pop()
        with _writing(self._path):
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
        with _writing(self._path):
            if self._handle is None:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                self._handle = os.open(self._path, flags, OWNER_ONLY)
            _append(self._handle, line)
            self._ends.append(os.fstat(self._handle).st_size)


def _read_journal(path: Path) -> tuple[list[bytes], Mapping[str, Any] | None, list[Entry]]:
    """The complete lines, the head and the entries; no head where there is no file."""
    lines = _read_lines(path)
    if not lines:
        return [], None, []
    try:
        head, *written = [json.loads(line) for line in lines]
        entries = msgspec.convert(written, list[Entry])
        is_ours = head["format"] == FORMAT and "import_id" in head
    except (ValueError, KeyError, TypeError, msgspec.ValidationError):
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
