"""Wire types of cases: queries, steps and answers."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from schema.cases import CaseOrigin, CaseSort, CaseState, NoteKind, Outcome
from serving.wire.fields import (
    PAGE,
    After,
    AnswerBody,
    Code,
    Id,
    Limit,
    Moment,
    NextPage,
    PrivateAnswer,
    QueryString,
    RequestBody,
    known,
)
from serving.wire.lines import Line

MAX_NOTE_LENGTH = 4000
MAX_CLOSED_LINES = 200
ME = "me"

AskedState = Literal["open", "assigned", "proposed", "closed", "merged"]
ShownOutcome = Annotated[str, known(*Outcome)]
ShownState = Annotated[str, known(*CaseState)]
ShownOrigin = Annotated[str, known(*CaseOrigin)]
ShownNote = Annotated[str, known(*NoteKind)]
Actor = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        description="as histories name people, `key:<id>` for a key of none; `me` for who asks",
    ),
]
LineIds = Annotated[
    tuple[Annotated[str, Meta(min_length=36, max_length=36)], ...],
    Meta(
        max_length=MAX_CLOSED_LINES,
        description="lines to close, by id; another person must have proposed the same",
    ),
]


class CaseQuery(QueryString, frozen=True):
    """Which cases to list, and in which order; `alive` are open, assigned and proposed ones,
    `fraud_in_use` those decided to be fraud of which lines are in use."""

    limit: Limit = PAGE
    after: Annotated[
        After | None,
        Meta(description="`next` of the page before, or any case: it need not be listed any more"),
    ] = None
    sort: Annotated[
        CaseSort,
        Meta(
            description="`risk`: the points of a group of a sweep (0 to 100), else those of the "
            "kind; `due`: what is due first, without cases that are never due"
        ),
    ] = CaseSort.NEWEST
    state: AskedState | Literal["alive", "fraud_in_use"] | None = None
    kind: Code | None = None
    assignee: Actor | None = None
    carrier: Annotated[
        Code | None,
        Meta(description="where a line in use of a document was opened, or it was attempted"),
    ] = None
    outlet: Code | None = None
    id_end: Annotated[
        Annotated[str, Meta(min_length=4, max_length=36, pattern="^[0-9a-f-]+$")] | None,
        Meta(description="how the id of the case, its enrollment or a document ends"),
    ] = None
    overdue: Annotated[bool, Meta(description="only what is due and not decided")] = False


class AssignRequest(RequestBody, frozen=True):
    """Who is to work on it; null gives it back to the queue."""

    assignee: Actor | None


class NoteRequest(RequestBody, frozen=True):
    """A remark for those who read the case later."""

    text: Annotated[str, Meta(min_length=1, max_length=MAX_NOTE_LENGTH)]


class OutcomeRequest(RequestBody, frozen=True):
    """What was found, and which lines are to be closed by it."""

    outcome: Outcome
    seen_at: Annotated[
        Moment,
        Meta(
            description="`updated_at` of the case as it was looked at: 409 if it has changed since"
        ),
    ]
    close_lines: LineIds = ()
    keep_lines: Annotated[
        bool,
        Meta(
            description="the lines that are not to be closed stay in use; fraud says it where its "
            "documents have lines in use and none is closed, and whoever approves says it, too"
        ),
    ] = False

    def __post_init__(self) -> None:
        if any("\0" in line for line in self.close_lines):
            raise ValueError("close_lines holds characters that are no text")


class CaseProposal(AnswerBody, frozen=True):
    """What one person proposes; who closes the case by it must be another."""

    outcome: ShownOutcome
    close_lines: tuple[str, ...]
    by: str
    person: Annotated[
        str | None, Meta(description="who that is, whichever key was used; null: propose it anew")
    ]
    at: Moment
    keep_lines: Annotated[
        bool, Meta(description="it was said that all other lines of the documents stay in use")
    ] = False


class Case(AnswerBody, frozen=True):
    """A case as a list has it; ids alone, no name and no number."""

    case_id: Id
    kind: str
    origin: ShownOrigin
    state: ShownState
    assignee: str | None
    outcome: Annotated[ShownOutcome | None, Meta(description="null until it is closed")]
    proposal: CaseProposal | None
    merged_into: Annotated[str | None, Meta(description="the case that goes on with it")]
    document_ids: tuple[str, ...]
    line_ids: Annotated[tuple[str, ...], Meta(description="lines that it is about")]
    enrollment_id: str | None
    sweep_id: str | None
    group_key: str | None
    score: Annotated[float | None, Meta(description="of the best link")]
    weakest: Annotated[
        float | None,
        Meta(description="score of the weakest link; null where only one score is known"),
    ]
    risk: Annotated[float, Meta(description="0 to 100: in which order to look, no probability")]
    opened_at: Moment
    updated_at: Moment
    closed_at: Moment | None


class CasePerson(PrivateAnswer, frozen=True):
    """Whom a document of a case names, masked; empty where it was erased."""

    document_id: str
    name: str
    number: Annotated[str, Meta(description="of the oldest line in use; empty where none is")]


DueAt = Annotated[Moment | None, Meta(description="by its kind; null: never, or it is decided")]


class ListedCase(Case, frozen=True):
    """A case of a queue, with what tells it from others."""

    people: Annotated[
        tuple[CasePerson, ...], Meta(description="of its first documents, suspects first")
    ]
    carriers: Annotated[
        tuple[str, ...],
        Meta(description="of its lines in use and its attempt, those with most lines first"),
    ]
    outlets: tuple[str, ...]
    lines: Annotated[int, Meta(description="in use, of all its documents")]
    due_at: DueAt
    is_overdue: bool
    erasure_due_at: Annotated[
        Moment | None,
        Meta(description="the erasure of a document is asked for: what the case needs goes then"),
    ]
    fraud_lines: Annotated[
        int, Meta(description="in use, of what it was decided to be fraud about")
    ] = 0


class CasePage(AnswerBody, frozen=True):
    """A page of cases, in the order that was asked for."""

    cases: tuple[ListedCase, ...]
    next: NextPage
    fraud_in_use: Annotated[
        int | None,
        Meta(
            description="how many cases `state=fraud_in_use` lists, whatever is asked for; null "
            "on later pages"
        ),
    ] = None


class CaseNote(PrivateAnswer, frozen=True):
    """One entry of a case's history."""

    at: Moment
    actor: str
    kind: ShownNote
    text: str


