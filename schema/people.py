"""People: those who sign in, and those whom rules treat apart, as the dead, or who show no face."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from msgspec import Struct


class Account(Struct, frozen=True):
    """Who has signed in by the identity provider; `sessions` have not expired, one that is idle
    may have ended."""

    person: str
    since: datetime
    sessions: int
    seen_at: datetime | None


class DeathSource(StrEnum):
    """Where a report comes from."""

    REGISTRY = "registry"
    """The state's."""
    CERTIFICATE = "certificate"
    FAMILY = "family"
    OTHER = "other"


class DeathStep(StrEnum):
    """A step on a holder who is reported dead; a report names its source."""

    REPORT = "report"
    CONFIRM = "confirm"
    CONTEST = "contest"
    LIFT = "lift"


class ExceptionCause(StrEnum):
    """Why an enrollment comes without a usable face or portrait."""

    CONDITION = "condition"
    """A documented medical condition."""
    INJURY = "injury"
    DISABILITY = "disability"
    AGE = "age"
    NOT_SHOWN = "not_shown"
    """The face is covered, and its showing refused."""
    PORTRAIT_UNREADABLE = "portrait_unreadable"
    """Neither the document nor its chip gives a portrait."""


class ProofWay(StrEnum):
    """Ways beside a face by which a person is shown to be a document's holder."""

    MOBILE_ID = "mobile_id"
    """An application of the state's, or of carriers together, that holds the document."""
    REGISTER_EXTRACT = "register_extract"
    CERTIFICATE = "certificate"
    """An authority's, as where fingers fail."""
    WALLET = "wallet"
    """A presentation that a verifier has checked."""


NOT_KEPT = "not_kept"
"""Stands for a way where lines were opened by a face that was not kept."""


class ProofLevel(StrEnum):
    """Levels of a proof, the weakest first (eIDAS, article 8)."""

    LOW = "low"
    SUBSTANTIAL = "substantial"
    HIGH = "high"


class ExceptionTally(Struct, frozen=True):
    """Exceptions that an outlet has asked for: enrollments without a usable face or portrait."""

    outlet: str
    carrier: str
    asked: int
    decided: int
    granted: int
    last_at: datetime
