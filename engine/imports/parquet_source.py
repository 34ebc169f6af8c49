"""Subscribers in Parquet, read in pieces by Arrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from engine.errors import RequestError
from engine.imports.columns import Columns, Wording, find_columns
from engine.imports.faults import Field
from engine.imports.source import RawRow

BATCH_ROWS = 2048


class ParquetSource:
    """A Parquet file; its column `template` holds issued templates as text, or vectors as lists.

    Texts, whole numbers, days and moments are read; a column of another type is refused by name.
    """

    def __init__(self, path: Path, digest: str, wording: Wording) -> None:
        self._path = path
        self._digest = digest
        try:
            with parquet.ParquetFile(str(path)) as file:
                self._schema, self._count = file.schema_arrow, file.metadata.num_rows
        except (pa.ArrowException, OSError):
            raise self._unreadable() from None
        self._columns = find_columns(self._schema.names, wording)
        for field, place in self._columns.places.items():
            self._require_type(field, self._schema.field(place).type)

    @property
    def columns(self) -> Columns:
        return self._columns

    @property
    def digest(self) -> str:
        return self._digest

    @property
    def has_vectors(self) -> bool:
        """Whether `template` is a column of vectors."""
        place = self._columns.places.get(Field.TEMPLATE)
        return place is not None and _is_vector(self._schema.field(place).type)

    def count_rows(self) -> int:
        return int(self._count)

    def rows(self) -> Iterator[RawRow]:
        fields = list(self._columns.places)
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
        names = [self._schema.names[place] for place in self._columns.places.values()]
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
        return RequestError(f"{self._path} cannot be read as Parquet: it is damaged, or encrypted")


def _is_vector(kind: pa.DataType) -> bool:
    types = pa.types
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return any(test(kind) for test in lists) and bool(types.is_floating(kind.value_type))


def _is_text(kind: pa.DataType) -> bool:
    # A floating number of eighteen digits has lost some.
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
    """What a CSV would hold: days and moments in ISO 8601, nothing for null."""
    if pa.types.is_timestamp(column.type):
        # Python's moments have no nanoseconds.
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
