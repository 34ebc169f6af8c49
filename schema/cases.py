"""Parts of a case: kinds, origins, outcomes, history and proposal."""

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Self, cast

from msgspec import Meta

from schema import frozen
from schema.decoding import Value


class CaseOrigin(StrEnum):
    """Causes of a case."""

    DECISION = "decision"
    DISPUTE = "dispute"
    REVERIFICATION = "reverification"
    SWEEP = "sweep"


class CaseKind(StrEnum):
    """Questions that an analyst is asked to decide.

    A tenant is told of two kinds alone, unless a reason of the case is withheld. Whether a case
    about the dead is told would follow from reasons of two kinds, the id of a case about
    look-alikes says whether they are those of another attempt, and no tenant works on any other.
    """

    _value_: str
    is_told: bool

    def __new__(cls, value: str, is_told: bool | None = None) -> Self:
        # Look-ups by value, which do not come here, are typed by this signature, too.
        assert is_told is not None, "each kind says whether tenants are told of it"
        made = str.__new__(cls, value)
        made._value_, made.is_told = value, is_told
        return made

    STOLEN_DOCUMENT = "stolen_document", True
    DUPLICATE_IDENTITY = "duplicate_identity", False
    POSSIBLE_DUPLICATE = "possible_duplicate", False
    DISPUTE = "dispute", False
    LINE_CHANGED_FACE = "line_changed_face", False
    REVERIFICATION_FAILED = "reverification_failed", False
    """Another's face, where a line's holder was asked for: one case of a line at a time."""
    EXCEPTION = "exception", True
    """An enrollment without a usable face or portrait: two people grant it, or refuse it."""
    DECEASED = "deceased_identity", False
    """The document or the face of a holder who was reported dead."""
    PROBING = "probing", False
    """A holder whom others' faces are tried on, or a key that fails, more often than allowed."""
    ONE_FACE = "one_face_many_documents", False
    ONE_DOCUMENT = "one_document_many_faces", False
    RESALE_RING = "resale_ring", False


KIND_RISK: Mapping[str, float] = {
    CaseKind.STOLEN_DOCUMENT: 45,
    CaseKind.DUPLICATE_IDENTITY: 40,
    CaseKind.DECEASED: 40,
    CaseKind.EXCEPTION: 30,
    CaseKind.PROBING: 35,
    CaseKind.DISPUTE: 30,
    CaseKind.LINE_CHANGED_FACE: 25,
    CaseKind.REVERIFICATION_FAILED: 25,
    CaseKind.POSSIBLE_DUPLICATE: 20,
}
"""The points of a case that no sweep has ranked (`engine.sweeps.risk`), among the groups of sweeps:
two documents of one face at two carriers bring about 20 there, a ring of five 60."""

DUE_DAYS: dict[str, int] = {
    CaseKind.DISPUTE: 7,
    CaseKind.EXCEPTION: 3,
    CaseKind.DECEASED: 3,
    CaseKind.STOLEN_DOCUMENT: 3,
    CaseKind.DUPLICATE_IDENTITY: 7,
    CaseKind.PROBING: 3,
    CaseKind.LINE_CHANGED_FACE: 14,
    CaseKind.REVERIFICATION_FAILED: 14,
    CaseKind.POSSIBLE_DUPLICATE: 14,
    CaseKind.ONE_FACE: 30,
    CaseKind.ONE_DOCUMENT: 30,
    CaseKind.RESALE_RING: 30,
}
"""Days until a case of each kind is due, where no setting says otherwise."""


class CaseState(StrEnum):
    """A case is alive while it is open, assigned or proposed."""

    OPEN = "open"
    ASSIGNED = "assigned"
    PROPOSED = "proposed"
    CLOSED = "closed"
    MERGED = "merged"


ALIVE = frozenset({CaseState.OPEN, CaseState.ASSIGNED, CaseState.PROPOSED})


class CaseSort(StrEnum):
    """Order of a queue."""

    RISK = "risk"
    """The highest first."""
    DUE = "due"
    """What is due first; cases that are never due are left out."""
    NEWEST = "newest"
    OLDEST = "oldest"
    SCORE = "score"
    """The highest first."""


APART = frozenset(
    {CaseKind.DISPUTE, CaseKind.PROBING, CaseKind.REVERIFICATION_FAILED, CaseKind.EXCEPTION}
)
"""Kinds that are never merged with others that name the same document."""
CLAIMED = "claimed:"
"""How the group key of a case begins that is about another's face, shown where a document was said
to be replaced: such cases are merged with their like alone, for they say nothing of the holder."""

