"""The face of a document in a report is the one that its reference was made of."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from engine.registry.records import AuditEntry, Changes, EnrollmentRecord, NewCrop, new_id, utc_now
from engine.registry.store import Store
from engine.registry.writer import Writer
from engine.sweeps.reload import gather_faces
from schema.reasons import Decision
from tests.engine.registry.conftest import Enroll, enroll

__all__ = ["enroll"]


def again(first: EnrollmentRecord, minutes: int, decision: Decision) -> EnrollmentRecord:
    """Another attempt under the same document, `minutes` later."""
    at = first.created_at + timedelta(minutes=minutes)
    return replace(first, id=new_id(), decision=decision.value, created_at=at)


def crops_of(attempt: EnrollmentRecord, name: str) -> list[NewCrop]:
    return [
        NewCrop(
            id=new_id(),
            enrollment_id=attempt.id,
            photograph=photograph,
            kept_until=utc_now() + timedelta(days=1),
            document_id=attempt.document_id,
            received_at=attempt.created_at,
            image=f"{name}.{photograph}".encode(),
        )
        for photograph in ("live", "portrait")
    ]


def test_the_face_of_the_reference_is_shown_else_the_newest_that_was_not_refused(
    store: Store, writer: Writer, enroll: Enroll
) -> None:
    changes = enroll(writer, 3)
    writer.commit(changes)
    one, two, three = changes.enrollments
    review, refused = again(one, 1, Decision.REVIEW), again(one, 2, Decision.REJECTED)
    unkept = again(two, 1, Decision.APPROVED)
    kept = {"first": one, "review": review, "refused": refused, "later": unkept, "three": three}
    writer.commit(
        Changes(
            sequence=writer.sequence,
            audit=(AuditEntry("test", "test.done", "x"),),
            enrollments=(review, refused, unkept),
            crops=[crop for name, attempt in kept.items() for crop in crops_of(attempt, name)],
        )
    )
    asked = [three.document_id, two.document_id, one.document_id, new_id()]
    assert gather_faces(store, asked) == {
        one.document_id: b"first.live",
        two.document_id: b"later.live",
        three.document_id: b"three.live",
    }
