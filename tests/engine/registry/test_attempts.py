"""The attempts under a document, in short: the newest first, as many as are asked for."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from engine.registry.records import AuditEntry, Changes, new_id


def test_the_newest_attempts_of_each_document_are_read(store, writer, enroll) -> None:
    enrolled = enroll(writer, 3)
    writer.commit(enrolled)
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
    writer.commit(Changes(sequence=writer.sequence, audit=[entry], enrollments=later))
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
