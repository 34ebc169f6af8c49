"""Cases: what people look into, the steps they take, and what came of it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from engine.cases.case import CaseOrigin, NoteKind, Outcome
from engine.registry.records import CaseState
from serving.api.fields import ID_EXAMPLE, Body, Code, Moment, PageAsked, Shown, Text
from serving.api.schemas.lines import LineShown

MAX_NOTE_LENGTH = 4000
MAX_CLOSED_LINES = 200
ME = "me"

Actor = Annotated[
    Text,
    Field(
        min_length=1,
        max_length=64,
        description="as history names people: `key:<id>`, `me` for who asks",
    ),
]
LineIds = Annotated[
    list[Annotated[Text, Field(min_length=36, max_length=36)]],
    Field(
        max_length=MAX_CLOSED_LINES,
        description="lines to close, by id; a second person must have proposed them",
    ),
]


class CasesAsked(PageAsked):
    """Which cases to list, the newest first; `alive` are open, assigned and proposed ones."""

    state: CaseState | Literal["alive"] | None = None
    kind: Code | None = None
    assignee: Actor | None = None


class AssignBody(Body):
    """Who is to work on it; null gives it back to the queue."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"assignee": "me"}]})

    assignee: Actor | None


class NoteBody(Body):
    """A remark for those who read the case later."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "Both documents show the same scar."}]}
    )

    text: Annotated[Text, Field(min_length=1, max_length=MAX_NOTE_LENGTH)] = Field(repr=False)


class OutcomeBody(Body):
    """What was found, and which lines are to be closed by it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "outcome": "fraud",
                    "close_lines": [ID_EXAMPLE],
                    "seen_at": "2026-01-31T12:00:00.123456Z",
                },
                {"outcome": "twins"},
            ]
        }
    )

    outcome: Annotated[Outcome, Field(strict=False)]
    close_lines: LineIds = Field(default_factory=list)
    seen_at: Moment | None = Field(
        default=None,
        description="`updated_at` of the case as it was looked at: 409 if it has changed since",
    )


class ProposalShown(Shown):
    """What one person proposes; who closes lines by it must be another."""

    outcome: Outcome
    close_lines: list[str]
    by: str
    at: datetime


class CaseShown(Shown):
    """A case as a list has it; ids alone, no name and no number."""

    case_id: str = Field(examples=[ID_EXAMPLE])
    kind: str
    origin: CaseOrigin
    state: CaseState
    assignee: str | None
    outcome: Outcome | None = Field(description="null until it is closed")
    proposal: ProposalShown | None
    merged_into: str | None = Field(description="the case that goes on with it")
    document_ids: list[str]
    line_ids: list[str] = Field(description="lines that it is about")
    enrollment_id: str | None
    sweep_id: str | None
    group_key: str | None
    score: float | None
    risk: float | None
    opened_at: datetime
    updated_at: datetime
    closed_at: datetime | None


class CasesAnswer(Shown):
    """A page of cases, the newest first."""

    cases: list[CaseShown]
    next: str | None = Field(description="`after` of the next page; null on the last")


class CaseNoteShown(Shown):
    """One entry of a case's history."""

    at: datetime
    actor: str
    kind: NoteKind
    text: str


class CaseDocument(Shown):
    """A document of a case, with its lines in use; `GET /v1/documents/{id}` has the rest."""

    document_id: str
    document_status: str
    is_suspect: bool = Field(
        description="one of those that seem to be one person's; not one that was only misused"
    )
    lines: list[LineShown]


class MergedCase(Shown):
    """A case that went into another."""

    case_id: str
    kind: str
    origin: CaseOrigin
    enrollment_id: str | None
    score: float | None
    opened_at: datetime


class CaseAnswer(CaseShown):
    """A case with its history, oldest first, and its documents that are not erased."""

    notes: list[CaseNoteShown]
    merged: list[MergedCase] = Field(description="what went into it, each with its enrollment")
    documents: list[CaseDocument]
