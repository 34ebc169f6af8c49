"""Sources of subscribers: CSV and Parquet files, read in pieces by Arrow."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from engine.errors import RequestError
from engine.imports.row_parser import ColumnMapping, Columns, Field, RawRow, find_columns

PARQUET_MAGIC = b"PAR1"
_PIECE_BYTES = 1 << 20
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip (or a spreadsheet)",
    b"\x28\xb5\x2f\xfd": "zstd",
}


class Source(Protocol):
    """A file of subscribers."""

    @property
    def columns(self) -> Columns: ...

    @property
    def digest(self) -> str:
        """SHA-256 of the file, in hex."""
        ...

    @property
    def has_vectors(self) -> bool:
        """True where it has vectors, which mean nothing without the model that made them."""
        ...

    def count_rows(self) -> int:
        """Number of rows, malformed ones included."""
        ...

    def rows(self) -> Iterator[RawRow]:
        """All rows in order, with one piece of the file in memory at a time."""
        ...


def read_head(path: Path) -> tuple[bytes, str]:
    """The first bytes of a file, and the SHA-256 of all of them.

    Raises `RequestError` where it is unreadable or compressed.
    """
    digest, start = hashlib.sha256(), b""
    try:
        if not path.is_file():
            raise RequestError(f"{path} is not a file: name a CSV or Parquet file")
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                start = start or piece[:8]
                digest.update(piece)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None
    compression = next(
        (kind for magic, kind in _COMPRESSED.items() if start.startswith(magic)), None
    )
    if compression is not None:
        raise RequestError(f"{path} is a {compression} file: unpack it to CSV or Parquet first")
    return start, digest.hexdigest()


def require_encoding(path: Path, encoding: str) -> None:
    """Raise `RequestError`, with the line, where a text file is not in this encoding."""
    try:
        "x".encode(encoding)
        decoder = codecs.getincrementaldecoder(encoding)()
    except LookupError:
        raise RequestError(
            "no encoding has this name: use utf-8, gb18030, big5, euc-kr, tis-620, windows-1252 …"
        ) from None
    lines = 1
    with path.open("rb") as file:
        while True:
            piece = file.read(_PIECE_BYTES)
            try:
                lines += decoder.decode(piece, final=not piece).count("\n")
            except UnicodeDecodeError as error:
                before = error.object[: error.start].decode(encoding, "ignore")
                line = lines + before.count("\n")
                raise RequestError(
                    f"{path}, line {line}: not {encoding.upper()}: name the file's encoding, "
                    "as --encoding gb18030"
                ) from None
            if not piece:
                return


BLOCK_BYTES = 4 << 20
"""Size of the pieces that are read."""
MAX_LINES = 100
"""A row over more lines has a quote that was never closed, and other rows inside."""


@dataclass(frozen=True, slots=True)
class CsvForm:
    """Format of a CSV file."""

    encoding: str = "utf-8"
    delimiter: str = ","


class CsvSource:
    """A CSV file whose first row names the columns; a quoted cell may hold line breaks.

    Raises `RequestError` where encoding, header or format are wrong.
    """

    def __init__(self, path: Path, digest: str, mapping: ColumnMapping, form: CsvForm) -> None:
        require_encoding(path, form.encoding)
        self.digest = digest
        self.has_vectors = False
        self._path = path
        self._form = form
        header, self._has_rows = _read_header(path, form)
        self._width = len(header)
        self.columns = find_columns(header, mapping)

    def count_rows(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        malformed: deque[int] = deque()
        first = next(iter(self.columns.places.values()))
        sound: int = sum(batch.num_rows for batch in self._read([first], malformed))
        return sound + len(malformed)

    def rows(self) -> Iterator[RawRow]:
        """All rows; one with another number of cells than the header is malformed."""
        fields, places = list(self.columns.places), list(self.columns.places.values())
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
        """Batches of columns as texts; numbers of malformed rows are added before the batch."""

        def skip(row: arrow_csv.InvalidRow) -> str:
            # The header is the first row that Arrow counts.
            malformed.append(row.number - 1)
            return "error" if row.text.count("\n") > MAX_LINES else "skip"

        if not self._has_rows:
            return
        chosen = [str(place) for place in places]
        try:
            with arrow_csv.open_csv(
                str(self._path),
                read_options=arrow_csv.ReadOptions(
                    use_threads=False,  # with threads, malformed rows have no number
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
            # Arrow's own message quotes the row.
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
            # A cell longer than the limit of `csv`: there is a row, whatever it is.
            has_rows = True
    if not header:
        raise RequestError(f"{path} has no header: its first row must name the columns")
    header[0] = header[0].removeprefix("\ufeff")
    return header, has_rows


BATCH_ROWS = 2048


class ParquetSource:
    """A Parquet file; its column `template` holds issued templates as text, or vectors as lists.

    Texts, integers, dates and timestamps are read; a column of another type is refused by name.
    """

    def __init__(self, path: Path, digest: str, mapping: ColumnMapping) -> None:
        self.digest = digest
        self._path = path
        try:
            with parquet.ParquetFile(str(path)) as file:
                self._schema, self._count = file.schema_arrow, file.metadata.num_rows
        except (pa.ArrowException, OSError):
            raise self._unreadable() from None
        self.columns = find_columns(self._schema.names, mapping)
        for name, place in self.columns.places.items():
            self._require_type(name, self._schema.field(place).type)
        template = self.columns.places.get(Field.TEMPLATE)
        self.has_vectors = template is not None and _is_vector(self._schema.field(template).type)

    def count_rows(self) -> int:
        return int(self._count)

    def rows(self) -> Iterator[RawRow]:
        fields = list(self.columns.places)
        has_vectors, number = self.has_vectors, 0
        for batch in self._batches():
            columns = dict(zip(fields, batch.columns, strict=True))
            vectors: Sequence[NDArray[np.float32] | None] = [None] * batch.num_rows
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


def _read_vectors(column: pa.Array) -> list[NDArray[np.float32] | None]:
    return [
        item.values.to_numpy(zero_copy_only=False).astype(np.float32) if item.is_valid else None
        for item in column
    ]


def open_source(path: Path, mapping: ColumnMapping, form: CsvForm) -> Source:
    """Open a CSV or Parquet file; raises `RequestError` where it is unreadable or incomplete."""
    start, digest = read_head(path)
    if start.startswith(PARQUET_MAGIC):
        return ParquetSource(path, digest, mapping)
    return CsvSource(path, digest, mapping, form)
