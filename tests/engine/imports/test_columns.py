import pytest

from engine.errors import RequestError
from engine.imports.row_parser import ColumnMapping, Field, find_columns

SMALL = ["document_type", "document_number", "name", "live"]


def test_columns_are_found_in_any_order_and_case() -> None:
    columns = find_columns(
        ["Live", " NAME ", "extra", "document_number", "Document_Type"], ColumnMapping()
    )
    assert columns.places == {
        Field.LIVE: 0,
        Field.NAME: 1,
        Field.DOCUMENT_NUMBER: 3,
        Field.DOCUMENT_TYPE: 4,
    }
    assert columns.name(Field.NAME) == "NAME"


def test_a_mapped_column_is_called_as_the_file_calls_it() -> None:
    mapping = ColumnMapping({Field.DOCUMENT_NUMBER: "证件号码"})
    columns = find_columns(["document_type", "证件号码", "name", "portrait"], mapping)
    assert columns.places[Field.DOCUMENT_NUMBER] == 1
    assert columns.name(Field.DOCUMENT_NUMBER) == "证件号码"
    assert columns.name(None) == ""


def test_an_exact_name_wins_over_one_that_differs_in_case() -> None:
    assert find_columns([*SMALL, "NAME"], ColumnMapping()).places[Field.NAME] == 2


def test_a_default_stands_for_a_column() -> None:
    mapping = ColumnMapping(defaults={Field.DOCUMENT_TYPE: "cn-ric"})
    assert Field.DOCUMENT_TYPE not in find_columns(SMALL[1:], mapping).places


@pytest.mark.parametrize("missing", SMALL)
def test_a_missing_column_is_named_with_what_to_do(missing: str) -> None:
    with pytest.raises(RequestError, match=f"{missing}.*--map") as caught:
        find_columns([one for one in SMALL if one != missing], ColumnMapping())
    assert "\n" not in str(caught.value)


def test_a_file_without_a_header_shows_none_of_its_first_row() -> None:
    person = ["cn-ric", "110105199003071239", "Aileen Probe", "a.jpg"]
    with pytest.raises(RequestError, match="first row must name the columns") as caught:
        find_columns(person, ColumnMapping())
    assert not any(cell in str(caught.value) for cell in person)


@pytest.mark.parametrize(
    ("header", "mapping", "words"),
    [
        ([*SMALL, "name"], ColumnMapping(), "two columns are named name"),
        (SMALL, ColumnMapping({Field.MSISDN: "phone"}), "--map msisdn=phone"),
        ([*SMALL, "msisdn", "opened_at"], ColumnMapping(), "--set outlet"),
        ([*SMALL, "msisdn", "outlet"], ColumnMapping(), "--set opened_at"),
        ([], ColumnMapping(), "document_type, document_number, name"),
    ],
)
def test_what_cannot_be_imported_is_refused(
    header: list[str], mapping: ColumnMapping, words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        find_columns(header, mapping)
