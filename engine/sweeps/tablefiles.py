"""Tables on disk: Parquet as they are, CSV that a spreadsheet opens without harm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, parquet

from engine.spreadsheets import guard_cells
from engine.sweeps.placement import place

_UTF8_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFolder:
    """Where tables go, readable by their owner alone.

    `about` is kept in the Parquet files' metadata. With `mark`, a CSV file begins with the
    byte-order mark by which Excel knows UTF-8.
    """

    path: Path
    mark: bool = False
    about: Mapping[str, str] = field(default_factory=dict)

    def write(self, name: str, table: pa.Table) -> None:
        """`NAME.parquet` and `NAME.csv`."""
        told = table.replace_schema_metadata(
            {f"sosie.{key}": value for key, value in self.about.items()}
        )
        with place(self.path / f"{name}.parquet") as beside, beside.open("wb") as file:
            parquet.write_table(told, file, compression="zstd")
        self.write_csv(name, table)

    def write_csv(self, name: str, table: pa.Table) -> None:
        """`NAME.csv` alone."""
        with place(self.path / f"{name}.csv") as beside, beside.open("wb") as file:
            if self.mark:
                file.write(_UTF8_MARK)
            csv.write_csv(guard_cells(table), file)
