"""Lists for a regulator: who counts as one person, over which lines, and what a file shows."""

from typing import Any

import pytest
from pyarrow import csv, parquet

from engine.errors import RequestError
from engine.statutory.lists import (
    BUILT_IN,
    OUTLET_FIELDS,
    PERSON_FIELDS,
    Layout,
    Scope,
    list_outlets,
    list_people,
    read_layout,
    write_list,
)
from schema.cases import Outcome
from tests.engine.cases.conftest import Service, lab, make_lab, make_pair, people, service

__all__ = ["lab", "make_lab", "make_pair", "people", "service"]

OWN = """
lists = "people"
title = "Own"
most_lines = 1
[columns]
"=Name" = "name"
"Number" = "number"
"Cases" = "cases"
"""


def open_lines(service: Service, count: int, name: str = "Many Lines") -> str:
    """A holder with so many lines; the document's id."""
    face = service.lab.people.person()
    first = service.lab.request(face)
    document = type(first.document)(first.document.type, first.document.number, name)
    requests = [service.lab.request(face, document=document) for _ in range(count)]
    answers = service.registrar.enroll(requests)
    assert {one.decision.value for one in answers} == {"approved"}
    return str(answers[0].decided.document_id)


def people_of(service: Service, **values: Any) -> Any:
    columns = {name: name for name in PERSON_FIELDS}
    layout = Layout(lists="people", title="t", columns=columns, **values)
    return list_people(service.store, layout, str, str)


def test_documents_of_one_confirmed_face_count_together_and_other_decisions_do_not(
    service, make_pair
) -> None:
    alone = open_lines(service, 3)
    one, two = make_pair()
    pair = [one.document_id, two.document_id]
    assert [row["document"] for row in people_of(service, most_lines=2).rows] == [alone] * 3
    assert people_of(service, most_lines=3).rows == []
    case = service.open(*pair)
    service.decide(case.id, Outcome.FRAUD)
    found = people_of(service, most_lines=1)
    assert (found.people, found.subjects) == (2, sorted([alone, *pair]))
    both = [row for row in found.rows if row["person"] == 2]
    assert {row["document"] for row in both} == set(pair)
    assert {(row["person_lines"], row["person_documents"], row["lines_over"]) for row in both} == {
        (2, 2, 1)
    }
    assert {tuple(row["cases"]) for row in both} == {(case.id,)}
    # More than so many: who has just as many as allowed is not listed.
    assert people_of(service, most_lines=2).people == 1
    other = service.open(*pair)
    service.decide(other.id, Outcome.TWINS)
    assert people_of(service, most_lines=1).people == 1
    # Of each carrier its lines alone.
    each = people_of(service, most_lines=2, scope=Scope.EACH_CARRIER)
    assert (each.people, {row["carrier"] for row in each.rows}) == (1, {"blue"})
    assert people_of(service, most_lines=3, scope=Scope.EACH_CARRIER).people == 0


def test_outlets_are_listed_by_cases_of_confirmed_fraud(service, make_pair) -> None:
    layout = read_layout("outlets", "outlets", OUTLET_FIELDS)
    assert list_outlets(service.store, layout).rows == []
    one, two = make_pair()
    case = service.open(one.document_id, two.document_id)
    service.decide(case.id, Outcome.FRAUD)
    found = list_outlets(service.store, layout)
    [row] = found.rows
    assert (row["outlet"], row["cases"], row["documents"], row["lines"]) == ("blue-1", 1, 2, 2)
    assert (row["outlet_lines"], row["share"], row["case_ids"]) == (2, 1.0, [case.id])
    assert list_outlets(service.store, Layout("outlets", "t", {}, least_cases=2)).rows == []


def test_a_file_is_written_as_its_layout_says_and_no_spreadsheet_computes_it(
    service, tmp_path
) -> None:
    own = tmp_path / "own.toml"
    own.write_text(OWN)
    layout = read_layout(str(own), "people", PERSON_FIELDS)
    open_lines(service, 2, name='=HYPERLINK("http://x")')
    found = list_people(service.store, layout, str, str)
    for suffix in (".csv", ".parquet"):
        path = tmp_path / f"list{suffix}"
        write_list(path, found, layout, PERSON_FIELDS)
        assert path.stat().st_mode & 0o777 == 0o600
    table = parquet.read_table(tmp_path / "list.parquet")
    assert table.column_names == ["=Name", "Number", "Cases"]
    assert table["=Name"].to_pylist() == ['=HYPERLINK("http://x")'] * 2
    shown = csv.read_csv(tmp_path / "list.csv")
    assert shown.column_names == ["'=Name", "Number", "Cases"]
    assert shown["'=Name"].to_pylist() == ['\'=HYPERLINK("http://x")'] * 2
    assert all(str(one).startswith("'+86") for one in shown["Number"].to_pylist())


@pytest.mark.parametrize("name", [*BUILT_IN["people"], *BUILT_IN["outlets"]])
def test_each_built_in_layout_can_be_read(name: str) -> None:
    kind = "outlets" if name == "outlets" else "people"
    layout = read_layout(name, kind, PERSON_FIELDS if kind == "people" else OUTLET_FIELDS)
    limits = {"india": 9, "philippines": 5, "indonesia": 3, "outlets": 0}
    assert layout.most_lines == limits[name]
    assert (layout.scope is Scope.EACH_CARRIER) == (name == "indonesia")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("lists = 1", "no layout"),
        ("[columns", "no layout"),
        (OWN.replace('"name"', '"template"'), "not known"),
        (OWN.replace('"people"', '"outlets"'), "lists outlets"),
    ],
)
def test_a_layout_that_is_none_is_refused(text: str, word: str, tmp_path) -> None:
    file = tmp_path / "layout.toml"
    file.write_text(text)
    with pytest.raises(RequestError, match=word):
        read_layout(str(file), "people", PERSON_FIELDS)
    with pytest.raises(RequestError, match="name one of india"):
        read_layout("moon", "people", PERSON_FIELDS)
