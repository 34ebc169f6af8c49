"""Aligned faces of enrollments, sealed, where the operator has them kept."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, insert, select

from engine.registry import tables
from engine.registry.casefile import CropRecord, NewCrop
from engine.registry.casetables import crops
from engine.registry.database import reading
from engine.registry.records import is_id, utc_now
from engine.registry.source import Source
from engine.registry.vault import Vault

_PLACE = "crops.image"
_OF = (
    select(crops)
    .where(crops.c.enrollment_id == bindparam("enrollment"), crops.c.kept_until > bindparam("now"))
    .order_by(crops.c.photograph, crops.c.id)
)
_UNDER = select(tables.enrollments.c.id).where(
    tables.enrollments.c.document_id == bindparam("document")
)
_ERASE = delete(crops).where(crops.c.enrollment_id.in_(_UNDER))


class CropReader(Source):
    """The crops of a deployment."""

    def crops(self, enrollment_id: str) -> list[tuple[CropRecord, bytes]]:
        """The crops of an enrollment with their images, `live` before `portrait`.

        None where none were kept, or where their time is over.
        """
        if not is_id(enrollment_id):
            return []
        asked = {"enrollment": enrollment_id, "now": utc_now()}
        with reading(self._engine) as connection:
            rows = connection.execute(_OF, asked).all()
        return [
            (
                CropRecord(
                    id=row.id,
                    enrollment_id=row.enrollment_id,
                    photograph=row.photograph,
                    kept_until=row.kept_until,
                ),
                self._vault.open(_PLACE, row.id, row.image),
            )
            for row in rows
        ]


def write_crops(connection: Connection, vault: Vault, new: Sequence[NewCrop]) -> None:
    """Keeps the crops, each image sealed for its row."""
    if new:
        connection.execute(
            insert(crops),
            [
                {
                    "id": crop.id,
                    "enrollment_id": crop.enrollment_id,
                    "photograph": crop.photograph,
                    "image": vault.seal(_PLACE, crop.id, crop.image),
                    "kept_until": crop.kept_until,
                }
                for crop in new
            ],
        )


def erase_crops(connection: Connection, document_id: str) -> None:
    """Takes out the crops of every enrollment under a document."""
    connection.execute(_ERASE, {"document": document_id})
