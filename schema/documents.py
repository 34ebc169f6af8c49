"""Identity documents."""

from __future__ import annotations

from enum import StrEnum

PASSPORT = "passport"
DOCUMENT_TYPES = (
    "cn-ric",
    "kr-rrn",
    "th-pin",
    "id-nik",
    "my-nric",
    "in-aadhaar",
    "pk-cnic",
    "tr-tckimlik",
    "za-idnr",
    "es-dni",
    "bg-egn",
    "es-nie",
    "bg-pnf",
    "kr-arc",
    "th-nti",
    "id-kitas",
    "id-kitap",
    "cn-frp",
    PASSPORT,
)
MAX_NUMBER_LENGTH = 100
MAX_NAME_LENGTH = 200
MAX_CONSENT_LENGTH = 200
"""Of texts of an enrollment, in characters."""


class DocumentStatus(StrEnum):
    """`attempted` is known from attempts only, none of them approved: it binds nobody yet.

    `blocked` hides what the document is besides, and is what it becomes again when unblocked.
    """

    ATTEMPTED = "attempted"
    ACTIVE = "active"
    BLOCKED = "blocked"
    ERASED = "erased"