UNTOLD = "untold:"
"""How the group key of a case begins that is about look-alikes of whom no tenant was told: such
cases are merged with their like alone, for nothing that a tenant can ask may show that they are
there."""

CONFIRMED = "confirm:"
"""How the group key of a case begins that asks two people whether what the faces leave open may be
done, with the ids of both documents: closed as unfounded, it may. It is about who asks, and is
never merged with others."""


def name_confirmation(document_id: str, other_id: str) -> str:
    """The group key of the case that asks whether the other document may have to do with this."""
    return f"{CONFIRMED}{document_id}:{other_id}"


class Outcome(StrEnum):
    """Decision of an analyst on a case."""

    FRAUD = "fraud"
    """One person under several documents, or a document used by another person: the faces go to
    the watch-list, the pairs count as true."""
    TWINS = "twins"
    """Two people who look alike: the pairs become exceptions, which later sweeps respect."""
    MISTAKE = "mistake"
    """Not the same person, or one person with good reason: exceptions as well."""
    UNFOUNDED = "unfounded"
    """A dispute without grounds: disputed lines are active again. Of an exception: nothing speaks
    against it, so it is granted, and its line opened. Of a replacement or a guardian that two
    people are asked about: it may be sent again. Of a key that was stopped: it may search again."""


class NoteKind(StrEnum):
    """Kind of an entry in a case's history."""

    OPENED = "opened"
    MERGED = "merged"
    ASSIGNED = "assigned"
    NOTE = "note"
    PROPOSED = "proposed"
    WITHDRAWN = "withdrawn"
    CLOSED = "closed"
    REOPEN_ASKED = "reopen_asked"
    REOPENED = "reopened"
    """What was decided ended with it; the text says why."""
    ERASURE_ASKED = "erasure_asked"
    """Of a document; it waits for the case until the moment that the text says."""
    ERASED = "erased"
    """A document, although the case was open."""
    EXPIRED = "expired"
    """What retention deletes, although the case was open; the text says which kind."""
    RESTRICTED = "restricted"
    """An outlet was suspended, barred, or may enroll again; the text says which, and why."""
    REVEALED = "revealed"
    """Names and numbers of documents were shown in full; the text says why."""


@frozen
class DueDates:
    """When cases are due: `due_days` after they were opened, by kind, else `DUE_DAYS`; 0: never."""

    due_days: Mapping[CaseKind, int] = field(
        default_factory=dict,
        metadata={
            "description": "days until a case of a kind is due, as { dispute = 5 }; 0: never; "
            f"kinds not named: {', '.join(f'{kind} {days}' for kind, days in DUE_DAYS.items())}"
        },
    )

    def __post_init__(self) -> None:
        if not all(0 <= days <= 3650 for days in self.due_days.values()):
            raise ValueError("give days between 0 and 3650")

    def span(self, kind: str) -> timedelta | None:
        """The time that a case of this kind may take; None: any."""
        days = self.due_days.get(cast("CaseKind", kind), DUE_DAYS.get(kind, 0))
        return timedelta(days=days) if days else None

    def of(self, kind: str, opened_at: datetime) -> datetime | None:
        """When such a case is due."""
        span = self.span(kind)
        return None if span is None else opened_at + span


@frozen
class CaseNote:
    """Entry of a case's history; `text` is sealed in the registry."""

    at: datetime
    actor: str
    kind: NoteKind
    text: str = field(default="", repr=False)


class Proposal(Value, kw_only=True):
    """Outcome proposed by one person; another must close the case by it.

    `by` is who proposed it as the audit chain has it; `person` is None where it was proposed before
    keys belonged to people.
    """

    outcome: Outcome
    close_lines: tuple[str, ...]
    by: str
    person: str | None = None
    at: datetime
    keep_lines: Annotated[
        bool, Meta(description="it was said that all other lines of the documents stay in use")
    ] = False
    reopen_by: Annotated[
        str | None, Meta(description="who asks that the closed case be opened again")
    ] = None


class Ground(StrEnum):
    """Why a threshold is proposed, or none is."""

    ENOUGH = "enough"
    TOO_FEW = "too_few"
    NEVER = "never"
    """No threshold reaches it by the decisions made so far."""
