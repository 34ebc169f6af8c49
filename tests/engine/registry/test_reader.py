"""Batched reads of the registry, those of sweeps too, and the audit trail by filter."""

import sys
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Select, event, select

from engine.errors import NotFound, RegistryError
from engine.registry import audit
from engine.registry import writer as writers
from engine.registry.accounts import Outlet
from engine.registry.audit import AuditEntry, read_audit, verify_chain
from engine.registry.database import Moment, new_id, prepare, utc_now
from engine.registry.documents import DOCUMENTS
from engine.registry.lines import LineChange
from engine.registry.references import NewReference, RemovedReference
from engine.registry.watchlist import RemovedWatchEntry, WatchEntry
from schema.cases import CaseState
from schema.documents import DocumentStatus
from schema.lines import LineEventKind, LineStatus
from schema.sweeps import Identity, LineFact
from tests.engine.records import make_case
from tests.engine.registry.conftest import ENTRY, committed


def test_everything_committed_is_read_back_as_it_was(store, writer, enroll) -> None:
    changes = committed(writer, enroll(writer, 3))
    for document, reference, line, enrollment, answer in zip(
        changes.documents,
        changes.references,
        changes.lines,
        changes.enrollments,
        changes.idempotency,
        strict=True,
    ):
        record = store.documents([document.lookup])[document.lookup]
        assert (record.id, record.kind, record.name_lookup) == (
            document.id,
            document.kind,
            document.name_lookup,
        )
        assert record.expires_on == date(2031, 2, 3)
        assert record.status is DocumentStatus.ACTIVE
        assert record.reference_ids == (reference.id,)
        assert store.documents_by_id([document.id]) == {document.id: record}
        assert store.document(document.id) == record
        assert store.identity(document.id) == document.identity
        assert store.enrollment(enrollment.id) == enrollment
        assert store.answers([answer.scope]) == {answer.scope: answer}
        (found,) = store.lines_of(document.id)
        assert store.lines_in_use([line.msisdn_lookup]) == {line.msisdn_lookup: found}
        assert (found.id, found.opened_at, found.status) == (
            line.id,
            line.opened_at,
            LineStatus.ACTIVE,
        )
        assert store.lines_by_id([line.id]) == {line.id: found}
        assert store.numbers([line.id]) == {line.id: line.msisdn}


def test_unknown_enrollment_document_or_sweep_is_not_found(store) -> None:
    for ask in (store.enrollment, store.document, store.sweeps.get):
        for key in (new_id(), "", "x", "../../etc", "a\0b", "\udcff", "0" * 100_000):
            with pytest.raises(NotFound):
                ask(key)
    with pytest.raises(NotFound):
        store.identity(new_id())


def test_look_ups_of_many_keys_are_whole(store, writer, enroll) -> None:
    changes = committed(writer, enroll(writer, 1203))
    lookups = [document.lookup for document in changes.documents]
    assert set(store.documents([*lookups, *lookups, b"unknown"])) == set(lookups)
    wanted = {row.id: row.document_id for row in changes.references}
    assert store.documents_of([np.int64(key) for key in wanted]) == wanted


def test_references_of_one_sequence_are_not_split_by_a_chunk(
    store, writer, enroll, monkeypatch
) -> None:
    monkeypatch.setattr("engine.registry.references.TEMPLATES_PER_CHUNK", 4)
    changes = enroll(writer, 10)
    together = [replace(row, sequence=10) for row in changes.references]
    others = [one for one in changes if not isinstance(one, NewReference)]
    writer.commit([*others, *together])
    found = [key for chunk in store.references() for key in chunk.ids.tolist()]
    assert found == [row.id for row in together]
    assert list(store.references(after_sequence=10)) == []


