from dataclasses import replace

import pytest
from sqlalchemy import select

from engine.errors import NotFound, StorageFailed
from engine.registry.database import new_id
from engine.registry.documents import ActivatedDocument, DocumentBlock, EndedBlock
from schema.documents import DocumentStatus
from schema.lines import LineStatus
from tests.engine.registry.conftest import Writes, committed, erasure
from tests.tables import tables


@pytest.fixture
def blocked(writer, enroll, commit) -> Writes:
    """Three enrollments, the first of them under a document that was blocked afterwards."""
    changes = committed(writer, enroll(writer, 3))
    commit(DocumentBlock(changes.documents[0].id))
    return changes


def erase(writer, changes: Writes, place: int) -> None:
    writer.commit(erasure(changes, place, writer.sequence + 1))


def found(store, document):
    return store.documents([document.lookup]).get(document.lookup)


def test_erasure_does_not_lift_a_block_and_leaves_nothing_else(store, writer, blocked) -> None:
    document, line = blocked.documents[0], blocked.lines[0]
    erase(writer, blocked, 0)
    record = found(store, document)
    assert (record.id, record.status, record.is_erased) == (
        document.id,
        DocumentStatus.BLOCKED,
        True,
    )
    assert (record.name_lookup, record.expires_on, record.reference_ids) == (None, None, ())
    with pytest.raises(NotFound):
        store.identity(document.id)
    assert store.numbers([line.id]) == {}
    (closed,) = store.lines_of(document.id)
    assert (closed.status, closed.closed_at is None) == (LineStatus.CLOSED, False)
    assert store.identity(blocked.documents[1].id) == blocked.documents[1].identity
    assert store.lines_in_use([line.msisdn_lookup]) == {}
    with store._engine.connect() as connection:
        query = select(tables.documents).where(tables.documents.c.id == document.id)
        row = connection.execute(query).one()._asdict()
    left = {name for name, value in row.items() if value is not None}
    assert left == {
        "id",
        "kind",
        "lookup",
        "status",
        "created_at",
        "blocked_at",
        "erased_at",
        "erasure_number",
        "mac",
    }


def test_unblocked_document_is_again_what_it_was(store, writer, blocked, commit) -> None:
    active, attempted = (
        blocked.documents[0],
        replace(
            blocked.documents[1], id=new_id(), lookup=b"attempted", status=DocumentStatus.ATTEMPTED
        ),
    )
    commit(attempted)
    commit(DocumentBlock(attempted.id))
    with pytest.raises(StorageFailed):
        commit(ActivatedDocument(attempted))
    commit(EndedBlock(active.id), EndedBlock(attempted.id))
    assert found(store, active).status is DocumentStatus.ACTIVE
    assert found(store, active).reference_ids == (blocked.references[0].id,)
    assert found(store, attempted).status is DocumentStatus.ATTEMPTED
    assert store.blocked_documents() == []


def test_only_a_blocked_document_is_unblocked(store, blocked, commit) -> None:
    for document_id in (blocked.documents[1].id, new_id()):
        with pytest.raises(StorageFailed, match="not there or was changed"):
            commit(EndedBlock(document_id))
    commit(EndedBlock(blocked.documents[0].id))
    with pytest.raises(StorageFailed, match="not there or was changed"):
        commit(EndedBlock(blocked.documents[0].id))


def test_blocked_documents_are_listed_longest_blocked_first(store, writer, blocked, commit) -> None:
    first, _, second = (document.id for document in blocked.documents)
    commit(DocumentBlock(second))
    since = found(store, blocked.documents[0]).blocked_at
    commit(DocumentBlock(first))
    erase(writer, blocked, 2)
    listed = store.blocked_documents()
    assert [(record.id, record.is_erased) for record in listed] == [(first, False), (second, True)]
    assert listed[0].blocked_at == since
    assert listed[0].reference_ids == (blocked.references[0].id,)
