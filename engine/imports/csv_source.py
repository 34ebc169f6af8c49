"""Subscribers in CSV, read in pieces by Arrow."""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
from pyarrow import csv as arrow_csv

from engine.errors import RequestError
from engine.imports.columns import Columns, Wording, find_columns
from engine.imports.source import RawRow, require_encoding

BLOCK_BYTES = 4 << 20
"""How much of the file is read at a time."""
MOST_LINES = 100
"""A row over more lines than these is one whose quote was never closed, with others in it."""


@dataclass(frozen=True, slots=True)
class CsvForm:
    """How the file is written."""

    encoding: str = "utf-8"
    delimiter: str = ","


class CsvSource:
    """A CSV file whose first row names the columns; a quoted cell may hold line breaks.

    Raises `RequestError` where encoding, header or form are not as they must be.
    """

    def __init__(self, path: Path, digest: str, wording: Wording, form: CsvForm) -> None:
        require_encoding(path, form.encoding)
        self._path = path
        self._digest = digest
        self._form = form
        header, self._has_rows = _read_header(path, form)
        self._width = len(header)
        self._columns = find_columns(header, wording)

    @property
    def columns(self) -> Columns:
        return self._columns

    @property
    def digest(self) -> str:
        return self._digest

    @property
    def has_vectors(self) -> bool:
        return False

    def count_rows(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        malformed: deque[int] = deque()
        first = next(iter(self._columns.places.values()))
        sound: int = sum(batch.num_rows for batch in self._read([first], malformed))
        return sound + len(malformed)

    def rows(self) -> Iterator[RawRow]:
        """All rows; one with another number of cells than the header is malformed."""
        fields, places = list(self._columns.places), list(self._columns.places.values())
        malformed: deque[int] = deque()
        number = 1
        for batch in self._read(places, malformed):
            for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                while malformed and malformed[0] == number:
                    yield RawRow(malformed.popleft(), is_malformed=True)
                    number += 1
                yield RawRow(number, dict(zip(fields, cells, strict=True)))
                number += 1
        for left in malformed:
            yield RawRow(left, is_malformed=True)

    def _read(self, places: list[int], malformed: deque[int]) -> Iterator[pa.RecordBatch]:
        """Batches of these columns as texts; numbers of malformed rows come before the batch."""

        def skip(row: arrow_csv.InvalidRow) -> str:
            # The header is the first row that Arrow counts.
            malformed.append(row.number - 1)
            return "error" if row.text.count("\n") > MOST_LINES else "skip"

        if not self._has_rows:
            return
        chosen = [str(place) for place in places]
        try:
            with arrow_csv.open_csv(
                str(self._path),
                read_options=arrow_csv.ReadOptions(
                    use_threads=False,  # or rows would have no number
                    block_size=BLOCK_BYTES,
                    column_names=[str(place) for place in range(self._width)],
                    skip_rows_after_names=1,
                    encoding=self._form.encoding,
                ),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=self._form.delimiter,
                    newlines_in_values=True,
                    invalid_row_handler=skip,
                ),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=chosen,
                    column_types=dict.fromkeys(chosen, pa.string()),
                    strings_can_be_null=False,
                ),
            ) as reader:
                yield from reader
        except (pa.ArrowInvalid, OSError):
            # Arrow's own text quotes the row.
            after = f" after row {malformed[-1] - 1}" if malformed else ""
            raise RequestError(
                f"{self._path} cannot be read as CSV{after}: close the quote that is open there, "
                f"or split the row that is longer than {BLOCK_BYTES >> 20} MiB"
            ) from None


def _read_header(path: Path, form: CsvForm) -> tuple[list[str], bool]:
    """The cells of the first row, and whether another one follows."""
    header: list[str] = []
    with path.open("rb") as file:
        text = io.TextIOWrapper(file, form.encoding, newline="")
        rows = csv.reader(text, delimiter=form.delimiter)
        try:
            header = next(rows, [])
            has_rows = next(rows, None) is not None
        except csv.Error:
            # A cell longer than any header's: what follows is there, whatever it is.
            has_rows = True
    if not header:
        raise RequestError(f"{path} has no header: its first row must name the columns")
    header[0] = header[0].removeprefix("\ufeff")
    return header, has_rows
