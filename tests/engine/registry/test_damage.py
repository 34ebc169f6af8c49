"""Damage of the database is found, on both databases."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, text, update

from engine.registry.audit import AuditEntry
from engine.registry.cases import CaseChange
from engine.registry.columns import metadata
from engine.registry.damage import find_damage, is_torn
from engine.registry.rows import Transaction
from engine.registry.store import Store
from schema.cases import CaseState, Outcome
from tests.engine.records import make_case
from tests.engine.registry.conftest import MODEL, NOW, Writes, committed, erasure
from tests.tables import tables


@pytest.fixture
def filled(store, writer, enroll) -> Any:
    made = committed(writer, enroll(writer, 30))
    for place in range(3):
        writer.commit(erasure(made, place, writer.sequence + 1))
    ids = [one.id for one in made.documents]
    cases = [make_case(document_ids=(ids[at], ids[at + 1], ids[at])) for at in (5, 6, 8)]
    first, second, _ = cases
    merged = replace(second, state=CaseState.MERGED, merged_into=first.id)
    closed = replace(
        first,
        state=CaseState.CLOSED,
        outcome=Outcome.TWINS,
        closed_at=NOW,
        document_ids=tuple(ids[5:9]),
    )
    steps = {"closed": closed, "merged": merged}
    opened = [AuditEntry("test", "case.opened", one.id) for one in cases]
    writer.commit([*opened, *cases])
    ended = [AuditEntry("test", f"case.{what}", one.id) for what, one in steps.items()]
    writer.commit([*ended, CaseChange(closed), CaseChange(merged)])
    return Writes([*made, closed, merged, cases[2]])


def _change(store: Store, statement: Any) -> None:
    with store.engine.begin() as connection:
        if store.engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
        connection.execute(statement)


def drop_a_decision(store: Store, filled: Any) -> None:
    key = filled.enrollments[7].id
    for table in (tables.lines, tables.idempotency, tables.references):
        _change(store, delete(table).where(table.c.enrollment_id == key))
    _change(store, delete(tables.enrollments).where(tables.enrollments.c.id == key))


def drop_a_document_of_a_case(store: Store, filled: Any) -> None:
    of_case = tables.case_documents.c.case_id == filled.cases[2].id
    document = tables.case_documents.c.document_id == filled.documents[8].id
    _change(store, delete(tables.case_documents).where(of_case, document))


def drop_all_documents_of_cases(store: Store, _: Any) -> None:
    _change(store, delete(tables.case_documents))


def add_a_document_to_a_case(store: Store, filled: Any) -> None:
    row = {"case_id": filled.cases[2].id, "document_id": filled.documents[20].id}
    _change(store, insert(tables.case_documents).values(row))


def drop_a_case(store: Store, filled: Any) -> None:
    drop_all_documents_of_cases(store, filled)
    _change(store, delete(tables.cases).where(tables.cases.c.id == filled.cases[2].id))


def open_a_closed_case(store: Store, filled: Any) -> None:
    """As it was a moment before, with the right code."""
    with store.engine.begin() as connection:
        case = replace(filled.cases[0], state=CaseState.OPEN, outcome=None, closed_at=None)
        to = Transaction(connection, store.vault, MODEL, NOW)
        CaseChange.store(to, [CaseChange(case)])


def add_an_outlet(store: Store, _: Any) -> None:
    _change(
        store,
        text(
            "INSERT INTO outlets (code, carrier, is_open, created_at) "
            "VALUES ('forged', 'red', true, '2026-01-01T00:00:00.000000Z')"
        ),
    )


def alter(name: str, **values: Any) -> Callable[..., None]:
    """Alters one row of a table."""

    def change(store: Store, filled: Any) -> None:
        table = metadata.tables[name]
        _change(
            store, update(table).where(table.c.id == getattr(filled, name)[9].id).values(values)
        )

    return change


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (drop_a_decision, "is not there, and the audit chain has its decision"),
        (alter("enrollments", decision="rejected"), "another decision than the audit chain"),
        (alter("references", template=bytes(100)), "references.template of row"),
        (alter("documents", lookup=bytes(32)), "not under the look-up"),
        (alter("references", model_digest="another"), "of another model"),
        (alter("lines", msisdn_lookup=bytes(32)), "not under the look-up"),
        (drop_a_document_of_a_case, "1 documents are not there, and 0"),
        (drop_all_documents_of_cases, "4 documents are not there, and 0"),
        (add_a_document_to_a_case, "0 documents are not there, and 1"),
        (drop_a_case, "is not as case.opened in the audit chain says"),
        (open_a_closed_case, "is not as case.closed in the audit chain says"),
        (add_an_outlet, "outlets: 4 rows, and 3 entries"),
        (alter("lines", opened_at=text("'2026-13-01'")), "lines: row"),
    ],
)
def test_damage_of_a_row_is_found_and_no_value_is_told(
    store, filled, spoil: Callable[..., None], words: str
) -> None:
    spoil(store, filled)
    found = find_damage(store)
    assert [one for one in found if words in one], found
    told = "".join(found)
    for row in filled.documents:
        assert row.identity.number not in told
        assert row.identity.name not in told


def test_a_page_of_zeros_tears_the_structure(sqlite_url, vault) -> None:
    with Store.create(sqlite_url, vault, model_digest=MODEL) as store:
        [(page,)] = store.rows(text("SELECT rootpage FROM sqlite_master WHERE name = 'documents'"))
        [(size,)] = store.rows(text("PRAGMA page_size"))
    with Path(sqlite_url.removeprefix("sqlite:///")).open("r+b") as file:
        file.seek(size * (page - 1))
        file.write(bytes(size))
    with Store.open(sqlite_url, vault, model_digest=MODEL) as store:
        assert is_torn(find_damage(store))
