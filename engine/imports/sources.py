"""Sources of subscribers: CSV and Parquet files, read in pieces."""

import csv
import hashlib
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from engine.errors import RequestError, file_errors
from engine.imports.row_parser import ColumnMapping, Field, RawRow, find_columns
from indexes.base import Floats
from schema import frozen

PARQUET_MAGIC = b"PAR1"
_PIECE_BYTES = 1 << 20
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip (or a spreadsheet)",
    b"\x28\xb5\x2f\xfd": "zstd",
}


def read_head(path: Path) -> tuple[bytes, str]:
    """The first bytes of a file, and the SHA-256 of all of them.

    Raises `RequestError` where it is unreadable or compressed.
    """
    digest, start = hashlib.sha256(), b""
    with file_errors(f"{path} cannot be read"):
        if not path.is_file():
            raise RequestError(f"{path} is not a file: name a CSV or Parquet file")
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                start = start or piece[:8]
                digest.update(piece)
    compression = next(
        (kind for magic, kind in _COMPRESSED.items() if start.startswith(magic)), None
    )
    if compression is not None:
        raise RequestError(f"{path} is a {compression} file: unpack it to CSV or Parquet first")
    return start, digest.hexdigest()


MAX_CHARACTERS = 4 << 20
"""Of one line, and of one cell: a longer one is not even read."""
MAX_LINES = 100
"""A row over more lines has a quote that was never closed, and other rows inside."""


@frozen
class CsvForm:
    """Format of a CSV file."""

    encoding: str = "utf-8"
    delimiter: str = ","


class CsvSource:
    """A CSV file whose first row names the columns; a quoted cell may hold line breaks.

    `count` has its malformed rows too. `RequestError` where encoding, header or format are wrong.
    """

    has_vectors = False

    def __init__(self, path: Path, digest: str, mapping: ColumnMapping, form: CsvForm) -> None:
        self.digest = digest
        self._path, self._form = path, form
        rows = self._read()
        header = next(rows, None)
        if header is None:
            raise RequestError(f"{path} has no header: its first row must name the columns")
        header[0] = header[0].removeprefix("\ufeff")
        self._width, self.count = len(header), sum(1 for _ in rows)
        self.columns = find_columns(header, mapping)

    def rows(self) -> Iterator[RawRow]:
        """All rows in order, a line in memory at a time; one with another number of cells than the
        header is malformed."""
        places = self.columns.places.items()
        for number, cells in enumerate(self._read()):
            if number and len(cells) != self._width:
                yield RawRow(number, is_malformed=True)
            elif number:
                yield RawRow(number, {field: cells[place] for field, place in places})

    def _read(self) -> Iterator[list[str]]:
        """The cells of each row that has any, the header's first."""
        csv.field_size_limit(MAX_CHARACTERS)
        encoding, count, before = self._form.encoding, 0, 0
        try:
            with self._path.open(encoding=encoding, newline="") as text:
                rows = csv.reader(_read_lines(text), delimiter=self._form.delimiter)
                for cells in rows:
                    if rows.line_num - before > MAX_LINES:
                        raise csv.Error("too many lines")
                    before = rows.line_num
                    if cells:
                        yield cells
                        count += 1
        except LookupError:
            raise RequestError(
                "no encoding has this name: use utf-8, gb18030, big5, euc-kr, tis-620, "
                "windows-1252 …"
            ) from None
        except UnicodeDecodeError as error:
            # All lines that were whole before this piece have been read.
            line = rows.line_num + 1 + error.object[: error.start].count(b"\n")
            raise RequestError(
                f"{self._path}, line {line}: not {encoding.upper()}: name the file's encoding, "
                "as --encoding gb18030"
            ) from None
        except csv.Error:
            after = f" after row {count - 1}" if count > 1 else ""
            raise RequestError(
                f"{self._path} cannot be read as CSV{after}: close the quote that is open there, "
                f"or split the line that is longer than {MAX_CHARACTERS} characters"
            ) from None


