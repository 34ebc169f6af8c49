from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from engine.errors import RequestError
from engine.imports.columns import Wording
from engine.imports.csv_source import CsvForm
from engine.imports.faults import Field
from engine.imports.opening import open_source
from engine.imports.parquet_source import BATCH_ROWS
from engine.imports.source import Source


def open_table(tmp_path: Path, columns: dict[str, Any], wording: Wording | None = None) -> Source:
    count = max(len(column) for column in columns.values())
    table = {
        "document_type": ["cn-ric"] * count,
        "document_number": [str(place) for place in range(count)],
        "name": [f"Name {place}" for place in range(count)],
        "live": ["a.jpg"] * count,
    }
    parquet.write_table(pa.table(table | columns), tmp_path / "base.parquet")
    return open_source(tmp_path / "base.parquet", wording or Wording(), CsvForm())


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (["a", None, ""], ["a", "", ""]),
        ([8613800138000, None, 1], ["8613800138000", "", "1"]),
        ([date(2031, 1, 31), None, date(1999, 12, 31)], ["2031-01-31", "", "1999-12-31"]),
        (
            [datetime(2020, 1, 31, 12, tzinfo=UTC), None, datetime(2020, 2, 1, tzinfo=UTC)],
            ["2020-01-31T12:00:00+00:00", "", "2020-02-01T00:00:00+00:00"],
        ),
        (pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y", "x"]),
        (pa.array([1, 2, 3], pa.timestamp("ns")), ["1970-01-01T00:00:00"] * 3),
        (pa.nulls(3), ["", "", ""]),
    ],
)
def test_values_are_read_as_a_csv_would_hold_them(
    column: Any, texts: list[str], tmp_path: Path
) -> None:
    source = open_table(tmp_path, {"expires_on": column})
    assert [row.texts[Field.EXPIRES_ON] for row in source.rows()] == texts
    assert source.count_rows() == 3


def test_rows_are_numbered_over_many_batches(tmp_path: Path) -> None:
    count = 2 * BATCH_ROWS + 3
    source = open_table(tmp_path, {"name": [f"N{place}" for place in range(count)]})
    rows = list(source.rows())
    assert [row.number for row in rows] == list(range(1, count + 1))
    assert [row.texts[Field.NAME] for row in rows] == [f"N{place}" for place in range(count)]
    assert not source.has_vectors


@pytest.mark.parametrize("is_fixed", [True, False])
@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.float16()])
def test_a_column_of_vectors_is_read_as_float32(
    kind: pa.DataType, is_fixed: bool, tmp_path: Path
) -> None:
    values = [np.array([1, 0, 0.5], np.float32), None, np.array([0, 1, 0], np.float32)]
    list_kind = pa.list_(kind, 3) if is_fixed else pa.list_(kind)
    cells = [None if one is None else one.astype(kind.to_pandas_dtype()) for one in values]
    source = open_table(tmp_path, {"template": pa.array(cells, list_kind)})
    assert source.has_vectors
    read = [row.vector for row in source.rows()]
    assert read[1] is None
    for found, wanted in zip(read, values, strict=True):
        if wanted is not None:
            assert found is not None
            assert found.dtype == np.float32
            assert np.array_equal(found, wanted)
    assert all(Field.TEMPLATE not in row.texts for row in source.rows())


def test_a_column_of_tokens_is_text(tmp_path: Path) -> None:
    source = open_table(tmp_path, {"template": ["dG9rZW4"]})
    assert not source.has_vectors
    assert next(source.rows()).texts[Field.TEMPLATE] == "dG9rZW4"


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("document_number", [1.1e17]),
        ("name", [b"bytes"]),
        ("live", [True]),
        ("template", [[1, 2, 3]]),
        ("msisdn", [{"number": "1"}]),
    ],
)
def test_a_column_of_another_type_is_refused_by_name(
    name: str, column: list[Any], tmp_path: Path
) -> None:
    extra = {"outlet": ["r1"], "opened_at": ["2020-01-01"]}
    with pytest.raises(RequestError, match=f"the column of {name} holds .*as text"):
        open_table(tmp_path, {**extra, name: column})


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"name": ["A"]}), tmp_path / "base.parquet")
    with pytest.raises(RequestError, match="no column document_type, document_number"):
        open_source(tmp_path / "base.parquet", Wording(), CsvForm())


@pytest.mark.parametrize("kept", [6, 200])
def test_a_damaged_file_is_refused_in_one_line(kept: int, tmp_path: Path) -> None:
    open_table(tmp_path, {"name": ["A"] * 100})
    path = tmp_path / "base.parquet"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(RequestError, match="cannot be read as Parquet"):
        open_source(path, Wording(), CsvForm())
