"""Cells of CSV files that no spreadsheet computes."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from engine.spreadsheets import guard_cells

FORMULA_SIGNS = "=+-@\t\r"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.none(), max_size=8))
def test_no_guarded_cell_begins_like_a_formula(texts: list[str | None]) -> None:
    table = guard_cells(pa.table({"text": pa.array(texts, pa.string())}))
    for before, after in zip(texts, table["text"].to_pylist(), strict=True):
        assert after in {before, f"'{before}"}
        assert not after or after[0] not in FORMULA_SIGNS


def test_harmless_cells_and_numbers_stay_as_they_are() -> None:
    table = pa.table({"text": ["a=b", "東京", "1-2", ""], "score": [-0.5, 1.0, 2.0, 3.0]})
    assert guard_cells(table).equals(table)


def test_a_list_becomes_one_text_that_is_guarded_as_a_whole() -> None:
    table = pa.table({"outlets": [["=1", "b"], ["a", "=1"], []]})
    assert guard_cells(table)["outlets"].to_pylist() == ["'=1; b", "a; =1", ""]
