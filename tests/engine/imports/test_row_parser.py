from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from stdnum.cn import ric

from engine.errors import RequestError
from engine.imports.row_parser import (
    Code,
    ColumnMapping,
    Field,
    RawRow,
    ReadingTerms,
    Row,
    RowFault,
    RowReader,
    find_columns,
)
from engine.registry.accounts import Outlet
from schema.reasons import FACE_NOT_KEPT, Reason

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
OUTLETS = {"r1": Outlet("r1", "red", True, 5), "old": Outlet("old", "red", False, 5)}
NUMBER = "11010519900307123" + ric.calc_check_digit("110105199003071230")
SOUND = {
    Field.DOCUMENT_TYPE: "cn-ric",
    Field.DOCUMENT_NUMBER: NUMBER,
    Field.NAME: "Aileen Probe",
    Field.MSISDN: "+8613800138000",
    Field.OUTLET: "r1",
    Field.OPENED_AT: "2020-05-01T08:00:00Z",
    Field.LIVE: "a.jpg",
}


def read_row(changes: dict[Field, str] | None = None, **terms: Any) -> Row:
    given: dict[str, Any] = {"outlets": OUTLETS, "now": NOW} | terms
    (row,) = RowReader(ReadingTerms(**given)).read([RawRow(1, SOUND | (changes or {}))])
    return row


def codes(row: Row) -> list[tuple[Field | None, str]]:
    return [(fault.field, fault.code) for fault in row.faults]


def test_a_sound_row_has_no_fault() -> None:
    row = read_row({Field.EXPIRES_ON: "2031-01-31", Field.CONSENT_REF: "C-1"})
    assert row.faults == ()
    assert row.checked.number == NUMBER
    assert row.checked.expires_on == date(2031, 1, 31)
    assert (row.line.msisdn, row.line.carrier, row.line.outlet) == ("+8613800138000", "red", "r1")
    assert row.line.opened_at == datetime(2020, 5, 1, 8, tzinfo=UTC)
    assert (row.consent.ref, row.carrier, row.live, row.portrait) == ("C-1", "red", "a.jpg", "")


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        (Field.DOCUMENT_TYPE, "", Code.VALUE_MISSING),
        (Field.DOCUMENT_TYPE, "library-card", Code.DOCUMENT_TYPE_UNKNOWN),
        (Field.DOCUMENT_NUMBER, "  ", Code.VALUE_MISSING),
        (Field.DOCUMENT_NUMBER, "1" * 101, Code.VALUE_TOO_LONG),
        (Field.DOCUMENT_NUMBER, NUMBER[:-1] + "0", Reason.DOCUMENT_INVALID),
        (Field.NAME, "", Code.VALUE_MISSING),
        (Field.NAME, "...", Code.TEXT_INVALID),
        (Field.NAME, "x" * 201, Code.VALUE_TOO_LONG),
        (Field.NAME, "nul\0", Code.TEXT_INVALID),
        (Field.NAME, "Aileen\nt,2,Next", Code.LINE_BREAK),
        (Field.EXPIRES_ON, "31/01/2031", Code.DATE_INVALID),
        (Field.EXPIRES_ON, "2031-02-30", Code.DATE_INVALID),
        (Field.MSISDN, "13800138000", Code.NUMBER_INVALID),
        (Field.MSISDN, "=1+1", Code.NUMBER_INVALID),
        (Field.OUTLET, "", Code.VALUE_MISSING),
        (Field.OUTLET, "r9", Code.OUTLET_UNKNOWN),
        (Field.CARRIER, "blue", Code.CARRIER_MISMATCH),
        (Field.OPENED_AT, "", Code.VALUE_MISSING),
        (Field.OPENED_AT, "yesterday", Code.TIME_INVALID),
        (Field.OPENED_AT, "1970-01-01", Code.TIME_INVALID),
        (Field.OPENED_AT, "0001-01-01T00:00:00+14:00", Code.TIME_INVALID),
        (Field.OPENED_AT, "2026-11-25T14:00:00Z", Code.TIME_AHEAD),
        (Field.CONSENT_REF, "x" * 201, Code.VALUE_TOO_LONG),
        (Field.CONSENT_REF, "\ud800", Code.TEXT_INVALID),
        (Field.PORTRAIT_KIND, "painted", Code.KIND_UNKNOWN),
    ],
)
def test_a_fault_names_its_column(field: Field, value: str, code: Code | str) -> None:
    row = read_row({field: value})
    assert codes(row) == [(field, code)]
    assert not value.strip() or value not in row.faults[0].message


