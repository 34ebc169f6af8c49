"""A case, its states, and what may come of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class CaseOrigin(StrEnum):
    """What opened a case."""

    DECISION = "decision"
    DISPUTE = "dispute"
    REVERIFICATION = "reverification"
    SWEEP = "sweep"


class CaseKind(StrEnum):
    """What people are asked to decide: of decisions, of disputes and checks, of sweeps."""

    STOLEN_DOCUMENT = "stolen_document"
    DUPLICATE_IDENTITY = "duplicate_identity"
    POSSIBLE_DUPLICATE = "possible_duplicate"
    DISPUTE = "dispute"
    LINE_CHANGED_FACE = "line_changed_face"
    ONE_FACE = "one_face_many_documents"
    ONE_DOCUMENT = "one_document_many_faces"
    RESALE_RING = "resale_ring"


class Outcome(StrEnum):
    """What people found."""

    FRAUD = "fraud"
    """One person under several documents, or a document in foreign hands: the faces go to the
    watch-list, the pairs count as true."""
    TWINS = "twins"
    """Two people who look alike: the pairs become exceptions, which later sweeps respect."""
    MISTAKE = "mistake"
    """Not the same person, or one person with good reason: exceptions as well."""
    UNFOUNDED = "unfounded"
    """A dispute without ground: disputed lines are active again."""


class NoteKind(StrEnum):
    """What an entry of a case's history says."""

    OPENED = "opened"
    MERGED = "merged"
    ASSIGNED = "assigned"
    NOTE = "note"
    PROPOSED = "proposed"
    WITHDRAWN = "withdrawn"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class CaseNote:
    """One entry of the history; `text` is sealed in the registry."""

    at: datetime
    actor: str
    kind: NoteKind
    text: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """An outcome that one person proposes; who closes lines by it must be another."""

    outcome: Outcome
    close_lines: tuple[str, ...] = ()
    by: str
    at: datetime
