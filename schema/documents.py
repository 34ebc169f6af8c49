"""Identity documents."""

from __future__ import annotations

from enum import StrEnum


class DocumentStatus(StrEnum):
    """`attempted` is known from attempts only, none of them approved: it binds nobody yet.

    `blocked` hides what the document is besides, and is what it becomes again when unblocked.
    """

    ATTEMPTED = "attempted"
    ACTIVE = "active"
    BLOCKED = "blocked"
    ERASED = "erased"
