"""Wire types of cases: queries, steps and answers; and of outlets: who may enroll nobody and why,
and what was enrolled there before."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from schema.actors import Restriction
from schema.cases import CaseOrigin, CaseSort, CaseState, NoteKind, Outcome, Proposal
from schema.people import ExceptionTally
from schema.reasons import Decision
from serving.wire.enrollments import ShownDecision, ShownReason
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
    about,
    known,
)
from serving.wire.lines import Line
from serving.wire.matching import ItemError

MAX_NOTE_LENGTH = 4000
MAX_CLOSED_LINES = 200
MAX_REASON_LENGTH = 200
MAX_CASES_AT_ONCE = 100
ME = "me"

AskedState = Literal["open", "assigned", "proposed", "closed", "merged"]
CaseStep = Literal["propose", "close"]
ShownOutcome = Annotated[str, known(*Outcome)]
ShownState = Annotated[str, known(*CaseState)]
ShownOrigin = Annotated[str, known(*CaseOrigin)]
Actor = Annotated[
    str,
    about(
        "as histories name people, `key:<id>` for a key of none; `me` for who asks",
        min_length=1,
        max_length=200,
    ),
]
IdEnd = Annotated[str, Meta(min_length=4, max_length=36, pattern="^[0-9a-f-]+$")]
Codes = Annotated[tuple[Code, ...], Meta(max_length=50)]


class CaseQuery(QueryString):
    """Which cases to list, and in which order; `alive` are open, assigned and proposed ones,
    `fraud_in_use` those decided to be fraud of which lines are in use."""

    repeated: ClassVar[frozenset[str]] = frozenset({"carriers", "outlets"})

    limit: Limit = PAGE
    after: Annotated[
        After | None,
        about("`next` of the page before, or any case: it need not be listed any more"),
    ] = None
    sort: Annotated[
        CaseSort,
        about(
            "`risk`: the points of a group of a sweep (0 to 100), else those of the kind; "
            "`due`: what is due first, without cases that are never due"
        ),
    ] = CaseSort.NEWEST
    state: AskedState | Literal["alive", "fraud_in_use"] | None = None
    kind: Code | None = None
    assignee: Actor | None = None
    carrier: Annotated[
        Code | None, about("where a line in use of a document was opened, or it was attempted")
    ] = None
    outlet: Code | None = None
    id_end: Annotated[
        IdEnd | None, about("how the id of the case, its enrollment or a document ends")
    ] = None
    overdue: Annotated[bool, about("only what is due and not decided")] = False
    to_approve: Annotated[bool, about("only what another person has proposed")] = False
    carriers: Annotated[Codes, about("as `carrier`, any of several: repeat it")] = ()
    outlets: Annotated[Codes, about("as `outlet`, any of several: repeat it")] = ()


class AssignRequest(RequestBody):
    """Who is to work on it; null gives it back to the queue."""

    assignee: Actor | None


class NoteRequest(RequestBody):
    """A remark for those who read the case later."""

    text: Annotated[str, Meta(min_length=1, max_length=MAX_NOTE_LENGTH)]


class OutcomeRequest(RequestBody):
    """What was found, and which lines are to be closed by it."""

    outcome: Outcome
    seen_at: Annotated[
        Moment, about("`updated_at` of the case as it was looked at: 409 if it has changed since")
    ]
    close_lines: Annotated[
        tuple[Annotated[str, Meta(min_length=36, max_length=36)], ...],
        about(
            "lines to close, by id; another person must have proposed the same",
            max_length=MAX_CLOSED_LINES,
        ),
    ] = ()
    keep_lines: Annotated[
        bool,
        about(
            "the lines that are not to be closed stay in use; fraud says it where its "
            "documents have lines in use and none is closed, and whoever approves says it, too"
        ),
    ] = False


class CaseEnding(OutcomeRequest, kw_only=True):
    """What was found in one of several cases."""

    case_id: Annotated[str, Meta(min_length=36, max_length=36)]


class EndingsRequest(RequestBody):
    """A step of cases that are alike, and what was found in each."""

    step: CaseStep
    cases: Annotated[tuple[CaseEnding, ...], Meta(min_length=1, max_length=MAX_CASES_AT_ONCE)]


class CaseProposal(Proposal, AnswerBody, kw_only=True):
    """What one person proposes; who closes the case by it must be another."""

    outcome: ShownOutcome  # type: ignore[assignment]  # a later version's is read, too
    person: Annotated[
        str | None, about("who that is, whichever key was used; null: propose it anew")
    ]
    at: Moment


class Case(AnswerBody):
    """A case as a list has it; ids alone, no name and no number."""

    case_id: Id
    kind: str
    origin: ShownOrigin
    state: ShownState
    assignee: str | None
    outcome: Annotated[ShownOutcome | None, about("null until it is closed")]
    proposal: CaseProposal | None
    merged_into: Annotated[str | None, about("the case that goes on with it")]
    document_ids: tuple[str, ...]
    line_ids: Annotated[tuple[str, ...], about("lines that it is about")]
    enrollment_id: str | None
    sweep_id: str | None
    group_key: str | None
    score: Annotated[float | None, about("of the best link")]
    weakest: Annotated[
        float | None, about("score of the weakest link; null where only one score is known")
    ]
    risk: Annotated[float, about("0 to 100: in which order to look, no probability")]
    opened_at: Moment
    updated_at: Moment
    closed_at: Moment | None


class EndedCase(AnswerBody):
    """One of several cases after its step, or why it is as it was."""

    case_id: Id
    case: Case | None
    error: ItemError | None


class EndedCases(AnswerBody):
    """The cases of a step, in the order in which they were given."""

    cases: tuple[EndedCase, ...]


class CasePerson(PrivateAnswer):
    """Whom a document of a case names, masked; empty where it was erased."""

    document_id: str
    name: str
    number: Annotated[str, about("of the oldest line in use; empty where none is")]


class ListedCase(Case):
    """A case of a queue, with what tells it from others."""

    people: Annotated[tuple[CasePerson, ...], about("of its first documents, suspects first")]
    carriers: Annotated[
        tuple[str, ...], about("of its lines in use and its attempt, those with most lines first")
    ]
    outlets: tuple[str, ...]
    lines: Annotated[int, about("in use, of all its documents")]
    due_at: Annotated[Moment | None, about("by its kind; null: never, or it is decided")]
    is_overdue: bool
    erasure_due_at: Annotated[
        Moment | None,
        about("the erasure of a document is asked for: what the case needs goes then"),
    ]
    fraud_lines: Annotated[int, about("in use, of what it was decided to be fraud about")] = 0


class CaseCounts(AnswerBody):
    """The number of cases that are not decided."""

    kinds: Annotated[Mapping[str, int], about("of each kind")]
    overdue: int
    mine: Annotated[int, about("assigned to who asks")]
    to_approve: Annotated[int, about("proposed by another person than who asks")]


class CasePage(AnswerBody):
    """A page of cases, in the order that was asked for."""

    cases: tuple[ListedCase, ...]
    next: NextPage
    fraud_in_use: Annotated[
        int | None,
        about(
            "how many cases `state=fraud_in_use` lists, whatever is asked for; null on later pages"
        ),
    ] = None
    waiting: Annotated[
        CaseCounts | None, about("in the whole queue, whatever is asked for; null on later pages")
    ] = None


class CaseNote(PrivateAnswer):
    """One entry of a case's history."""

    at: Moment
    actor: str
    kind: Annotated[str, known(*NoteKind)]
    text: str


