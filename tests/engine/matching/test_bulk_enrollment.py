"""Planned admissions: what a row of an existing base leaves behind."""

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stdnum.cn import ric

from engine.errors import RequestError, StorageFailed
from engine.matching.bulk_enrollment import (
    ADMITTED,
    Admission,
    HolderCache,
    OpenedLine,
    Subscriber,
    admit_planned,
    admit_references,
    plan_admission,
)
from engine.matching.documents import check_documents
from engine.matching.holders import find_document
from engine.matching.recovery import restore_gallery
from engine.registry.accounts import Carrier
from engine.registry.keyring import KeyRing
from engine.registry.store import Store
from engine.registry.vault import Vault
from indexes.errors import VectorInvalid
from schema.documents import Document
from schema.reasons import Decision, Reason

DIM = 64
SAME = 0.42
OPENED = datetime(2019, 12, 1, tzinfo=UTC)


def number(serial: int) -> str:
    body = f"1101051980{serial // 900 + 1:02d}01{serial % 900:03d}"
    return body + str(ric.calc_check_digit(body + "0"))


def face(serial: int) -> np.typing.NDArray[np.float32]:
    return np.eye(DIM, dtype=np.float32)[serial]


def subscriber(document: int, person: int, line: int | None = None) -> Subscriber:
    given = Document("cn-ric", number(document), f"Holder {document}")
    (checked,) = check_documents([given], date(2026, 11, 25))
    opened = None if line is None else OpenedLine(f"+8613{line:09d}", "blue", "blue-1", OPENED)
    return Subscriber(given.name, checked, face(person), opened)


def admit(store: Store, gallery: Any, writer: Any, chunk: list[Subscriber]) -> list[Admission]:
    plan = plan_admission(store, gallery, HolderCache(), chunk, SAME)
    admit_planned(writer, gallery, plan, actor="test", subject="import", detail={"chunk": 1})
    return list(plan.admissions)


def test_a_chunk_is_durable_visible_and_audited_at_once(lab) -> None:
    gallery = restore_gallery(lab.store, lab.folder).gallery
    with lab.store.writer() as writer:
        admissions = admit(lab.store, gallery, writer, [subscriber(1, 1, 1), subscriber(2, 2)])
        assert gallery.sequence == writer.sequence == lab.store.sequence() == 1
    assert [one.adds_line for one in admissions] == [True, False]
    assert len(gallery) == lab.store.counts()["live_references"] == 2
    restored = restore_gallery(lab.store, lab.folder).gallery.contents()
    assert np.array_equal(restored.vectors, gallery.contents().vectors)
    *_, record = lab.store.audit_entries()
    assert (record.entry.action, record.entry.subject) == (ADMITTED, "import")
    assert record.entry.detail == {"chunk": 1, "references": 2, "lines": 1, "gallery_sequence": 1}


def test_a_chunk_that_adds_no_face_moves_no_sequence_and_is_audited(lab) -> None:
    gallery = restore_gallery(lab.store, lab.folder).gallery
    with lab.store.writer() as writer:
        admit(lab.store, gallery, writer, [subscriber(1, 1, 1)])
        admit(lab.store, gallery, writer, [subscriber(1, 1, 2), subscriber(1, 5, 3)])
        assert gallery.sequence == writer.sequence == 1
        assert admit(lab.store, gallery, writer, []) == []
    counts = lab.store.counts()
    assert (counts["lines"], counts["references"]) == (2, 1)


def test_a_commit_that_fails_leaves_store_and_gallery_as_they_were(lab) -> None:
    gallery = restore_gallery(lab.store, lab.folder).gallery
    with lab.store.writer() as writer:
        stale = plan_admission(lab.store, gallery, HolderCache(), [subscriber(1, 1, 1)], SAME)
        admit(lab.store, gallery, writer, [subscriber(1, 1, 1)])
        with pytest.raises(StorageFailed):
            admit_planned(writer, gallery, stale, actor="test", subject="import", detail={})
        assert len(gallery) == lab.store.counts()["live_references"] == 1
        assert admit(lab.store, gallery, writer, [subscriber(2, 2)])[0].adds_reference


