"""Tables for analysts: their rows, and cells that no spreadsheet evaluates."""

import csv
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyarrow import parquet

from engine.registry.enrollments import LivenessCount
from engine.spreadsheets import save_table
from engine.sweeps.outputs import group_table, liveness_table, pair_table, seller_table, write_table
from engine.sweeps.risk import rank_outlets, summarise
from schema.cases import Outcome
from schema.sweeps import Group, GroupKind, Identity, LineFact, Link, RiskTerm
from tests.engine.records import make_group
from tests.engine.sweeps.test_clustering import pairs

OPENED = datetime(2024, 3, 4, 5, tzinfo=UTC)


def identity(document: str, references: Sequence[int], *carriers: str) -> Identity:
    lines = tuple(
        LineFact(f"{document}-{number}", carrier, f"{carrier}-1", OPENED, "active")
        for number, carrier in enumerate(carriers)
    )
    return Identity(document, tuple(references), lines)


A, B, C = identity("a", [1, 4], "north"), identity("b", [2], "north", "south"), identity("c", [3])


def group(outlet: str = "n-1") -> Group:
    lines = (LineFact("l1", "north", outlet, OPENED, "active"),)
    people = Identity("a", (1,), lines, 1), Identity("b", (2,))
    terms = RiskTerm("identities", 2.0, 12.0), RiskTerm("disputes", 1.0, 9.0)
    return make_group("g1", *people, links=(Link("a", "b", 0.75),), risk=21.0, terms=terms)


def read_csv(path: Path) -> list[Mapping[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_a_pair_names_both_documents_and_their_facts() -> None:
    table = pair_table(pairs((1, 2, 0.6), (2, 3, 0.9)), [A, B, C], {("a", "b"): Outcome.FRAUD})
    assert table.to_pylist() == [
        {
            "left_document": "b",
            "right_document": "c",
            "left_reference": 2,
            "right_reference": 3,
            "score": pytest.approx(0.9),
            "same_carrier": None,
            "outcome": None,
        },
        {
            "left_document": "a",
            "right_document": "b",
            "left_reference": 1,
            "right_reference": 2,
            "score": pytest.approx(0.6),
            "same_carrier": True,
            "outcome": "fraud",
        },
    ]


def test_an_outcome_is_found_whichever_document_has_the_lower_reference() -> None:
    table = pair_table(pairs((2, 4, 0.6)), [A, B], {("a", "b"): Outcome.TWINS})
    assert table["left_document"].to_pylist() == ["b"]
    assert table["outcome"].to_pylist() == ["twins"]


def test_carriers_that_differ_are_not_the_same() -> None:
    others = [identity("a", [1], "north"), identity("b", [2], "south")]
    assert pair_table(pairs((1, 2, 0.6)), others, {})["same_carrier"].to_pylist() == [False]


def test_a_pair_with_an_erased_person_is_left_out() -> None:
    table = pair_table(pairs((1, 2, 0.6), (1, 9, 0.9)), [A, B], {})
    assert table["right_reference"].to_pylist() == [2]


def test_no_pair_and_no_group_are_tables_without_rows(tmp_path) -> None:
    write_table(tmp_path, "pairs", pair_table(pairs(), [], {}), {})
    write_table(tmp_path, "groups", group_table([], {}), {})
    save_table(tmp_path / "outlets.csv", seller_table(summarise([]).outlets))
    assert parquet.read_table(tmp_path / "pairs.parquet").num_rows == 0
    assert parquet.read_table(tmp_path / "groups.parquet").num_rows == 0
    assert read_csv(tmp_path / "outlets.csv") == []


def test_a_group_is_a_row_with_its_terms_spelled_out() -> None:
    (row,) = group_table([group()], {"g1": "case-1"}).to_pylist()
    assert row["key"] == "g1"
    assert row["rank"] == 1
    assert row["case"] == "case-1"
    assert row["documents"] == ["a", "b"]
    assert row["line_ids"] == ["l1"]
    assert (row["identities"], row["lines"], row["open_disputes"], row["links"]) == (2, 1, 1, 1)
    assert row["risk_terms"] == ["identities 2 = 12", "disputes 1 = 9"]
    assert (row["weakest_left"], row["weakest_right"]) == ("a", "b")
    assert row["weakest_score"] == row["highest_score"] == pytest.approx(0.75)
    assert row["first_opened"] == row["last_opened"] == OPENED


def test_a_group_without_links_and_lines_has_no_score_and_no_date() -> None:
    bare = make_group("d", Identity("a", (1,)), kind=GroupKind.ONE_DOCUMENT)
    (row,) = group_table([bare], {}).to_pylist()
    assert row["highest_score"] is row["weakest_score"] is row["weakest_left"] is None
    assert row["first_opened"] is row["last_opened"] is row["case"] is None


def test_parquet_keeps_texts_and_describes_the_sweep(tmp_path) -> None:
    table = group_table([group("=cmd|' /C calc'!A0")], {})
    write_table(tmp_path, "groups", table, {"sweep": "s1", "sequence": "7"})
    table = parquet.read_table(tmp_path / "groups.parquet")
    assert table["outlets"].to_pylist() == [["=cmd|' /C calc'!A0"]]
    assert table.schema.metadata[b"sosie.sweep"] == b"s1"
    assert table.schema.metadata[b"sosie.sequence"] == b"7"


def test_files_are_their_owners_alone(tmp_path) -> None:
    write_table(tmp_path, "groups", group_table([group()], {}), {})
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"groups.parquet": 0o600, "groups.csv": 0o600}


def test_csv_keeps_every_text(tmp_path) -> None:
    save_table(tmp_path / "groups.csv", group_table([group('東京, \u202e\n"x"')], {}))
    (row,) = read_csv(tmp_path / "groups.csv")
    assert row["outlets"] == '東京, \u202e\n"x"'


@pytest.mark.parametrize(
    "harmful",
    [
        "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "\u00a0+1", "\u200b-1",
        "\ufeff@SUM(A1)", "\u202e=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff201", "\ttab",
        "\rreturn",
    ],
)  # fmt: skip
def test_a_cell_that_would_be_evaluated_is_led_by_an_apostrophe(tmp_path, harmful: str) -> None:
    save_table(tmp_path / "groups.csv", group_table([group(harmful)], {"g1": harmful}))
    (row,) = read_csv(tmp_path / "groups.csv")
    assert row["case"] == f"'{harmful}"
    assert row["outlets"] == f"'{harmful}"


def test_outlets_and_carriers_are_summed_up(tmp_path) -> None:
    summary = summarise([group("-n1")])
    save_table(tmp_path / "outlets.csv", seller_table(summary.outlets))
    (outlet,) = read_csv(tmp_path / "outlets.csv")
    (carrier,) = seller_table(summary.carriers).to_pylist()
    assert (outlet["carrier"], outlet["outlet"], outlet["lines"]) == ("north", "'-n1", "1")
    assert (carrier["carrier"], carrier["lines"], carrier["highest_risk"]) == ("north", 1, 21)


def test_outlets_where_liveness_failed_are_a_table(tmp_path) -> None:
    outlets = rank_outlets([LivenessCount("north", "=n1", True, 10, 4)])
    save_table(tmp_path / "liveness.csv", liveness_table(outlets))
    (row,) = read_csv(tmp_path / "liveness.csv")
    assert (row["outlet"], row["judged"], row["judged_failed"]) == ("'=n1", "10", "4")
    assert (row["signed"], row["signed_failed"]) == ("0", "0")
    save_table(tmp_path / "liveness.csv", liveness_table([]))
    assert read_csv(tmp_path / "liveness.csv") == []