class CaseDocument(PrivateAnswer):
    """A document of a case, with its lines in use; `GET /v1/documents/{id}` has the rest."""

    document_id: str
    name: Annotated[str, about("its holder's, masked; empty where it was erased")]
    document_status: str
    is_suspect: Annotated[
        bool, about("one of those that seem to be one person's; not one that was only misused")
    ]
    lines: tuple[Line, ...]
    erasure_due_at: Annotated[
        Moment | None, about("its erasure is asked for, waits for this case, and is done by then")
    ]


class MergedCase(AnswerBody):
    """A case that went into another."""

    case_id: str
    kind: str
    origin: ShownOrigin
    enrollment_id: str | None
    score: float | None
    opened_at: Moment


class DecidedPair(AnswerBody):
    """Two documents of a case on which people have decided in another: nobody is asked again, and
    the outcome of this case leaves it as it is."""

    left: Id
    right: Id
    outcome: ShownOutcome
    score: float
    case_id: Id


class CaseFile(Case):
    """A case with its history, oldest first, and its documents that are not erased."""

    notes: tuple[CaseNote, ...]
    merged: Annotated[tuple[MergedCase, ...], about("what went into it, each with its enrollment")]
    documents: tuple[CaseDocument, ...]
    decided: Annotated[
        tuple[DecidedPair, ...],
        about("pairs of its documents that stand as decided before, the closest first"),
    ] = ()
    closed_lines: Annotated[
        tuple[Line, ...],
        about("that its decisions have closed; they stay closed where it is opened again"),
    ] = ()


class RevealRequest(RequestBody):
    """Why names and numbers have to be read in full."""

    reason: Annotated[
        str,
        about(
            "in words: the history of the case shows it", min_length=1, max_length=MAX_REASON_LENGTH
        ),
    ]


class ReopenRequest(RevealRequest):
    """Why a closed case has to be decided anew."""

    seen_at: Annotated[Moment, about("`updated_at` of the case as it was looked at")]


class RevealedDocument(PrivateAnswer):
    """A document as it was shown at enrollment."""

    document_id: Id
    type: str
    number: str
    name: Annotated[str, about("its holder's; of an exception whose name would be activated")]


