from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from stdnum.cn import ric

from engine.errors import RequestError, StorageFailed
from engine.matching.admission import admit_references
from engine.matching.documents import Document
from engine.matching.holders import find_document
from engine.matching.restoration import restore_gallery
from engine.reasons import Decision, Reason
from indexes.errors import VectorInvalid

ON = date(2026, 11, 24)


def draw_documents(count: int) -> list[Document]:
    bodies = [f"1101051980{serial // 900 + 1:02d}01{serial % 900:03d}" for serial in range(count)]
    return [
        Document("cn-ric", body + ric.calc_check_digit(body + "0"), f"Migrated {place}")
        for place, body in enumerate(bodies)
    ]


def draw_people(lab: Any, count: int) -> NDArray[np.float32]:
    return np.stack([lab.people.person() for _ in range(count)])


def test_admitted_references_are_searched_and_survive_a_restart(lab: Any) -> None:
    documents, vectors = draw_documents(25), draw_people(lab, 25)
    reported: list[tuple[int, int]] = []
    with lab.registrar() as registrar:
        admitted = registrar.run(
            lambda writer, now: admit_references(
                writer,
                registrar.gallery,
                documents,
                vectors,
                actor="test",
                on=now.date(),
                chunk_size=10,
                report=lambda done, total: reported.append((done, total)),
            )
        )
        twin = registrar.enroll([lab.request(vectors[17])])[0]
        contents = registrar.gallery.contents()
    assert admitted == 25
    assert reported == [(10, 25), (20, 25), (25, 25)]
    assert twin.decision is Decision.REJECTED
    assert twin.reasons == (Reason.DUPLICATE_IDENTITY,)
    restored = restore_gallery(lab.store, lab.folder).gallery.contents()
    assert restored.sequence == contents.sequence == 3
    assert np.array_equal(restored.ids, contents.ids)
    assert np.array_equal(restored.vectors, contents.vectors)
    assert np.array_equal(contents.vectors, vectors)


def test_an_admitted_holder_is_known_by_document_name_and_face(lab: Any) -> None:
    documents, vectors = draw_documents(3), draw_people(lab, 3)
    with lab.registrar() as registrar:
        registrar.run(
            lambda writer, now: admit_references(
                writer, registrar.gallery, documents, vectors, actor="test", on=now.date()
            )
        )
        returning = lab.request(vectors[1], document=documents[1])
        thief = lab.request(document=documents[2])
        answers = registrar.enroll([returning, thief])
    assert [answer.decision for answer in answers] == [Decision.APPROVED, Decision.REJECTED]
    assert answers[1].reasons == (Reason.DOCUMENT_HELD_BY_ANOTHER_FACE,)
    record = find_document(lab.store, documents[1], ON)
    assert lab.store.identity(record.id).name == "Migrated 1"
    assert lab.store.counts()["live_references"] == 3


def test_each_chunk_leaves_an_audit_entry_without_a_name_or_number(lab: Any) -> None:
    documents, vectors = draw_documents(4), draw_people(lab, 4)
    gallery = restore_gallery(lab.store, lab.folder).gallery
    with lab.store.writer() as writer:
        admit_references(writer, gallery, documents, vectors, actor="mover", on=ON, chunk_size=3)
    records = [
        record
        for record in lab.store.audit_entries()
        if record.entry.action == "references.admitted"
    ]
    assert [record.entry.detail["references"] for record in records] == [3, 1]
    assert {record.entry.actor for record in records} == {"mover"}
    assert all(record.at <= datetime.now(UTC) for record in records)
    text = repr(records)
    assert not any(item.number in text or item.name in text for item in documents)


@pytest.mark.parametrize("fault", ["malformed", "twice", "not a unit row"])
def test_what_is_refused_admits_nobody(lab: Any, fault: str) -> None:
    documents, vectors = draw_documents(4), draw_people(lab, 4)
    refusal: type[Exception] = RequestError
    if fault == "malformed":
        documents[3] = Document("cn-ric", documents[3].number[:-1] + "?", "Migrated 3")
    elif fault == "twice":
        documents[3] = Document("cn-ric", f" {documents[0].number}", "Migrated 3")
    else:
        vectors[3] *= 2
        refusal = VectorInvalid
    gallery = restore_gallery(lab.store, lab.folder).gallery
    with lab.store.writer() as writer, pytest.raises(refusal) as caught:
        admit_references(writer, gallery, documents, vectors, actor="test", on=ON, chunk_size=2)
    assert documents[3].number not in str(caught.value)
    assert len(gallery) == lab.store.counts()["live_references"] == 0


def test_a_known_document_undoes_its_chunk_and_leaves_gallery_and_store_equal(lab: Any) -> None:
    documents, vectors = draw_documents(6), draw_people(lab, 6)
    gallery = restore_gallery(lab.store, lab.folder).gallery
    with lab.store.writer() as writer:
        admit_references(writer, gallery, documents[3:4], vectors[3:4], actor="test", on=ON)
        with pytest.raises(StorageFailed):
            admit_references(writer, gallery, documents, vectors, actor="test", on=ON, chunk_size=2)
        assert len(gallery) == lab.store.counts()["live_references"] == 3
        assert gallery.sequence == writer.sequence == lab.store.sequence()
