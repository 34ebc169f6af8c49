"""Crops: sealed, for their time, and gone with whom they show."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from engine.errors import SealBroken, StorageFailed
from engine.registry.records import AuditEntry, Changes, CropRecord, NewCrop, new_id, utc_now
from engine.registry.tables import crops as table

ENTRY = AuditEntry("test", "test.done", "x")
IMAGE = b"\xff\xd8\xff\xe0 a face in the clear " + bytes(range(256))


def make_crop(enrollment_id: str, photograph: str = "live", days: int = 30) -> NewCrop:
    return NewCrop(
        id=new_id(),
        enrollment_id=enrollment_id,
        photograph=photograph,
        kept_until=utc_now() + timedelta(days=days),
        image=IMAGE + photograph.encode(),
    )


@pytest.fixture
def enrolled(writer, enroll) -> Changes:
    changes: Changes = enroll(writer, 2)
    writer.commit(changes)
    return changes


def test_crops_are_read_as_they_were_kept_while_their_time_lasts(store, writer, enrolled) -> None:
    key, other = (record.id for record in enrolled.enrollments)
    portrait, live, late = (
        make_crop(key, "portrait"),
        make_crop(key),
        make_crop(key, "live", days=-1),
    )
    writer.commit(Changes(sequence=2, audit=[ENTRY], crops=[portrait, live, late]))
    assert [(type(record), record.id, image) for record, image in store.cases.crops(key)] == [
        (CropRecord, live.id, live.image),
        (CropRecord, portrait.id, portrait.image),
    ]
    assert store.cases.crops(key)[0][0].kept_until == live.kept_until
    assert store.cases.crops(other) == []
    assert store.cases.crops("no id") == []
    assert "face" not in repr(live)


def test_no_crop_lies_open_nor_opens_in_another_row(store, writer, enrolled) -> None:
    one, two = (make_crop(record.id) for record in enrolled.enrollments)
    writer.commit(Changes(sequence=2, audit=[ENTRY], crops=[one, two]))
    with store._engine.begin() as connection:
        stored = connection.scalar(select(table.c.image).where(table.c.id == one.id))
        assert IMAGE[4:20] not in stored
        connection.execute(update(table).where(table.c.id == two.id).values(image=stored))
    assert store.cases.crops(one.enrollment_id)
    with pytest.raises(SealBroken):
        store.cases.crops(two.enrollment_id)


def test_a_crop_of_no_enrollment_keeps_nothing(store, writer) -> None:
    with pytest.raises(StorageFailed):
        writer.commit(Changes(sequence=0, audit=[ENTRY], crops=[make_crop(new_id())]))
    assert store.counts()["crops"] == 0


def test_the_crops_of_an_erased_document_are_gone_and_no_others(store, writer, enrolled) -> None:
    one, two = (make_crop(record.id) for record in enrolled.enrollments)
    writer.commit(Changes(sequence=2, audit=[ENTRY], crops=[one, two]))
    erased = Changes(
        sequence=3,
        audit=[ENTRY],
        removed_references=[(enrolled.references[0].id, 3)],
        erased_documents=[enrolled.documents[0].id],
    )
    writer.commit(erased)
    assert store.cases.crops(one.enrollment_id) == []
    assert store.counts()["crops"] == 1
    assert store.cases.crops(two.enrollment_id)