class RevealedCase(PrivateAnswer):
    """Whom a case is about, in full: of its first documents that are not erased, suspects first."""

    case_id: Id
    documents: tuple[RevealedDocument, ...]


class CaseReportRequest(RequestBody):
    """What the report of a case shows besides what was seen and decided."""

    faces: Annotated[bool, about("those that are kept, side by side")] = False
    reveal: Annotated[bool, about("names and numbers in full; else masked")] = False
    carrier: Annotated[
        Code | None, about("leave out what this carrier may not see: others' lines")
    ] = None


class CaseReport(PrivateAnswer):
    """A case as one file for police or a regulator; nothing in it is loaded from elsewhere."""

    case_id: Id
    file_name: str
    html: Annotated[bytes, about("base64 in JSON, binary in MessagePack")]
    faces: Annotated[int, about("pictures of faces in it")]
    documents: int
    left_out: Annotated[int, about("documents that there was no room for")]
    audit_entries: Annotated[
        int, about("of the audit chain, with their hashes; the last is about this file")
    ]


ReasonText = Annotated[
    str,
    about(
        "in words, without anybody's name: it is shown with the outlet",
        min_length=1,
        max_length=MAX_REASON_LENGTH,
    ),
]


class OutletsQuery(QueryString):
    """Which restricted outlets to list; any outlet is read by its code."""

    limit: Limit = PAGE
    after: Annotated[Code | None, about("`next` of the page before")] = None
    carrier: Code | None = None
    restriction: Restriction | None = None


class RestrictRequest(RequestBody):
    """Why, and the case whose history has it."""

    case_id: Annotated[str, Meta(min_length=36, max_length=36)]
    reason: ReasonText


class LiftRequest(RequestBody):
    """Why it may enroll again; `restriction` is the one that was seen: 409 for another."""

    restriction: Restriction
    reason: ReasonText


class OutletLiveness(AnswerBody):
    """Liveness results of an outlet's requests in the last `days`: those that capture systems
    signed and those of a judge of the picture, each counted."""

    days: int
    results: int
    failed: int
    absent: Annotated[int, about("requests that should have brought one and did not")]
    proofs: Annotated[int, about("taken in place of a face: enrollments, verifications")]


class OutletPlace(AnswerBody):
    """An official point of sale."""

    outlet: str
    carrier: str
    is_open: bool


class OutletState(OutletPlace):
    """An outlet. While it is `restriction`ed it enrolls nobody, and attempts are counted."""

    restriction: Annotated[Annotated[str, known(*Restriction)] | None, about("null: it may enroll")]
    restricted_at: Moment | None
    restricted_by: str | None
    restricted_person: str | None
    restriction_case: str | None
    restriction_reason: str | None
    refused_attempts: Annotated[int, about("since it was restricted")]
    liveness: OutletLiveness | None = None


class OutletList(AnswerBody):
    """A page of the outlets that may enroll nobody, those with most refused attempts first."""

    outlets: tuple[OutletState, ...]
    next: NextPage


class ExceptionsQuery(QueryString):
    """Since how many days, and of one carrier alone."""

    days: Annotated[int, Meta(ge=1, le=366)] = 30
    carrier: Code | None = None


class OutletExceptions(ExceptionTally, AnswerBody):
    """Exceptions that an outlet has asked for: enrollments without a usable face or portrait."""

    last_at: Moment


class ExceptionCounts(AnswerBody):
    """Outlets that have asked for exceptions, those with most first."""

    outlets: tuple[OutletExceptions, ...]


class PastQuery(QueryString):
    """Which attempts of an outlet to list; `state`, `kind`, `assignee` and `overdue` are of the
    case that an attempt opened, or that went on with it."""

    limit: Limit = PAGE
    after: Annotated[After | None, about("`next` of the page before")] = None
    sort: Literal["newest", "oldest"] = "newest"
    decision: Decision | None = None
    state: AskedState | Literal["alive"] | None = None
    kind: Code | None = None
    assignee: Actor | None = None
    id_end: Annotated[IdEnd | None, about("how the id of the attempt or of its document ends")] = (
        None
    )
    overdue: bool = False


class PastCase(AnswerBody):
    """The case of an attempt."""

    case_id: Id
    kind: str
    state: ShownState


class PastEnrollment(PrivateAnswer):
    """An attempt at an outlet, with whom its document names, masked."""

    enrollment_id: Id
    decision: ShownDecision
    reasons: tuple[ShownReason, ...]
    decided_at: Moment
    document_id: str | None
    name: Annotated[str, about("empty where it was erased, or nobody is enrolled")]
    number: Annotated[str, about("of the line in use that it opened; empty for none")]
    case: PastCase | None


class PastEnrollments(AnswerBody):
    """A page of an outlet's attempts. Imported subscribers have none."""

    enrollments: tuple[PastEnrollment, ...]
    next: NextPage
