"""Tables on disk: Parquet as they are, CSV that a spreadsheet opens without harm.

A cell that a spreadsheet would take for a formula is led by an apostrophe in CSV, as OWASP advises
against CSV injection. Numbers stay numbers. A list becomes one text, parted by "; ".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from engine.sweeps.placement import place

_UTF8_MARK = b"\xef\xbb\xbf"
_PARTED = "; "
# Spreadsheets skip blank and unseen characters before a formula, and take the wide forms of its
# first sign for the narrow ones.
_FORMULA = r"^[\pZ\pC]*[=+\-@\x{ff1d}\x{ff0b}\x{ff0d}\x{ff20}]|^[\t\r\n]"


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


def guard_cells(table: pa.Table) -> pa.Table:
    """The table with texts that no spreadsheet computes, and without lists."""
    columns = {name: _guard(table[name]) for name in table.column_names}
    return pa.table(columns)


def _guard(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_list(column.type):
        column = pc.binary_join(column, _PARTED)
    if not pa.types.is_string(column.type):
        return column
    marked = pc.binary_join_element_wise("'", column, "")
    return pc.if_else(pc.match_substring_regex(column, _FORMULA), marked, column)