def test_a_line_that_an_outlet_opened_since_it_was_restricted_is_refused() -> None:
    at = datetime(2026, 5, 4, tzinfo=UTC)
    outlets = {"r1": replace(OUTLETS["r1"], restriction="barred", restricted_at=at)}
    late = read_row({Field.OPENED_AT: at.isoformat()}, outlets=outlets)
    assert codes(late) == [(Field.OUTLET, Code.OUTLET_RESTRICTED)]
    assert read_row(outlets=outlets).faults == ()


def test_all_faults_of_a_row_are_reported_and_that_its_face_would_not_be_kept() -> None:
    row = read_row({Field.NAME: "", Field.MSISDN: "1", Field.LIVE: ""}, unkept={"red"})
    told = {Code.VALUE_MISSING, Code.NUMBER_INVALID, Code.FACE_MISSING, FACE_NOT_KEPT}
    assert {code for _, code in codes(row)} == told


def test_a_malformed_row_has_one_fault() -> None:
    reader = RowReader(ReadingTerms(outlets=OUTLETS, now=NOW))
    bad, good = reader.read([RawRow(7, is_malformed=True), RawRow(8, SOUND)])
    assert (bad.number, bad.faults) == (7, (RowFault(None, Code.ROW_MALFORMED),))
    assert good.faults == ()


def test_a_row_without_a_number_has_no_line_and_needs_no_outlet() -> None:
    row = read_row({Field.MSISDN: "", Field.OUTLET: "", Field.OPENED_AT: ""})
    assert (row.faults, row.line) == ((), None)


def test_a_closed_outlet_may_have_opened_a_line_and_a_clock_slightly_ahead_is_tolerated() -> None:
    soon = (NOW + timedelta(minutes=30)).isoformat()
    assert read_row({Field.OUTLET: "old", Field.OPENED_AT: soon}).faults == ()


@pytest.mark.parametrize("time", ["", "T00:00:00"], ids=["date", "a column of timestamps"])
def test_an_expired_document_is_still_held(time: str) -> None:
    row = read_row({Field.EXPIRES_ON: f"2019-01-31{time}"})
    assert (row.faults, row.checked.expires_on) == ((), date(2019, 1, 31))
    assert row.checked.findings == (Reason.DOCUMENT_EXPIRED,)


def test_times_without_a_zone_are_in_the_one_given_and_national_numbers_of_the_country() -> None:
    local = {Field.OPENED_AT: "2020-05-01 08:00:00", Field.MSISDN: "138 0013 8000"}
    row = read_row(local, zone=ZoneInfo("Asia/Shanghai"), country="CN")
    assert row.line.opened_at == datetime(2020, 5, 1, 0, tzinfo=UTC)
    assert row.line.msisdn == "+8613800138000"


def test_defaults_replace_empty_cells() -> None:
    defaults = {Field.OUTLET: "old", Field.OPENED_AT: "2011-01-01", Field.DOCUMENT_TYPE: "kr-rrn"}
    row = read_row({Field.OUTLET: "", Field.OPENED_AT: " "}, defaults=defaults)
    assert row.faults == ()
    assert (row.line.outlet, row.line.opened_at.year) == ("old", 2011)


@pytest.mark.parametrize(
    "name", ["محمد بن سلمان", "יוסף לוי", "\u200fعلي\u200e", "王小明", "Zoë O'Neil"]
)
def test_names_of_any_script_are_kept_as_they_stand(name: str) -> None:
    row = read_row({Field.NAME: name})
    assert (row.faults, row.name) == ((), name)


def test_a_template_replaces_the_live_photograph_only() -> None:
    assert read_row({Field.LIVE: "", Field.TEMPLATE: "dG9r"}).faults == ()
    assert read_row({Field.LIVE: "", Field.PORTRAIT: "p.jpg", Field.TEMPLATE: "t"}).faults == ()
    assert codes(read_row({Field.TEMPLATE: "t"})) == [(Field.TEMPLATE, Code.FACE_TWICE)]
    raw = RawRow(1, SOUND | {Field.LIVE: ""}, np.ones(3, np.float32))
    (row,) = RowReader(ReadingTerms(outlets=OUTLETS, now=NOW)).read([raw])
    assert row.faults == ()


def test_neither_rows_nor_faults_show_a_value() -> None:
    row = read_row({Field.DOCUMENT_NUMBER: "1234567", Field.TEMPLATE: "secret-token"})
    shown = repr(row) + repr(RawRow(1, SOUND))
    for value in ("1234567", NUMBER, "Aileen", "13800138000", "a.jpg", "secret-token"):
        assert value not in shown


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