def test_neither_a_restart_nor_a_count_reads_all_references(store, writer, enroll) -> None:
    """With their templates ten million are 12 GB."""
    if store._engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL reads small tables whole, whatever their indexes")
    writer.commit(enroll(writer, 3))
    writer.commit([ENTRY, RemovedReference(np.int64(1), 4)])
    asked: list[tuple[str, Any]] = []

    def keep(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        asked.append((statement, values))

    event.listen(store._engine, "before_cursor_execute", keep)
    assert store.removals(0).tolist() == [1]
    assert store.counts()["live_references"] == 2
    assert store.live_total() == (2, 5)
    event.remove(store._engine, "before_cursor_execute", keep)
    with store._engine.connect() as connection:
        steps = [
            step.detail
            for statement, values in asked
            for step in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
        ]
    of_references = [step for step in steps if "references" in step]
    assert len(of_references) >= 5
    assert all("COVERING INDEX" in step for step in of_references)


def test_the_lines_in_use_of_many_documents_are_read_at_once(store, writer, enroll) -> None:
    changes = committed(writer, enroll(writer, 3))
    first, second, third = changes.lines
    writer.commit([ENTRY, LineChange([second.id], LineEventKind.CLOSED, "test", "test")])
    more = replace(
        enroll(writer, 1, first=3).lines[0], document_id=first.document_id, enrollment_id=None
    )
    writer.commit([ENTRY, more])
    asked = [third.document_id, second.document_id, first.document_id, "x"]
    found = store.lines_in_use_of(asked)
    assert {key: [line.id for line in lines] for key, lines in found.items()} == {
        third.document_id: [third.id],
        second.document_id: [],
        first.document_id: [line.id for line in store.lines_of(first.document_id)],
        "x": [],
    }
    assert len(found[first.document_id]) == 2


def test_outlets_know_their_carrier_its_limit_and_whether_they_are_open(store) -> None:
    assert store.outlets(["r1", "b1", "x"]) == {
        "r1": Outlet("r1", "red", is_open=True, line_limit=5),
        "b1": Outlet("b1", "blue", is_open=True, line_limit=2),
    }
    store.close_outlet("r1", actor="test")
    assert not store.outlets(["r1"])["r1"].is_open


def test_outlet_or_carrier_is_added_once_and_to_a_known_carrier(store) -> None:
    before = store.counts()
    with pytest.raises(RegistryError, match="r1"):
        store.add_outlet("r1", "red", actor="test")
    with pytest.raises(RegistryError, match="r9"):
        store.add_outlet("r9", "unknown", actor="test")
    with pytest.raises(NotFound):
        store.close_outlet("r9", actor="test")
    assert store.counts() == before


def test_watch_list_holds_faces_and_documents_until_they_are_removed_and_gives_no_id_again(
    store, writer, random_units
) -> None:
    face = writer.vault.rotate(random_units(1))[0]
    lookup = writer.vault.look_up("document:passport", "X1")
    reason = "x" * 200
    entries = [
        WatchEntry(writer.next_watch_id(), None, face, reason, utc_now()),
        WatchEntry(writer.next_watch_id(), lookup, None, "stolen", utc_now()),
    ]
    writer.commit([ENTRY, *entries])
    by_face, by_document = store.watchlist()
    assert np.array_equal(by_face.template, face)
    assert (by_face.id, by_face.document_lookup, by_face.reason) == (1, None, reason)
    assert by_document.template is None
    assert (by_document.id, by_document.document_lookup) == (2, lookup)
    writer.commit([ENTRY, RemovedWatchEntry(1), RemovedWatchEntry(2)])
    assert store.watchlist() == []
    writer.close()
    with store.writer() as again:
        assert again.next_watch_id() == 3


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_bulk_load_leaves_statistics_that_keep_look_ups_quick(
    store, writer, enroll, monkeypatch
) -> None:
    monkeypatch.setattr(writers, "BULK_WRITES", 300)
    writer.commit(enroll(writer, 300))
    with store._engine.connect() as connection:
        counted = connection.exec_driver_sql(
            "SELECT reltuples FROM pg_class WHERE relname IN ('documents', 'references', 'lines')"
        )
        assert [row.reltuples for row in counted] == [300, 300, 300]


DOCUMENT = new_id()
ENTRIES = [
    AuditEntry(f"actor {number % 2}", f"action.{number % 3}", f"subject {number}", {"n": number})
    for number in range(20)
]
# As a search of the gallery, a closing by a case and a step at an outlet name what they are about.
ENTRIES[4] = replace(ENTRIES[4], detail={"documents": [new_id(), DOCUMENT]})
ENTRIES[9] = replace(ENTRIES[9], detail={"cause": f"case:{DOCUMENT}"})
ENTRIES[15] = replace(ENTRIES[15], detail={"outlet": 'b_1 "é"'})


@pytest.fixture
def start(store, writer, monkeypatch) -> int:
    """The number before the first of 20 entries; a read looks through 7 at a time."""
    monkeypatch.setattr(audit, "WINDOW_ENTRIES", 7)
    before = store.audit_head()[0]
    writer.commit([*ENTRIES])
    return before


def numbers(found: list[Any], start: int) -> list[int]:
    return [record.number - start - 1 for record in found]


def test_pages_follow_one_another_and_leave_nothing_out(store, start) -> None:
    seen, after = [], start
    while page := read_audit(store, after, 6):
        seen += [record.entry for record in page]
        after = page[-1].number
    assert seen == ENTRIES


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"action": "action.1"}, [1, 4, 7, 10, 13, 16, 19]),
        ({"actor": "actor 1", "action": "action.0"}, [3, 9, 15]),
        ({"subject": "subject 11"}, [11]),
        ({"subject": "subject"}, []),
        ({"subject": DOCUMENT}, [4, 9]),
        ({"subject": DOCUMENT, "actor": "actor 0"}, [4]),
        ({"subject": DOCUMENT[:8]}, []),
        ({"subject": 'b_1 "é"'}, [15]),
        ({"subject": "b_"}, []),
        ({"action": "action.%"}, []),
    ],
)
def test_filters_match_exactly_and_all_at_once(
    filters: dict[str, str], wanted: list[int], store, start
) -> None:
    assert numbers(read_audit(store, start, 100, **filters), start) == wanted
    assert numbers(read_audit(store, None, 100, **filters), start) == wanted
    assert numbers(read_audit(store, start, 2, **filters), start) == wanted[:2]
    assert numbers(read_audit(store, None, 2, **filters), start) == wanted[-2:]


