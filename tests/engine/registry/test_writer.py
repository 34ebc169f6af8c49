from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event
from typing import Any

import pytest
from sqlalchemy import Connection, text

from engine.errors import ChainBroken, LeaseLost, StorageFailed, StorageFull
from engine.registry import audit
from engine.registry.accounts import Carrier
from engine.registry.audit import verify_chain
from engine.registry.database import new_id
from engine.registry.documents import ActivatedDocument
from engine.registry.lines import LineChange
from engine.registry.references import RemovedReference
from engine.registry.retention import DocumentErasure
from engine.registry.store import Reader, Store
from schema.documents import DocumentStatus
from schema.lines import LineEventKind
from tests.engine.registry.conftest import ENTRY, MODEL, Writes, committed


def state_of(store: Store) -> tuple[object, ...]:
    gallery = [chunk.ids.tolist() for chunk in store.references()]
    documents = [row.status for row in store.documents_by_id(all_documents(store)).values()]
    return store.counts(), store.audit_head(), gallery, documents


def all_documents(store: Store) -> list[str]:
    references = [key for chunk in store.references() for key in chunk.ids.tolist()]
    return sorted(set(store.documents_of(references).values()))


SPOILT: dict[str, Callable[[Writes], list[Any]]] = {
    "a line twice": lambda made: [replace(made.lines[0], id=new_id()), *made],
    "a document twice": lambda made: [*made, replace(made.documents[0], id=new_id())],
    "an answer twice": lambda made: [*made, made.idempotency[0]],
    "an unknown outlet": lambda made: [*made[:-1], replace(made.enrollments[2], outlet="nowhere")],
    "no such line": lambda made: [
        *made,
        LineChange([new_id()], LineEventKind.CLOSED, "test", "test"),
    ],
    "removed before": lambda made: [*made, RemovedReference(1, 5), RemovedReference(1, 6)],
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_failed_commit_leaves_nothing_and_the_writer_goes_on(store, writer, enroll, spoil) -> None:
    writer.commit(enroll(writer, 2, first=100))
    before, sequence = state_of(store), writer.sequence
    changes = enroll(writer, 6)
    with pytest.raises(StorageFailed) as caught:
        writer.commit(spoil(changes))
    assert "\n" not in str(caught.value)
    assert state_of(store) == before
    assert writer.sequence == sequence
    writer.commit(changes)
    assert store.counts()["live_references"] == 8
    assert verify_chain(store).intact


def test_reference_ids_are_never_used_again(store, writer, enroll) -> None:
    writer.commit(enroll(writer, 3))
    writer.commit([ENTRY, RemovedReference(3, 4)])
    assert writer.next_reference_id() == 4
    writer.close()
    with store.writer() as again:
        assert again.sequence == 4
        assert again.next_reference_id() == 4


def test_document_is_not_erased_while_a_reference_lives(store, writer, enroll) -> None:
    changes = committed(writer, enroll(writer, 1))
    before = state_of(store)
    with pytest.raises(AssertionError):
        writer.commit([ENTRY, DocumentErasure(changes.documents[0].id, "test")])
    assert state_of(store) == before


def test_attempted_document_is_activated_once_with_what_was_approved(store, writer, enroll) -> None:
    changes = enroll(writer, 1)
    approved = changes.documents[0]
    other = replace(approved.identity, name="A. Nother")
    given = {"identity": other, "name_lookup": b"n", "status": DocumentStatus.ATTEMPTED}
    writer.commit([ENTRY, replace(approved, **given)])
    assert store.documents([approved.lookup])[approved.lookup].status is DocumentStatus.ATTEMPTED
    activation = [ENTRY, ActivatedDocument(approved)]
    writer.commit(activation)
    record = store.documents([approved.lookup])[approved.lookup]
    assert (record.status, record.name_lookup) == (DocumentStatus.ACTIVE, approved.name_lookup)
    assert store.identity(approved.id) == approved.identity
    with pytest.raises(StorageFailed, match="not there or was changed"):
        writer.commit(activation)


def test_nothing_changes_without_an_audit_entry(store, writer, enroll) -> None:
    changes = enroll(writer, 1)
    before = state_of(store)
    with pytest.raises(AssertionError):
        writer.commit(changes.documents)
    assert state_of(store) == before


def test_writer_that_is_behind_the_registry_commits_nothing(store, writer, enroll) -> None:
    writer.commit(enroll(writer, 3))
    with store._engine.begin() as connection:
        connection.execute(text("UPDATE deployment SET sequence = 4"))
    before = state_of(store)
    for changes in (enroll(writer, 1, first=3), [ENTRY]):
        with pytest.raises(ChainBroken):
            writer.commit(changes)
    assert state_of(store) == before


def test_audit_that_moved_under_a_transaction_undoes_it(store, writer, monkeypatch) -> None:
    append = audit.append

    def move(connection: Connection, records: list[audit.AuditRecord]) -> None:
        connection.exec_driver_sql("UPDATE deployment SET audit_number = audit_number + 1")
        append(connection, records)

    before = state_of(store)
    monkeypatch.setattr(audit, "append", move)
    with pytest.raises(LeaseLost):
        writer.commit([ENTRY])
    assert state_of(store) == before


def test_between_two_reads_over_one_connection_somebody_else_can_write(
    store, writer, enroll, listening
) -> None:
    opened: list[object] = []
    note = opened.append
    with listening(store, "checkout", lambda connection, *_: note(connection)):
        with Reader(writer.place, writer.vault).reading() as registry:
            assert registry.counts()["enrollments"] == 0
            taken = len(opened)
            assert registry.outlets(["r1", "b1"]) == store.outlets(["r1", "b1"])
            # On SQLite it would wait for a lock in vain.
            store.note(ENTRY)
            others = len(opened) - taken
            assert registry.audit_head() == store.audit_head()
            assert registry.answers([b"none"]) == {}
        assert others == 2, "of the store, one to read and one to write"
    writer.commit(enroll(writer, 1))
    with Reader(writer.place, writer.vault).reading() as registry:
        held = all_documents(store)
        assert len(held) == 1
        assert registry.documents_by_id(held) == store.documents_by_id(held)


def test_sequence_never_goes_back(writer, enroll) -> None:
    writer.commit(enroll(writer, 3))
    with pytest.raises(AssertionError):
        writer.commit([ENTRY, RemovedReference(1, 2)])


def test_full_sqlite_is_told_apart_and_keeps_nothing(sqlite_url, vault, enroll, listening) -> None:
    with Store.create(sqlite_url, vault, model_digest=MODEL) as store, store.writer() as writer:
        store.add_carrier(Carrier("red", "Red Mobile"), actor="test")
        store.add_outlet("r1", "red", actor="test")
        before = state_of(store)
        changes = enroll(writer, 200)

        def fill(connection: Connection) -> None:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 3}")

        with listening(store, "begin", fill), pytest.raises(StorageFull, match="free space"):
            writer.commit(changes)
        assert state_of(store) == before

        def make_room(connection: Connection) -> None:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")

        with listening(store, "begin", make_room):
            writer.commit(changes)
        assert store.counts()["live_references"] == 200


