"""Crops: aligned faces of attempts and of imported references, as long as they are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, exists, false, func, or_, select
from sqlalchemy import case as by_value

from engine.registry.cases import CASE_DOCUMENTS, CROP_IMAGE, CROPS, STATE_OF_NAMED, CropRecord
from engine.registry.database import KEYS, Moment, Source, is_id, utc_now
from engine.registry.enrollments import ENROLLMENTS
from engine.registry.references import REFERENCES
from engine.registry.rows import open_each, read_as, require_authentic
from schema.cases import ALIVE

_ATTEMPTS_UNDER = select(ENROLLMENTS.c.id).where(ENROLLMENTS.c.document_id.in_(KEYS))
_ERASE_CROPS = delete(CROPS).where(
    or_(CROPS.c.document_id.in_(KEYS), CROPS.c.enrollment_id.in_(_ATTEMPTS_UNDER))
)


def erase_crops(connection: Connection, document_ids: Sequence[str]) -> None:
    """Deletes the crops of documents: of every attempt under one, and of an imported reference."""
    connection.execute(_ERASE_CROPS, {"keys": list(document_ids)})


@dataclass(frozen=True, slots=True)
class Face:
    """An aligned face of a document; `is_of_reference` where the document's reference was made of
    it.

    `decision` and `captured_at` are of its attempt: None of an imported reference.
    """

    crop: CropRecord
    is_of_reference: bool
    decision: str | None
    captured_at: datetime | None


_IS_NEEDED = exists().where(
    CASE_DOCUMENTS.c.document_id == CROPS.c.document_id,
    STATE_OF_NAMED.in_(sorted(state.value for state in ALIVE)),
)
# An open case keeps its faces beyond their time; retention takes them where its hold is over.
_IS_SHOWN = and_(
    or_(CROPS.c.kept_until > bindparam("now", type_=Moment), _IS_NEEDED),
    func.coalesce(CROPS.c.is_held, false()).is_(false()),
)
_CROPS_OF = (
    select(CROPS)
    .where(CROPS.c.enrollment_id == bindparam("enrollment"), _IS_SHOWN)
    .order_by(CROPS.c.photograph, CROPS.c.id)
)
# Where an earlier import's reference was removed, its crops may be of another person.
_removed = REFERENCES.alias("removed")
_CROPS_OF_IMPORT = (
    select(CROPS)
    .where(
        CROPS.c.document_id == bindparam("document"),
        CROPS.c.enrollment_id.is_(None),
        _IS_SHOWN,
        ~exists().where(
            _removed.c.document_id == CROPS.c.document_id,
            _removed.c.enrollment_id.is_(None),
            _removed.c.removed_sequence.is_not(None),
        ),
    )
    .order_by(CROPS.c.photograph, CROPS.c.id)
)
# The reference's own first: those of attempts may show somebody else. An import's has no attempt.
_IS_OF_REFERENCE = exists().where(
    REFERENCES.c.document_id == CROPS.c.document_id,
    REFERENCES.c.removed_sequence.is_(None),
    or_(
        REFERENCES.c.enrollment_id == CROPS.c.enrollment_id,
        and_(REFERENCES.c.enrollment_id.is_(None), CROPS.c.enrollment_id.is_(None)),
    ),
)
_ranked = (
    select(
        CROPS.c.id,
        by_value((_IS_OF_REFERENCE, 1), else_=0).label("is_of_reference"),
        func.row_number()
        .over(
            partition_by=CROPS.c.document_id,
            order_by=(
                by_value((_IS_OF_REFERENCE, 0), else_=1),
                CROPS.c.received_at.desc(),
                CROPS.c.enrollment_id,
                CROPS.c.photograph,
                CROPS.c.id,
            ),
        )
        .label("place"),
    )
    .where(CROPS.c.document_id.in_(KEYS), _IS_SHOWN)
    .subquery()
)
_OF_ATTEMPT = "attempt_"
_FACES_OF = (
    select(
        CROPS,
        _ranked.c.is_of_reference,
        *(one.label(f"{_OF_ATTEMPT}{one.name}") for one in ENROLLMENTS.columns),
    )
    .join(_ranked, _ranked.c.id == CROPS.c.id)
    .join(ENROLLMENTS, ENROLLMENTS.c.id == CROPS.c.enrollment_id, isouter=True)
    .where(_ranked.c.place <= bindparam("most"))
    .order_by(CROPS.c.document_id, _ranked.c.place)
)


class CropReader(Source):
    """Reader of crops."""

    def crops(self, enrollment_id: str) -> list[CropRecord]:
        """The crops of an enrollment, `live` before `portrait`.

        None where none were kept, or where their time is over.
        """
        if not is_id(enrollment_id):
            return []
        rows = self.rows(_CROPS_OF, enrollment=enrollment_id, now=utc_now())
        return list(open_each(rows, self._crop))

    def crops_of_import(self, document_id: str) -> list[CropRecord]:
        """The same of the reference that an import brought; none where it brought another before,
        since a crop does not say which one it is of."""
        rows = self.rows(_CROPS_OF_IMPORT, document=document_id, now=utc_now())
        return list(open_each(rows, self._crop))

    def faces(self, document_ids: Sequence[str], most: int) -> dict[str, list[Face]]:
        """At most so many crops that are kept of each document, its reference's own first, then
        the newest; no document is left out."""
        found: dict[str, list[Face]] = {key: [] for key in document_ids}
        rows = self._rows_of(_FACES_OF, document_ids, most=most, now=utc_now())
        for row, face in open_each(rows, self._face):
            found[row.document_id].append(face)
        return found

    def _face(self, row: Row[Any]) -> tuple[Row[Any], Face]:
        if row.attempt_id is not None:
            require_authentic(self.vault, ENROLLMENTS, row, _OF_ATTEMPT)
        # Crops of before there was a column for it came in when they were decided on.
        crop = self._crop(row, received_at=row.received_at or row.attempt_created_at)
        told = (bool(row.is_of_reference), row.attempt_decision, row.attempt_captured_at)
        return row, Face(crop, *told)

    def _crop(self, row: Row[Any], **known: Any) -> CropRecord:
        # Or a face could be put under another document, and its holder be taken for it.
        require_authentic(self.vault, CROPS, row)
        image = self.vault.open(CROP_IMAGE, row.id, row.image)
        return read_as(CropRecord, row, image=image, **known)
