"""Decisions, their reasons, kinds of photographs: what answers, records and metrics may say."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Decision(StrEnum):
    """Decision on an enrollment, mildest first."""

    APPROVED = "approved"
    REVIEW = "review"
    REJECTED = "rejected"


class Reason(StrEnum):
    """A row of the decision table; image reasons belong to the live photograph or the portrait."""

    DOCUMENT_INVALID = "DOCUMENT_INVALID"
    DOCUMENT_EXPIRED = "DOCUMENT_EXPIRED"
    DOCUMENT_BLOCKED = "DOCUMENT_BLOCKED"
    ERASURE_PENDING = "ERASURE_PENDING"
    DOCUMENT_REPLACED = "DOCUMENT_REPLACED"
    HOLDER_DECEASED = "HOLDER_DECEASED"
    REPLACEMENT_REFUSED = "REPLACEMENT_REFUSED"
    REPLACEMENT_ASKED = "REPLACEMENT_ASKED"
    BIRTH_DATE_MISMATCH = "BIRTH_DATE_MISMATCH"
    BIRTH_DATE_MISSING = "BIRTH_DATE_MISSING"
    GUARDIAN_MISSING = "GUARDIAN_MISSING"
    GUARDIAN_REFUSED = "GUARDIAN_REFUSED"
    GUARDIAN_UNUSABLE = "GUARDIAN_UNUSABLE"
    GUARDIAN_MISMATCH = "GUARDIAN_MISMATCH"
    GUARDIAN_DUPLICATE = "GUARDIAN_DUPLICATE"
    GUARDIAN_CHANGED = "GUARDIAN_CHANGED"
    EXCEPTION_ASKED = "EXCEPTION_ASKED"
    EXCEPTION_NOT_OFFERED = "EXCEPTION_NOT_OFFERED"
    EXCEPTION_LIMIT_REACHED = "EXCEPTION_LIMIT_REACHED"
    DECEASED_LOOK_ALIKE = "DECEASED_LOOK_ALIKE"
    NAME_MISMATCH = "NAME_MISMATCH"
    AUTHORITY_UNAVAILABLE = "AUTHORITY_UNAVAILABLE"
    AUTHORITY_UNKNOWN_DOCUMENT = "AUTHORITY_UNKNOWN_DOCUMENT"
    AUTHORITY_CONTRADICTS = "AUTHORITY_CONTRADICTS"
    NO_FACE = "NO_FACE"
    SEVERAL_FACES = "SEVERAL_FACES"
    FACE_TOO_SMALL = "FACE_TOO_SMALL"
    BLURRED = "BLURRED"
    TOO_DARK = "TOO_DARK"
    TOO_BRIGHT = "TOO_BRIGHT"
    LOW_CONTRAST = "LOW_CONTRAST"
    COMPRESSED = "COMPRESSED"
    FACE_CUT = "FACE_CUT"
    UNCLEAR = "UNCLEAR"
    POSE = "POSE"
    LIVE_FRAMES_DIFFER = "LIVE_FRAMES_DIFFER"
    SAME_PHOTOGRAPH = "SAME_PHOTOGRAPH"
    LIVENESS_MISSING = "LIVENESS_MISSING"
    LIVENESS_INVALID = "LIVENESS_INVALID"
    LIVENESS_MISBOUND = "LIVENESS_MISBOUND"
    LIVENESS_FAILED = "LIVENESS_FAILED"
    LIVENESS_STALE = "LIVENESS_STALE"
    LIVENESS_UNCERTAIN = "LIVENESS_UNCERTAIN"
    FACE_MISMATCH = "FACE_MISMATCH"
    DOCUMENT_HELD_BY_ANOTHER_FACE = "DOCUMENT_HELD_BY_ANOTHER_FACE"
    DUPLICATE_IDENTITY = "DUPLICATE_IDENTITY"
    POSSIBLE_DUPLICATE = "POSSIBLE_DUPLICATE"
    LINE_LIMIT_REACHED = "LINE_LIMIT_REACHED"
    PERSON_LIMIT_REACHED = "PERSON_LIMIT_REACHED"
    LINE_IN_USE = "LINE_IN_USE"
    WATCHLISTED = "WATCHLISTED"


WITHHELD = "WITHHELD"
"""Stands in answers to tenants for reasons about a holder whose face was not shown."""

RECORD_DAMAGED = "RECORD_DAMAGED"
"""Refuses a row of an import: what is on record of its document or number cannot be read."""

IMAGE_REASONS = frozenset(
    {
        Reason.NO_FACE,
        Reason.SEVERAL_FACES,
        Reason.FACE_TOO_SMALL,
        Reason.BLURRED,
        Reason.TOO_DARK,
        Reason.TOO_BRIGHT,
        Reason.LOW_CONTRAST,
        Reason.COMPRESSED,
        Reason.FACE_CUT,
        Reason.UNCLEAR,
        Reason.POSE,
        Reason.LIVE_FRAMES_DIFFER,
        Reason.SAME_PHOTOGRAPH,
    }
)
"""Reasons that ask for a new photograph."""

LIVENESS_REASONS = frozenset(one for one in Reason if one.name.startswith("LIVENESS_"))
"""What is wrong with the evidence that somebody alive was before the camera."""

CONFIRMED = frozenset({Reason.REPLACEMENT_ASKED, Reason.GUARDIAN_CHANGED})
"""Reasons that two people are asked to confirm."""

LOOK_ALIKE_REASONS = frozenset(
    {
        Reason.DUPLICATE_IDENTITY,
        Reason.POSSIBLE_DUPLICATE,
        Reason.DECEASED_LOOK_ALIKE,
        Reason.GUARDIAN_DUPLICATE,
    }
)
"""About people whom an attempt does not name: a search by face has found them."""


def find_idle(findings: Iterable[tuple[Reason, Decision]], decision: Decision) -> frozenset[Reason]:
    """The reasons found by a search by face without which the decision would be the same.

    No tenant is told of them: an attempt that fails anyway costs nothing, and would tell of stored
    faces as often as somebody asks.
    """
    found = list(findings)
    bringing = {reason for reason, brings in found if brings == decision}
    if bringing - LOOK_ALIKE_REASONS - {Reason.WATCHLISTED}:
        idle = LOOK_ALIKE_REASONS | {Reason.WATCHLISTED}
    else:
        idle = LOOK_ALIKE_REASONS if Reason.WATCHLISTED in bringing else frozenset()
    return idle & {reason for reason, _ in found}


class PhotographKind(StrEnum):
    """Source of a photograph; it decides which limits apply."""

    LIVE = "live"
    PRINTED = "printed"
    """Taken of a document."""
    CHIP = "chip"
    """Read from a document's chip, small and strongly compressed."""


class LivenessMode(StrEnum):
    """What evidence of liveness does to an answer: nothing and not looked at, nothing but on
    record, or it is required."""

    OFF = "off"
    OBSERVE = "observe"
    REQUIRED = "required"


class LivenessUse(StrEnum):
    """A kind of request that may bring evidence of liveness."""

    ENROLLMENT = "enrollment"
    VERIFICATION = "verification"


class Photograph(StrEnum):
    """Which of the two photographs a reason is about."""

    LIVE = "live"
    PORTRAIT = "portrait"
