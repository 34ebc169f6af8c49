"""The faces of a report, where it is asked for them and the operator has them kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.reasons import Decision
from engine.registry.attempts import AttemptRecord
from engine.registry.reader import Reader

_LIVE = "live"


def gather_faces(reader: Reader, document_ids: Sequence[str]) -> dict[str, bytes]:
    """Of each document the newest aligned live face that is kept, as a JPEG or PNG file.

    A refused attempt may be of somebody else, so its face stands for nobody. A document of which
    none is kept is left out. Whoever asks audits it: it is a read of these people.
    """
    faces = {}
    for document, attempts in reader.attempts_of(document_ids).items():
        face = _find_face(reader, attempts)
        if face is not None:
            faces[document] = face
    return faces


def _find_face(reader: Reader, attempts: Iterable[AttemptRecord]) -> bytes | None:
    for attempt in attempts:
        if attempt.decision == Decision.REJECTED:
            continue
        for crop, image in reader.crops(attempt.id):
            if crop.photograph == _LIVE:
                return image
    return None