class CaseDocument(PrivateAnswer, frozen=True):
    """A document of a case, with its lines in use; `GET /v1/documents/{id}` has the rest."""

    document_id: str
    name: Annotated[str, Meta(description="its holder's, masked; empty where it was erased")]
    document_status: str
    is_suspect: Annotated[
        bool,
        Meta(
            description="one of those that seem to be one person's; not one that was only misused"
        ),
    ]
    lines: tuple[Line, ...]
    erasure_due_at: Annotated[
        Moment | None,
        Meta(description="its erasure is asked for, waits for this case, and is done by then"),
    ]


class MergedCase(AnswerBody, frozen=True):
    """A case that went into another."""

    case_id: str
    kind: str
    origin: ShownOrigin
    enrollment_id: str | None
    score: float | None
    opened_at: Moment


class DecidedPair(AnswerBody, frozen=True):
    """Two documents of a case on which people have decided in another: nobody is asked again, and
    the outcome of this case leaves it as it is."""

    left: Id
    right: Id
    outcome: ShownOutcome
    score: float
    case_id: Id


class CaseFile(Case, frozen=True):
    """A case with its history, oldest first, and its documents that are not erased."""

    notes: tuple[CaseNote, ...]
    merged: Annotated[
        tuple[MergedCase, ...], Meta(description="what went into it, each with its enrollment")
    ]
    documents: tuple[CaseDocument, ...]
    decided: Annotated[
        tuple[DecidedPair, ...],
        Meta(description="pairs of its documents that stand as decided before, the closest first"),
    ] = ()


class CaseReportRequest(RequestBody, frozen=True):
    """What the report of a case shows besides what was seen and decided."""

    faces: Annotated[bool, Meta(description="those that are kept, side by side")] = False
    reveal: Annotated[bool, Meta(description="names and numbers in full; else masked")] = False
    carrier: Annotated[
        Code | None, Meta(description="leave out what this carrier may not see: others' lines")
    ] = None


class CaseReport(PrivateAnswer, frozen=True):
    """A case as one file for police or a regulator; nothing in it is loaded from elsewhere."""

    case_id: Id
    file_name: str
    html: Annotated[bytes, Meta(description="base64 in JSON, binary in MessagePack")]
    faces: Annotated[int, Meta(description="pictures of faces in it")]
    documents: int
    left_out: Annotated[int, Meta(description="documents that there was no room for")]
    audit_entries: Annotated[
        int, Meta(description="of the audit chain, with their hashes; the last is about this file")
    ]