def _read_lines(text: TextIO) -> Iterator[str]:
    while line := text.readline(MAX_CHARACTERS):
        if len(line) == MAX_CHARACTERS:
            raise csv.Error("too long")
        yield line


BATCH_ROWS = 2048


class ParquetSource:
    """A Parquet file; its column `template` holds issued templates as text, or vectors as lists.

    Texts, integers, dates and timestamps are read; a column of another type is refused by name.
    Vectors (`has_vectors`) mean nothing without the model that made them.
    """

    def __init__(self, path: Path, digest: str, mapping: ColumnMapping) -> None:
        self.digest = digest
        self._path = path
        try:
            with parquet.ParquetFile(str(path)) as file:
                self._schema, self.count = file.schema_arrow, int(file.metadata.num_rows)
        except (pa.ArrowException, OSError):
            raise self._unreadable() from None
        self.columns = find_columns(self._schema.names, mapping)
        for name, place in self.columns.places.items():
            self._require_type(name, self._schema.field(place).type)
        template = self.columns.places.get(Field.TEMPLATE)
        self.has_vectors = template is not None and _is_vector(self._schema.field(template).type)

    def rows(self) -> Iterator[RawRow]:
        """All rows in order, a batch in memory at a time."""
        fields = list(self.columns.places)
        has_vectors, number = self.has_vectors, 0
        for batch in self._batches():
            columns = dict(zip(fields, batch.columns, strict=True))
            vectors: Sequence[Floats | None] = [None] * batch.num_rows
            if has_vectors:
                vectors = _read_vectors(columns.pop(Field.TEMPLATE))
            texts = {field: _read_texts(column) for field, column in columns.items()}
            for place, vector in enumerate(vectors):
                number += 1
                row = {field: column[place] for field, column in texts.items()}
                yield RawRow(number, row, vector)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        names = [self._schema.names[place] for place in self.columns.places.values()]
        try:
            with parquet.ParquetFile(str(self._path)) as file:
                for batch in file.iter_batches(BATCH_ROWS, columns=names, use_threads=False):
                    yield batch.select(names)
        except (pa.ArrowException, OSError):
            raise self._unreadable() from None

    def _require_type(self, field: Field, kind: pa.DataType) -> None:
        if field is Field.TEMPLATE and _is_vector(kind):
            return
        if not _is_text(kind):
            raise RequestError(
                f"the column of {field} holds {kind}: write it as text"
                + (", or as lists of float32" if field is Field.TEMPLATE else "")
            )

    def _unreadable(self) -> RequestError:
        return RequestError(f"{self._path} cannot be read as Parquet: it is damaged or encrypted")


def _is_vector(kind: pa.DataType) -> bool:
    types = pa.types
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return any(test(kind) for test in lists) and bool(types.is_floating(kind.value_type))


def _is_text(kind: pa.DataType) -> bool:
    # A floating-point number of eighteen digits has lost some.
    types = pa.types
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return any(
        test(kind)
        for test in (
            types.is_string,
            types.is_large_string,
            types.is_integer,
            types.is_date,
            types.is_timestamp,
            types.is_null,
        )
    )


def _read_texts(column: pa.Array) -> list[str]:
    """Texts as a CSV would have them: dates and times in ISO 8601, empty for null."""
    if pa.types.is_timestamp(column.type):
        # Python's datetime has no nanoseconds.
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return [
        "" if value is None else value.isoformat() if isinstance(value, date) else str(value)
        for value in column.to_pylist()
    ]


def _read_vectors(column: pa.Array) -> list[Floats | None]:
    return [
        item.values.to_numpy(zero_copy_only=False).astype(np.float32) if item.is_valid else None
        for item in column
    ]


Source = CsvSource | ParquetSource


def open_source(path: Path, mapping: ColumnMapping, form: CsvForm) -> Source:
    """Open a CSV or Parquet file; raises `RequestError` where it is unreadable or incomplete."""
    start, digest = read_head(path)
    if start.startswith(PARQUET_MAGIC):
        return ParquetSource(path, digest, mapping)
    return CsvSource(path, digest, mapping, form)
