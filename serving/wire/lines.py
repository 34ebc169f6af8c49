"""Lines: a holder's own list, a dispute, an end."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import Meta

from serving.wire.fields import (
    AnswerBody,
    Id,
    KnownDocument,
    LivenessToken,
    Moment,
    RequestBody,
    known,
)
from serving.wire.matching import Face

LineStatus = Annotated[
    str, known("pending", "active", "suspended_outgoing", "suspended", "closed", "disputed")
]
ReportedKind = Literal[
    "sim_swap", "device_change", "port_in", "port_out", "transfer", "esim_download"
]
EventKind = Annotated[
    str,
    known(
        *get_args(ReportedKind),
        "reverify_asked",
        "reverified",
        "reverify_failed",
        "overdue",
        "pending",
        "suspended_outgoing",
        "suspended",
        "unsuspended",
        "closed",
        "disputed",
        "restored",
    ),
]


Suspension = Annotated[
    str,
    known("pending", "suspended_outgoing", "suspended"),
    Meta(description="also of a line whose status is disputed"),
]


class HolderRequest(RequestBody, frozen=True):
    """A document and a face that shows to be its holder's."""

    document: KnownDocument
    probe: Face
    liveness: (
        Annotated[
            LivenessToken, Meta(description="of the probe, which is then the photograph itself")
        ]
        | None
    ) = None


class Line(AnswerBody, frozen=True):
    """A line with its number masked; null once it is closed."""

    line_id: Id
    number: Annotated[str | None, Meta(examples=["••••••••••8000"])]
    carrier: str
    outlet: str
    status: LineStatus
    opened_at: Moment
    closed_at: Moment | None
    suspension: Suspension | None = None
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


class EventReport(RequestBody, frozen=True):
    """What has happened to a line in use. `port_out` and `transfer` end it: whoever has the number
    then is enrolled anew."""

    kind: ReportedKind
    at: Moment


class LineEvent(AnswerBody, frozen=True):
    """What happened to a line, and who has told or done it."""

    kind: EventKind
    at: Moment
    recorded_at: Moment
    cause: Annotated[
        str | None,
        Meta(
            description="the rule, the campaign or the case; of what people did `request`, "
            "`holder`, `case`, `death` or `erasure`"
        ),
    ]
    line_id: Id
    by: Annotated[
        str,
        known("service", "command", "person", "key"),
        Meta(description="`service`: by a rule; `key`: one that is no person's"),
    ]


class Waiting(AnswerBody, frozen=True):
    """A rule or a campaign that asks for the holder, and what follows where nobody comes."""

    rule: str
    asked_at: Moment
    next_step_at: Moment | None
    next_state: LineStatus | None


class LineHistory(AnswerBody, frozen=True):
    """What happened to a line, its newest 500 events in their order, and what it waits for."""

    line_id: Id
    status: LineStatus
    suspension: Suspension | None
    opened_at: Moment
    closed_at: Moment | None
    waiting: tuple[Waiting, ...]
    events: tuple[LineEvent, ...]


ExemptionCause = Literal["business", "public_body", "household", "other"]


class ExemptionRequest(RequestBody, frozen=True):
    """Why no limit on lines holds for a document."""

    cause: ExemptionCause


class Exemption(AnswerBody, frozen=True):
    """Whether limits on lines hold for a document."""

    document_id: Id
    is_exempt: bool
    cause: str | None = None
    at: Moment | None = None
    by: str | None = None
