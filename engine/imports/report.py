"""The report of an import: a line for each fault, without any value of the row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from engine.errors import RequestError
from engine.imports.columns import Columns
from engine.imports.faults import RowFault
from engine.spreadsheets import guard_cells

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
    """A CSV file that only its owner reads; rows count from 1 after the header of the data.

    Cells that a spreadsheet would take for a formula are led by an apostrophe, as OWASP advises:
    a column's name comes from the file.
    """

    def __init__(self, path: Path, columns: Columns, size_bytes: int | None = None) -> None:
        """A new report, or one that goes on after so many bytes; what is behind them is dropped.

        `RequestError` where the file cannot be written or is something else.
        """
        self._path = path
        self._columns = columns
        _require_ours(path)
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _OWNER_ONLY)
        except OSError as error:
            raise RequestError(f"{path} cannot be written: {error.strerror}") from None
        if self.size_bytes < (size_bytes or 0):
            self.close()
            raise RequestError(
                f"{path} is not what the import left: put it back, or begin anew with --no-resume"
            )
        os.ftruncate(self._handle, size_bytes or 0)
        if not size_bytes:
            self._write(_header())

    @property
    def size_bytes(self) -> int:
        return os.fstat(self._handle).st_size

    def add(self, numbers: Sequence[int], faults: Sequence[Sequence[RowFault]]) -> None:
        """Writes the faults of these rows; on the disk when this returns."""
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

    def close(self) -> None:
        os.close(self._handle)

    def _write(self, data: bytes) -> None:
        try:
            with open(self._handle, "ab", closefd=False) as file:
                file.write(data)
            os.fsync(self._handle)
        except OSError as error:
            raise RequestError(
                f"{self._path} cannot be written ({error.strerror}): mend that, then import again"
            ) from None


def _header() -> bytes:
    return _to_csv(SCHEMA.empty_table(), has_header=True)


def _to_csv(table: pa.Table, *, has_header: bool) -> bytes:
    sink = pa.BufferOutputStream()
    csv.write_csv(table, sink, csv.WriteOptions(include_header=has_header, quoting_style="needed"))
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _require_ours(path: Path) -> None:
    """Nothing but an earlier report is overwritten."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_header()))
    except FileNotFoundError:
        return
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None
    if start not in (_header(), b""):
        raise RequestError(f"{path} is no report of an import: name another file as --report")
