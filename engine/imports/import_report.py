"""Counts of an import, and its report: a line for each fault, without any value of a row."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import msgspec
import pyarrow as pa
from pyarrow import csv

from engine.errors import RequestError
from engine.imports.columns import Columns, RowFault
from engine.imports.row_faces import JudgedRow
from engine.matching.bulk_enrollment import Admission
from engine.spreadsheets import guard_cells


@dataclass(frozen=True, slots=True, kw_only=True)
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

    def to_dict(self) -> dict[str, Any]:
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Self:
        return cls(**written)


def count_chunk(
    rows: Sequence[JudgedRow],
    admissions: Sequence[Admission | None],
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
_OWNER_ONLY = 0o600


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
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _OWNER_ONLY)
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
        try:
            with open(self._handle, "ab", closefd=False) as file:
                file.write(data)
            os.fsync(self._handle)
        except OSError as error:
            raise RequestError(
                f"{self._path} cannot be written ({error.strerror}): fix that, then import again"
            ) from None


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