def test_full_postgresql_is_told_apart_and_keeps_nothing(postgres_url, vault) -> None:
    with Store.create(postgres_url, vault, model_digest=MODEL) as store, store.writer() as writer:
        before = state_of(store)
        with store._engine.begin() as connection:
            connection.exec_driver_sql(
                "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "RAISE EXCEPTION USING ERRCODE = 'disk_full'; END $$; CREATE TRIGGER no_room "
                "BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION no_room()"
            )
        with pytest.raises(StorageFull, match="53100"):
            writer.commit([ENTRY])
        assert state_of(store) == before
        assert writer.sequence == 0


def test_reads_beside_commits_see_whole_batches_and_neither_fails(store, writer, enroll) -> None:
    finished = Event()

    def read() -> int:
        reads = 0
        while not finished.is_set():
            counts = store.counts()
            assert counts["documents"] % 4 == 0
            assert counts["documents"] == counts["references"] == counts["lines"]
            for chunk in store.references():
                known = store.documents_of(chunk.ids.tolist())
                assert known.keys() == set(chunk.ids.tolist())
            assert verify_chain(store).intact
            reads += 1
        return reads

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for number in range(40):
                writer.commit(enroll(writer, 4, first=4 * number))
        finally:
            finished.set()
        assert all(reader.result(timeout=120) > 0 for reader in readers)
    assert store.counts()["live_references"] == 160


def test_administration_at_the_same_time_as_commits_keeps_one_chain(store, writer, enroll) -> None:
    def administrate(name: str) -> None:
        for number in range(20):
            store.add_outlet(f"{name}{number}", "red", actor=name)

    with ThreadPoolExecutor(2) as pool:
        clerks = [pool.submit(administrate, name) for name in ("ann", "ben")]
        for number in range(20):
            writer.commit(enroll(writer, 1, first=number))
        for clerk in clerks:
            clerk.result(timeout=120)
    counts = store.counts()
    assert (counts["outlets"], counts["live_references"]) == (3 + 40, 20)
    report = verify_chain(store)
    assert report.intact
    assert report.entries == counts["audit"] == 6 + 40 + 20
