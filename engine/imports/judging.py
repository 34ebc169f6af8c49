"""What a row's own faces say: 1:1 where there are two, and the reference that comes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engine.imports.faces import Face, RowFaces, Vector
from engine.imports.faults import Code, Field, RowFault, is_sound
from engine.matching.comparison import fuse_vectors, score_best
from engine.matching.subscribers import Subscriber
from engine.reasons import Reason

_NEVER_MILD = frozenset({Code.PATH_OUTSIDE})
"""Whoever wrote such a path is not believed in the rest of the row either."""


@dataclass(frozen=True, slots=True, eq=False)
class JudgedRow:
    """A row before the registry is asked; `subscriber` is None exactly where it has failed.

    `is_fused` says that the reference is of two faces that passed the 1:1.
    """

    number: int
    faults: tuple[RowFault, ...]
    subscriber: Subscriber | None
    photographs: int = 0
    is_fused: bool = False
    is_expired: bool = False


def judge_row(faces: RowFaces, verify: float) -> JudgedRow:
    """Where both faces are fit, their score must reach `verify`; where one is, it stands alone.

    What is wrong with the other one is a warning then. A row without any fit face has failed.
    """
    row = faces.row
    vector, found = _find_reference(faces.live, faces.portrait, verify)
    faults = row.faults + found
    subscriber = None
    if vector is not None and is_sound(faults):
        assert row.checked is not None, "a row without a document has a fault"
        subscriber = Subscriber(row.name, row.checked, vector, row.line, row.consent_ref)
    return JudgedRow(
        number=row.number,
        faults=faults,
        subscriber=subscriber,
        photographs=faces.photographs,
        is_fused=isinstance(faces.live, np.ndarray) and isinstance(faces.portrait, np.ndarray),
        is_expired=row.checked is not None and Reason.DOCUMENT_EXPIRED in row.checked.findings,
    )


def _find_reference(
    live: Face, portrait: Face, verify: float
) -> tuple[Vector | None, tuple[RowFault, ...]]:
    """The row's reference float32[d], if it has one, and what is wrong with its faces."""
    faults = tuple(fault for face in (live, portrait) if isinstance(face, tuple) for fault in face)
    fit = [face for face in (live, portrait) if isinstance(face, np.ndarray)]
    if not fit:
        return None, faults
    if len(fit) == 1:
        return fit[0], tuple(replace(one, is_failure=one.code in _NEVER_MILD) for one in faults)
    score = score_best(fit[0], fit[1][None])
    if score is None or not score >= verify:
        return None, (RowFault(Field.PORTRAIT, Reason.FACE_MISMATCH),)
    return fuse_vectors(fit[0], fit[1]), faults