def test_above_the_end_there_is_nothing(store, start) -> None:
    assert read_audit(store, store.audit_head()[0], 10) == []
    assert read_audit(store, 10**15, 10) == []


def test_progress_is_told_of_a_long_chain(store, start, monkeypatch) -> None:
    monkeypatch.setattr(audit, "_PAGE_ROWS", 5)
    told: list[tuple[int, int]] = []
    verify_chain(store, progress=lambda done, total: told.append((done, total)))
    total = store.audit_head()[0]
    assert told == [(done, total) for done in range(5, total + 1, 5)]


def test_the_newest_attempts_of_each_document_are_read(store, writer, enroll) -> None:
    enrolled = committed(writer, enroll(writer, 3))
    first, second, third = enrolled.enrollments
    later = [
        replace(
            first,
            id=new_id(),
            decision="rejected",
            reasons=("FACE_MISMATCH",),
            created_at=first.created_at + timedelta(minutes=minute),
        )
        for minute in (3, 1, 2)
    ]
    entry = AuditEntry("test", "test.attempted", first.document_id)
    writer.commit([entry, *later])
    asked = [second.document_id, first.document_id, new_id()]
    found = store.attempts_of(asked, most=3)
    assert list(found) == asked
    newest = [later[0].id, later[2].id, later[1].id]
    assert [one.id for one in found[first.document_id]] == newest
    assert [one.id for one in found[second.document_id]] == [second.id]
    assert found[asked[2]] == []
    shown = found[first.document_id][0]
    assert (shown.decision, shown.reasons) == ("rejected", ("FACE_MISMATCH",))
    assert (shown.carrier, shown.outlet) == (first.carrier, first.outlet)
    assert shown.created_at == later[0].created_at
    assert third.document_id not in found