def test_an_erased_holder_may_come_again(lab) -> None:
    from engine.matching.holders import erase_holder

    with lab.registrar() as registrar:
        for _ in range(2):
            (admission,) = registrar.run(
                lambda writer, _now: admit(
                    lab.store, registrar.gallery, writer, [subscriber(1, 1, 1)]
                )
            )
            assert (admission.adds_reference, admission.adds_line) == (True, True)
            document = Document("cn-ric", number(1), "Holder 1")
            erase_holder(registrar, lab.store, document, "test")


ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 2), st.none() | st.integers(0, 5)), max_size=12
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, chunk_rows=st.integers(1, 5))
def test_however_rows_come_a_document_has_one_face_and_a_number_one_document(
    rows: list[tuple[int, int, int | None]], chunk_rows: int, tmp_path
) -> None:
    """Held against a model of two dictionaries, in chunks of any size, and then all once more."""
    faces: dict[int, int] = {}
    users: dict[int, int] = {}
    chunks = [rows[start : start + chunk_rows] for start in range(0, len(rows), chunk_rows)]
    vault = Vault(KeyRing.generate(), DIM)
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.db"
    with Store.create(f"sqlite:///{path}", vault, model_digest="m") as store:
        store.add_carrier(Carrier("blue", "Blue"), actor="test")
        store.add_outlet("blue-1", "blue", actor="test")
        gallery = restore_gallery(store, tmp_path / "none").gallery
        with store.writer() as writer:
            for _ in range(2):
                wanted = [expect(row, faces, users) for row in rows]
                found = [
                    one.refusal
                    for chunk in chunks
                    for one in admit(store, gallery, writer, [subscriber(*row) for row in chunk])
                ]
                assert found == wanted
                counts = store.counts()
                assert counts["documents"] == counts["live_references"] == len(faces)
                assert counts["lines"] == len(users)
        assert len(gallery) == len(faces)


def expect(
    row: tuple[int, int, int | None], faces: dict[int, int], users: dict[int, int]
) -> Reason | None:
    document, person, line = row
    if faces.get(document, person) != person:
        return Reason.DOCUMENT_HELD_BY_ANOTHER_FACE
    if line is not None and users.get(line, document) != document:
        return Reason.LINE_IN_USE
    faces[document] = person
    if line is not None:
        users[line] = document
    return None


ON = date(2026, 11, 24)


def draw_documents(count: int) -> list[Document]:
    bodies = [f"1101051980{serial // 900 + 1:02d}01{serial % 900:03d}" for serial in range(count)]
    return [
        Document("cn-ric", body + ric.calc_check_digit(body + "0"), f"Migrated {place}")
        for place, body in enumerate(bodies)
    ]


def draw_people(lab: Any, count: int) -> NDArray[np.float32]:
    return np.stack([lab.people.person() for _ in range(count)])


def test_admitted_references_are_searched_and_survive_a_restart(lab) -> None:
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


def test_an_admitted_holder_is_known_by_document_name_and_face(lab) -> None:
    documents, vectors = draw_documents(3), draw_people(lab, 3)
    with lab.registrar() as registrar:
        registrar.run(
            lambda writer, now: admit_references(
                writer, registrar.gallery, documents, vectors, actor="test", on=now.date()
            )
        )
        returning = lab.request(vectors[1], document=documents[1])
        impostor = lab.request(document=documents[2])
        answers = registrar.enroll([returning, impostor])
    assert [answer.decision for answer in answers] == [Decision.APPROVED, Decision.REJECTED]
    assert answers[1].reasons == (Reason.DOCUMENT_HELD_BY_ANOTHER_FACE,)
    record = find_document(lab.store, documents[1], ON)
    assert lab.store.identity(record.id).name == "Migrated 1"
    assert lab.store.counts()["live_references"] == 3


def test_each_chunk_leaves_an_audit_entry_without_a_name_or_number(lab) -> None:
    documents, vectors = draw_documents(4), draw_people(lab, 4)
    gallery = restore_gallery(lab.store, lab.folder).gallery
    with lab.store.writer() as writer:
        admit_references(writer, gallery, documents, vectors, actor="mover", on=ON, chunk_size=3)
    records = [record for record in lab.store.audit_entries() if record.entry.action == ADMITTED]
    assert [record.entry.detail["references"] for record in records] == [3, 1]
    assert {record.entry.actor for record in records} == {"mover"}
    assert all(record.at <= datetime.now(UTC) for record in records)
    text = repr(records)
    assert not any(item.number in text or item.name in text for item in documents)


@pytest.mark.parametrize("fault", ["malformed", "twice", "not a unit row"])
def test_what_is_refused_admits_nobody(lab, fault: str) -> None:
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


def test_a_known_document_undoes_its_chunk_and_leaves_gallery_and_store_equal(lab) -> None:
    documents, vectors = draw_documents(6), draw_people(lab, 6)
    gallery = restore_gallery(lab.store, lab.folder).gallery
    with lab.store.writer() as writer:
        admit_references(writer, gallery, documents[3:4], vectors[3:4], actor="test", on=ON)
        with pytest.raises(StorageFailed):
            admit_references(writer, gallery, documents, vectors, actor="test", on=ON, chunk_size=2)
        assert len(gallery) == lab.store.counts()["live_references"] == 3
        assert gallery.sequence == writer.sequence == lab.store.sequence()
