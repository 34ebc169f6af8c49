import csv
import gzip
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from engine.errors import RequestError
from engine.imports.row_parser import ColumnMapping, Field, RawRow
from engine.imports.sources import (
    BATCH_ROWS,
    MAX_CHARACTERS,
    MAX_LINES,
    CsvForm,
    CsvSource,
    Source,
    open_source,
)

HEADER = "document_type,document_number,name,live\n"
CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=12)


def read(path: Path, form: CsvForm | None = None) -> list[RawRow]:
    source = open_source(path, ColumnMapping(), form or CsvForm())
    rows = list(source.rows())
    assert source.count == len(rows)
    return rows


def write(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "base.csv"
    path.write_bytes(text.encode(encoding))
    return path


@given(names=st.lists(CELL, min_size=1, max_size=20))
def test_every_cell_is_read_as_it_was_written(names: list[str], tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("cells") / "base.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["document_type", "document_number", "name", "live"])
        writer.writerows([["cn-ric", "1", name, "a.jpg"] for name in names])
    assert [row.texts[Field.NAME] for row in read(path)] == names


@given(shape=st.lists(st.sampled_from([3, 4, 5]), max_size=30))
def test_a_row_with_other_cells_than_the_header_is_numbered_and_stops_no_other(
    shape: list[int], tmp_path_factory
) -> None:
    path = tmp_path_factory.mktemp("shapes") / "base.csv"
    lines = [
        ",".join(["t", "1", f"n{place}", "a", "b"][:width]) for place, width in enumerate(shape)
    ]
    path.write_text(HEADER + "".join(f"{line}\n" for line in lines))
    rows = read(path)
    assert [row.number for row in rows] == list(range(1, len(shape) + 1))
    assert [row.is_malformed for row in rows] == [width != 4 for width in shape]
    for place, row in enumerate(rows):
        assert row.is_malformed or row.texts[Field.NAME] == f"n{place}"


def test_rows_keep_their_numbers_over_many_pieces(tmp_path) -> None:
    count = 2 * MAX_CHARACTERS // 1000 + 10
    long = "x" * 1000
    lines = [f"t,1,{long},a\n" if place % 1000 else "short,row\n" for place in range(count)]
    rows = read(write(tmp_path, HEADER + "".join(lines)))
    assert [row.number for row in rows] == list(range(1, count + 1))
    assert all(row.is_malformed == (place % 1000 == 0) for place, row in enumerate(rows))


@pytest.mark.parametrize(
    ("encoding", "delimiter", "end", "name"),
    [
        ("utf-8", ";", "\r\n", "A,B"),
        ("utf-8-sig", ",", "\n", "N"),
        ("gb18030", ",", "\n", "王小明"),
        ("utf-16", ",", "\n", "王小明"),
        ("windows-1252", ",", "\n", "Zoë"),
    ],
)
def test_other_forms_of_csv_are_read(
    encoding: str, delimiter: str, end: str, name: str, tmp_path
) -> None:
    lines = (HEADER.strip().split(","), ["t", "1", name, "a"])
    text = "".join(delimiter.join(line) + end for line in lines)
    form = CsvForm() if encoding == "utf-8-sig" else CsvForm(encoding, delimiter)
    (row,) = read(write(tmp_path, text, encoding), form)
    assert (row.texts[Field.DOCUMENT_TYPE], row.texts[Field.NAME]) == ("t", name)


def test_another_encoding_is_refused_with_its_line_and_the_option(tmp_path) -> None:
    rows = "".join(f"t,{place},Name,a\n" for place in range(90_000))
    path = tmp_path / "base.csv"
    path.write_bytes(f"{HEADER}{rows}".encode() + "t,1,王小明,a\n".encode("gb18030"))
    with pytest.raises(RequestError, match=r"line 90002: not UTF-8.*--encoding") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_character_between_two_pieces_is_no_fault(tmp_path) -> None:
    name = "é" * (1 << 20)
    path = write(tmp_path, f"{HEADER}t,1,a{name},a\n")
    assert len(read(path)[0].texts[Field.NAME]) == len(name) + 1


@pytest.mark.parametrize("name", ["no-such", "hex", ""])
def test_an_unknown_encoding_is_refused(name: str, tmp_path) -> None:
    with pytest.raises(RequestError, match="no encoding has this name"):
        read(write(tmp_path, HEADER), CsvForm(name))


def test_a_header_alone_has_no_rows(tmp_path) -> None:
    assert read(write(tmp_path, HEADER)) == []
    assert read(write(tmp_path, HEADER.rstrip())) == []


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file_is_refused(text: str, tmp_path) -> None:
    with pytest.raises(RequestError, match="header"):
        read(write(tmp_path, text))


@pytest.mark.parametrize("swallowed", [MAX_LINES + 1, MAX_CHARACTERS // 10])
@pytest.mark.parametrize("end", ["", '"\n'])
def test_an_open_quote_is_refused_by_its_row_without_showing_it(
    swallowed: int, end: str, tmp_path
) -> None:
    """Or the rows behind it would count as one."""
    text = HEADER + 't,0,N,z\nt,1,"Aileen Probe,a\n' + "t,2,Someone Else,b\n" * swallowed + end
    with pytest.raises(RequestError, match="after row 1: close the quote") as caught:
        read(write(tmp_path, text))
    assert "Aileen" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_compressed_file_is_refused(tmp_path) -> None:
    path = tmp_path / "base.csv.gz"
    path.write_bytes(gzip.compress(HEADER.encode()))
    with pytest.raises(RequestError, match="is a gzip file"):
        read(path)


@pytest.mark.parametrize("make", [Path.mkdir, lambda _: None])
def test_an_unreadable_file_is_refused(make: Callable[[Path], None], tmp_path) -> None:
    make(tmp_path / "base")
    with pytest.raises(RequestError, match="is not a file"):
        read(tmp_path / "base")


def test_only_known_columns_are_read(tmp_path) -> None:
    path = write(tmp_path, "salary," + HEADER + "100,t,1,N,a\n")
    source = CsvSource(path, "digest", ColumnMapping(), CsvForm())
    (row,) = source.rows()
    assert set(row.texts) == {Field.DOCUMENT_TYPE, Field.DOCUMENT_NUMBER, Field.NAME, Field.LIVE}


def open_table(
    tmp_path: Path, columns: dict[str, Any], mapping: ColumnMapping | None = None
) -> Source:
    count = max(len(column) for column in columns.values())
    table = {
        "document_type": ["cn-ric"] * count,
        "document_number": [str(place) for place in range(count)],
        "name": [f"Name {place}" for place in range(count)],
        "live": ["a.jpg"] * count,
    }
    parquet.write_table(pa.table(table | columns), tmp_path / "base.parquet")
    return open_source(tmp_path / "base.parquet", mapping or ColumnMapping(), CsvForm())


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
def test_values_are_read_as_a_csv_would_hold_them(column: Any, texts: list[str], tmp_path) -> None:
    source = open_table(tmp_path, {"expires_on": column})
    assert [row.texts[Field.EXPIRES_ON] for row in source.rows()] == texts
    assert source.count == 3


def test_rows_are_numbered_over_many_batches(tmp_path) -> None:
    count = 2 * BATCH_ROWS + 3
    source = open_table(tmp_path, {"name": [f"N{place}" for place in range(count)]})
    rows = list(source.rows())
    assert [row.number for row in rows] == list(range(1, count + 1))
    assert [row.texts[Field.NAME] for row in rows] == [f"N{place}" for place in range(count)]
    assert not source.has_vectors


@pytest.mark.parametrize("is_fixed", [True, False])
@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.float16()])
def test_a_column_of_vectors_is_read_as_float32(
    kind: pa.DataType, is_fixed: bool, tmp_path
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
            assert found.dtype == np.float32
            assert np.array_equal(found, wanted)
    assert all(Field.TEMPLATE not in row.texts for row in source.rows())


def test_a_column_of_tokens_is_text(tmp_path) -> None:
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
    name: str, column: list[Any], tmp_path
) -> None:
    extra = {"outlet": ["r1"], "opened_at": ["2020-01-01"]}
    with pytest.raises(RequestError, match=f"the column of {name} holds .*as text"):
        open_table(tmp_path, {**extra, name: column})


@pytest.mark.parametrize("kept", [6, 200])
def test_a_damaged_file_is_refused_in_one_line(kept: int, tmp_path) -> None:
    open_table(tmp_path, {"name": ["A"] * 100})
    path = tmp_path / "base.parquet"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(RequestError, match="cannot be read as Parquet"):
        open_source(path, ColumnMapping(), CsvForm())
