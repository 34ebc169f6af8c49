"""Lines: a holder's own list, a dispute, an end."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from serving.wire.fields import AnswerBody, Id, KnownDocument, Moment, RequestBody, known
from serving.wire.matching import Face

LineStatus = Annotated[str, known("active", "disputed", "closed")]


class HolderRequest(RequestBody, frozen=True):
    """A document and a face that shows to be its holder's."""

    document: KnownDocument
    probe: Face


class Line(AnswerBody, frozen=True):
    """A line with its number masked; null once it is closed."""

    line_id: Id
    number: Annotated[str | None, Meta(examples=["••••••••••8000"])]
    carrier: str
    outlet: str
    status: LineStatus
    opened_at: Moment
    closed_at: Moment | None
    exception: Annotated[
        str | None,
        Meta(description="the cause of the exception by which it was opened; null of all others"),
    ] = None
    guardian_document_id: Annotated[
        str | None, Meta(description="of who answers for it; null but for a minor's")
    ] = None


class HolderLines(AnswerBody, frozen=True):
    """The lines under a document over all carriers, to its holder's face.

    Any other face gets the same answer whether or not somebody holds the document.
    """

    is_holder: bool
    score: Annotated[
        float | None, Meta(description="null to a tenant, and where the face is another's")
    ]
    threshold: float
    lines: tuple[Line, ...]


class Dispute(AnswerBody, frozen=True):
    """The case that people will decide; disputed again, it is the same."""

    case_id: Id
    line_id: str
    opened_at: Moment


class ClosedLine(AnswerBody, frozen=True):
    """A line that is not in use any more."""

    line_id: str
    status: Annotated[str, known("closed")]
