"""Tables in files: Parquet, or a CSV whose cells a spreadsheet opens without harm.

A cell that it would take for a formula is led by an apostrophe, as OWASP advises against CSV
injection. Numbers stay numbers. A list becomes one text, parted by "; ".
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from indexes.atomic_files import replacing

_PARTED = "; "
# Spreadsheets skip blank and unseen characters before a formula, and take the wide forms of its
# first sign for the narrow ones.
_FORMULA = r"^[\pZ\pC]*[=+\-@\x{ff1d}\x{ff0b}\x{ff0d}\x{ff20}]|^[\t\r\n]"


def save_table(path: Path, table: pa.Table) -> None:
    """Writes a table as the file's name says, `.csv` or `.parquet`; only its owner can read it."""
    with replacing(path) as beside, beside.open("wb") as file:
        if path.suffix == ".csv":
            csv.write_csv(guard_cells(table), file)
        else:
            parquet.write_table(table, file, compression="zstd")


def guard_cells(table: pa.Table) -> pa.Table:
    """The table with texts that no spreadsheet computes, and without lists."""
    names = _guard(pa.chunked_array([pa.array(table.column_names, pa.string())])).to_pylist()
    return pa.table([_guard(one) for one in table.columns], names=names)


def _guard(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_list(column.type):
        column = pc.binary_join(column, _PARTED)
    if not pa.types.is_string(column.type):
        return column
    marked = pc.binary_join_element_wise("'", column, "")
    return pc.if_else(pc.match_substring_regex(column, _FORMULA), marked, column)
