"""Planned admissions: what a row of an existing base leaves behind."""

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stdnum.cn import ric

from engine.errors import StorageFailed
from engine.matching import bulk_enrollment
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
from engine.matching.documents import check_document
from engine.matching.holders import find_document
from engine.matching.recovery import restore_gallery
from engine.registry.accounts import Carrier
from engine.registry.keyring import KeyRing
from engine.registry.store import Store
from engine.registry.vault import Vault
from schema.documents import Document
from schema.reasons import FACE_NOT_KEPT, Decision, Reason

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
    checked = check_document(given, date(2026, 11, 25))
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
    restored = restore_gallery(lab.store, lab.folder).gallery
    assert np.array_equal(restored.vectors(restored.ids), gallery.vectors(gallery.ids))
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


def test_a_face_that_is_not_kept_by_now_is_not_entered_whatever_held_when_it_was_read(lab) -> None:
    gallery = restore_gallery(lab.store, lab.folder).gallery
    rows = [subscriber(1, 1, 1), replace(subscriber(2, 2), carrier="blue"), subscriber(3, 3)]
    plan = plan_admission(lab.store, gallery, HolderCache(), rows, SAME, {"blue"})
    assert [one.refusal for one in plan.admissions] == [FACE_NOT_KEPT, FACE_NOT_KEPT, None]
    assert len(plan.vectors) == 1


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


def test_synthetic_holders_are_known_by_document_name_and_face(lab, monkeypatch) -> None:
    monkeypatch.setattr(bulk_enrollment, "CHUNK_SIZE", 10)
    documents = [Document("cn-ric", number(place), f"Migrated {place}") for place in range(25)]
    vectors = np.stack([lab.people.person() for _ in documents])
    reported: list[tuple[int, int]] = []
    with lab.registrar() as registrar:

        def report(done: int, total: int) -> None:
            reported.append((done, total))
            assert len(registrar.gallery) == done

        admit_references(registrar, documents, vectors, "mover", report)
        twin, returning, impostor = registrar.enroll(
            [
                lab.request(vectors[17]),
                lab.request(vectors[1], document=documents[1]),
                lab.request(document=documents[2]),
            ]
        )
        gallery = registrar.gallery
    assert reported == [(10, 25), (20, 25), (25, 25)]
    assert twin.reasons == (Reason.DUPLICATE_IDENTITY,)
    assert returning.decision is Decision.APPROVED
    assert impostor.reasons == (Reason.DOCUMENT_HELD_BY_ANOTHER_FACE,)
    record = find_document(lab.store, documents[1], date(2026, 11, 24))
    assert lab.store.identity(record.id).name == "Migrated 1"
    restored = restore_gallery(lab.store, lab.folder).gallery
    assert np.array_equal(restored.ids, gallery.ids)
    assert np.array_equal(restored.vectors(restored.ids), vectors)
    entries = lab.entries(ADMITTED)
    assert [(one.actor, one.detail["references"]) for one in entries] == [
        ("mover", 10), ("mover", 10), ("mover", 5),
    ]  # fmt: skip
    assert not any(one.number in repr(entries) or one.name in repr(entries) for one in documents)
