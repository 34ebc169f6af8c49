import csv
import stat
from pathlib import Path

import pytest

from engine.errors import RequestError
from engine.imports.import_report import FaultReport
from engine.imports.row_parser import Code, Columns, Field, RowFault
from schema.reasons import Reason

COLUMNS = Columns({Field.NAME: 0}, {Field.NAME: "name"})
MISSING = RowFault(Field.NAME, Code.VALUE_MISSING)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path: Path, faults: dict[int, tuple[RowFault, ...]], *known: int) -> None:
    report = FaultReport(path, COLUMNS, *known)
    report.add(list(faults), list(faults.values()))


def test_a_line_for_each_fault_with_row_column_and_code(tmp_path) -> None:
    path = tmp_path / "report.csv"
    warning = RowFault(None, Reason.WATCHLISTED, is_failure=False)
    write(path, {3: (MISSING,), 4: (), 5: (MISSING, warning)})
    rows = read(path)
    assert [(one["row"], one["severity"], one["column"], one["code"]) for one in rows] == [
        ("3", "failure", "name", "VALUE_MISSING"),
        ("5", "failure", "name", "VALUE_MISSING"),
        ("5", "warning", "", "WATCHLISTED"),
    ]
    assert rows[0]["message"] == Code.VALUE_MISSING.value
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "name", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\tx", " =1+1", "\uff1d1", "a,=b", '"=1"']
)
def test_no_cell_is_a_formula(name: str, tmp_path) -> None:
    path = tmp_path / "report.csv"
    report = FaultReport(path, Columns({Field.NAME: 0}, {Field.NAME: name}))
    report.add([1], [(MISSING,)])
    cell = read(path)[0]["column"]
    assert cell.removeprefix("'") == name
    assert cell.lstrip()[0] not in "=+-@\uff1d\uff0b\uff0d\uff20\t"


def test_it_continues_after_what_the_journal_knows(tmp_path) -> None:
    path = tmp_path / "report.csv"
    first = FaultReport(path, COLUMNS)
    first.add([1], [(MISSING,)])
    known = first.size_bytes
    first.add([2], [(MISSING,)])
    write(path, {2: (MISSING,), 3: (MISSING,)}, known)
    assert [one["row"] for one in read(path)] == ["1", "2", "3"]


def test_a_report_that_was_cut_or_removed_is_refused(tmp_path) -> None:
    with pytest.raises(RequestError, match="--no-resume"):
        FaultReport(tmp_path / "report.csv", COLUMNS, 10_000)


def test_an_earlier_report_is_replaced_and_nothing_else_is(tmp_path) -> None:
    path = tmp_path / "report.csv"
    for _ in range(2):
        write(path, {1: (MISSING,)})
    assert len(read(path)) == 1
    other = tmp_path / "customers.csv"
    other.write_text("name\nAileen\n")
    with pytest.raises(RequestError, match="is not an import report"):
        FaultReport(other, COLUMNS)
    assert other.read_text() == "name\nAileen\n"


def test_a_path_that_cannot_be_written_is_refused(tmp_path) -> None:
    with pytest.raises(RequestError, match="cannot be"):
        FaultReport(tmp_path / "none" / "report.csv", COLUMNS)


def test_every_reason_has_a_message() -> None:
    never_reported = {
        Reason.DOCUMENT_EXPIRED,
        Reason.DUPLICATE_IDENTITY,
        Reason.LIVE_FRAMES_DIFFER,
        Reason.NOT_SEARCHED,
        Reason.POSSIBLE_DUPLICATE,
        Reason.LINE_LIMIT_REACHED,
        Reason.PERSON_LIMIT_REACHED,
        Reason.CHANNEL_LIMIT_REACHED,
        Reason.DAY_LIMIT_REACHED,
        Reason.APPROVAL_MISSING,
        *(
            one
            for one in Reason
            if one.startswith(("LIVENESS_", "GUARDIAN_", "EXCEPTION_", "PROOF_", "AUTHORITY_"))
        ),
        Reason.BIRTH_DATE_MISSING,
        Reason.REPLACEMENT_REFUSED,
        Reason.REPLACEMENT_ASKED,
        Reason.DECEASED_LOOK_ALIKE,
    }
    assert all(RowFault(None, one).message for one in set(Reason) - never_reported)
