"""What the service answers fraud teams about people and cases."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from serving.client.answers import Line
from serving.client.decisions import ExpectedFalseCandidates


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseProposal:
    """Who closes lines by it must be another than `by`."""

    outcome: str
    close_lines: tuple[str, ...]
    by: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRow:
    """A case as lists have it; alive while it is open, assigned or proposed."""

    case_id: str
    kind: str
    origin: str
    state: str
    assignee: str | None
    outcome: str | None
    proposal: CaseProposal | None
    merged_into: str | None
    document_ids: tuple[str, ...]
    line_ids: tuple[str, ...]
    enrollment_id: str | None
    sweep_id: str | None
    group_key: str | None
    score: float | None
    risk: float | None
    opened_at: datetime
    updated_at: datetime
    closed_at: datetime | None


@dataclass(frozen=True, slots=True)
class CasePage:
    """`next` is `after` of the next page, None on the last."""

    cases: tuple[CaseRow, ...]
    next: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseNote:
    at: datetime
    actor: str
    kind: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseDocument:
    document_id: str
    document_status: str
    is_suspect: bool
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedCase:
    """A case that went into another, with its own enrollment."""

    case_id: str
    kind: str
    origin: str
    enrollment_id: str | None
    score: float | None
    opened_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFile(CaseRow):
    """A case with its history, oldest first, and its documents."""

    notes: tuple[CaseNote, ...]
    merged: tuple[MergedCase, ...]
    documents: tuple[CaseDocument, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An enrollment in short."""

    enrollment_id: str
    carrier: str
    outlet: str
    decision: str
    reasons: tuple[str, ...]
    decided_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What stands under one document, masked; a score where a face was asked for."""

    document_id: str
    document_type: str
    document_status: str
    number: str
    name: str
    score: float | None
    lines: tuple[Line, ...]
    enrollments: tuple[Attempt, ...]
    cases: tuple[CaseRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """Whom was found, best first; an empty tuple is a true "nobody"."""

    people: tuple[Person, ...]
    found: int
    searched: int | None
    gallery_sequence: int | None
    threshold: float | None
    expected_false_candidates: ExpectedFalseCandidates | None


@dataclass(frozen=True, slots=True)
class Crop:
    """An aligned face as a JPEG or PNG file."""

    photograph: str
    image: bytes = field(repr=False)
    kept_until: datetime


@dataclass(frozen=True, slots=True)
class Crops:
    """None where crops are not kept, or not any more."""

    enrollment_id: str
    crops: tuple[Crop, ...]