def test_the_driver_finds_by_keys_what_sqlalchemy_finds(store, writer, enroll) -> None:
    """Every query by keys of the registry, with values of each column's kind."""
    writer.commit(enroll(writer, 3))
    modules = [one for name, one in sys.modules.items() if name.startswith("engine.registry.")]
    found = [one for module in modules for one in vars(module).values() if isinstance(one, Select)]
    queries = {query for query in found if "keys" in query.compile().binds}
    now, told = utc_now(), 0
    with store.engine.connect() as connection:
        ids = [row.id for row in connection.execute(select(DOCUMENTS.c.id))]
        lookups = [row.lookup for row in connection.execute(select(DOCUMENTS.c.lookup))]
        given = {str: ids, int: [1, 2, 3], bytes: lookups}
        others = {str: "", int: 5, float: 5.0, Moment: now, bytes: b"", bool: False}
        for query in queries:
            values = {
                name: given[kind] if bind.expanding else others.get(kind, 5)
                for name, bind in query.compile().binds.items()
                if bind.required
                for kind in (Moment if isinstance(bind.type, Moment) else bind.type.python_type,)
            }
            rows = prepare(query, connection, values).find(connection, values)
            known = connection.execute(query, values).all()
            assert [(*row,) for row in rows] == [(*row,) for row in known]
            assert [row._mapping for row in rows] == [row._mapping for row in known]
            told += len(rows)
    assert len(queries) > 30
    assert told > 20


def fact_of(line, status: str = "active") -> LineFact:
    return LineFact(line.id, line.carrier, line.outlet, line.opened_at, status)


def another_reference(writer, changes, place: int) -> NewReference:
    """One more of the document at this place."""
    return replace(
        changes.references[place],
        id=writer.next_reference_id(),
        sequence=changes.references[-1].sequence,
    )


def test_identities_have_the_references_asked_all_lines_and_open_disputes(
    store, writer, enroll
) -> None:
    changes = enroll(writer, 4)
    one, two, three, four = changes.documents
    second = another_reference(writer, changes, 0)
    later = replace(
        changes.lines[0], id=new_id(), msisdn_lookup=b"y", opened_at=utc_now(), outlet="r2"
    )
    disputes = [
        make_case(kind=kind, state=state, document_ids=(one.id,))
        for kind, state in (
            ("dispute", CaseState.ASSIGNED),
            ("dispute", CaseState.CLOSED),
            ("duplicate_identity", CaseState.OPEN),
        )
    ]
    writer.commit([*changes, second, later, *disputes])
    removed = changes.references[2].id
    writer.commit(
        [
            ENTRY,
            RemovedReference(removed, 5),
            LineChange([changes.lines[1].id], LineEventKind.CLOSED, "test", "test"),
        ]
    )
    keys = [reference.id for reference in changes.references]
    asked = [second.id, keys[1], keys[0], removed, 10**6, keys[1]]
    assert store.facts.identities_of(asked) == [
        Identity(
            one.id, (keys[0], second.id), (fact_of(changes.lines[0]), fact_of(later)), disputes=1
        ),
        Identity(two.id, (keys[1],), (fact_of(changes.lines[1], "closed"),)),
    ]
    assert store.facts.identities_of([second.id])[0].reference_ids == (second.id,)
    assert store.facts.identities_of([]) == []
    assert {three.id, four.id}.isdisjoint(
        one.document_id for one in store.facts.identities_of(asked)
    )


def test_owners_are_of_every_live_reference_ascending_whatever_the_page(
    store, writer, enroll, monkeypatch
) -> None:
    empty = store.facts.document_owner_array()
    assert [part.dtype for part in empty] == [np.int64, np.int64]
    assert [len(part) for part in empty] == [0, 0]
    changes = enroll(writer, 7)
    extra = [another_reference(writer, changes, place) for place in (3, 0)]
    writer.commit([*changes, *extra])
    gone = changes.references[4].id
    writer.commit([ENTRY, RemovedReference(gone, 8)])
    for page in (1, 3, 8, 50_000):
        monkeypatch.setattr("engine.registry.sweeps.OWNERS_PER_PAGE", page)
        ids, numbers = store.facts.document_owner_array()
        assert ids.tolist() == sorted({*range(1, 10)} - {gone})
        owners = store.documents_of(ids.tolist())
        told = list(zip(ids.tolist(), numbers.tolist(), strict=True))
        for left, one in told:
            for right, other in told:
                assert (one == other) == (owners[left] == owners[right])
