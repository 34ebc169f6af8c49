"""The report of an import, and its journal, from which the next run continues after a kill.

An entry is durable before its chunk is committed, and the chunk's audit entry names it: trailing
entries that the audit chain does not have were never committed, and are dropped.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, field, fields
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
from indexes.atomic_files import OWNER_ONLY, replacing
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
        with _writing(path):
            path.touch(OWNER_ONLY)
        if self.size_bytes < (size_bytes or 0):
            raise RequestError(
                f"{path} was changed since the import stopped: restore it, or start over with "
                "--no-resume"
            )
        self.cut(size_bytes or 0)
        if not size_bytes:
            _append(path, _header())

    @property
    def size_bytes(self) -> int:
        return self._path.stat().st_size

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
            _append(self._path, _to_csv(table, has_header=False))

    def cut(self, size_bytes: int) -> None:
        """Takes back what was written after so many bytes."""
        with _writing(self._path):
            os.truncate(self._path, size_bytes)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RequestError(
            f"{path} cannot be written ({error.strerror}): fix that, then import again"
        ) from None


def _append(path: Path, data: bytes) -> None:
    """Adds to a file, durably."""
    with _writing(path), path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


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

    def __init__(self, path: Path, head: Mapping[str, Any], entries: list[Entry]) -> None:
        self._path, self._head, self._entries = path, head, entries

    @property
    def import_id(self) -> str:
        return str(self._head["import_id"])

    @property
    def entry(self) -> Entry | None:
        return self._entries[-1] if self._entries else None

    @classmethod
    def begin(cls, path: Path, identity: Identity) -> Self:
        """A new journal, replacing any other; `RequestError` where the file is not a journal."""
        _read_journal(path)
        made = cls(path, {"format": FORMAT, "import_id": new_id(), **asdict(identity)}, [])
        made._rewrite()
        return made

    @classmethod
    def resume(cls, path: Path, identity: Identity) -> Self | None:
        """The existing journal of this import, or None.

        Raises `RequestError` where it is damaged, or belongs to another file or other options.
        """
        head, entries = _read_journal(path)
        if head is None:
            return None
        if Identity(**{one.name: str(head.get(one.name)) for one in fields(Identity)}) != identity:
            raise RequestError(
                f"{path} belongs to another import: the data, an option or the deployment has "
                "changed; start over with --no-resume, no row is imported twice"
            )
        return cls(path, head, entries)

    def add(self, entry: Entry) -> None:
        """Append an entry, durably."""
        _append(self._path, _to_line(entry))
        self._entries.append(entry)

    def drop_uncommitted(self, was_committed: Callable[[Entry], bool]) -> None:
        """Drop the trailing entries whose chunks were not committed, and a torn last line."""
        while self._entries and not was_committed(self._entries[-1]):
            self._entries.pop()
        self._rewrite()

    def drop_last(self) -> None:
        """Drop the last entry: its chunk is written anew."""
        last = self.entry
        self.drop_uncommitted(lambda one: one is not last)

    def _rewrite(self) -> None:
        with _writing(self._path), replacing(self._path) as beside:
            beside.write_bytes(b"".join(map(_to_line, [self._head, *self._entries])))


def _to_line(content: object) -> bytes:
    return msgspec.json.encode(content) + b"\n"


def _read_journal(path: Path) -> tuple[Mapping[str, Any] | None, list[Entry]]:
    """The head and the entries of the complete lines; no head where there is none."""
    try:
        # A kill may have torn the last one.
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return None, []
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None
    if not lines:
        return None, []
    try:
        head, *written = map(msgspec.json.decode, lines)
        entries = msgspec.convert(written, list[Entry])
        is_ours = head["format"] == FORMAT and "import_id" in head
    except (ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise RequestError(f"{path} is not an import journal: move it, or choose another --report")
    return head, entries
