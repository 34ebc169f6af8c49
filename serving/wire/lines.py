"""Wire types of lines: a holder's own, their events, campaigns; SIM swaps as CAMARA has them."""

from typing import Annotated, Literal

from msgspec import Meta

from schema.actors import ActorKind
from schema.lines import (
    CampaignLineState,
    CampaignState,
    ExemptionCause,
    HolderShown,
    LineEventKind,
    LineState,
    ReportedKind,
)
from serving.wire.fields import (
    MAX_PAGE,
    AnswerBody,
    Code,
    Id,
    KnownDocument,
    LivenessToken,
    Moment,
    QueryString,
    RequestBody,
    about,
    known,
)
from serving.wire.matching import Face

LineStatus = Annotated[str, known(*LineState)]


Suspension = Annotated[
    str,
    known("pending", "suspended_outgoing", "suspended"),
    about("also of a line whose status is disputed"),
]


class HolderRequest(RequestBody):
    """A document and a face that shows to be its holder's."""

    document: KnownDocument
    probe: Face
    liveness: (
        Annotated[LivenessToken, about("of the probe, which is then the photograph itself")] | None
    ) = None


class Line(AnswerBody):
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
        str | None, about("the cause of the exception by which it was opened; null of all others")
    ] = None
    guardian_document_id: Annotated[
        str | None, about("of who answers for it; null but for a minor's")
    ] = None


class HolderLines(HolderShown, AnswerBody):
    """The lines under a document over all carriers, to its holder's face.

    Any other face gets the same answer whether or not somebody holds the document.
    """

    lines: tuple[Line, ...]


class Dispute(AnswerBody):
    """The case that people will decide; disputed again, it is the same."""

    case_id: Id
    line_id: str
    opened_at: Moment


class ClosedLine(AnswerBody):
    """A line that is not in use any more."""

    line_id: str
    status: Annotated[str, known("closed")]


class EventReport(RequestBody):
    """What has happened to a line in use. `port_out` and `transfer` end it: whoever has the number
    then is enrolled anew."""

    kind: ReportedKind
    at: Moment


class LineEvent(AnswerBody):
    """What happened to a line, and who has told or done it."""

    kind: Annotated[str, known(*LineEventKind)]
    at: Moment
    recorded_at: Moment
    cause: Annotated[
        str | None,
        about(
            "the rule, the campaign or the case; of what people did `request`, `holder`, "
            "`case`, `death` or `erasure`"
        ),
    ]
    line_id: Id
    by: Annotated[
        str, known(*ActorKind), about("`service`: by a rule; `key`: one that is no person's")
    ]


class Waiting(AnswerBody):
    """A rule or a campaign that asks for the holder, and what follows where nobody comes."""

    rule: str
    asked_at: Moment
    next_step_at: Moment | None
    next_state: LineStatus | None


class LineHistory(AnswerBody):
    """What happened to a line, its newest 500 events in their order, and what it waits for."""

    line_id: Id
    status: LineStatus
    suspension: Suspension | None
    opened_at: Moment
    closed_at: Moment | None
    waiting: tuple[Waiting, ...]
    events: tuple[LineEvent, ...]


class ExemptionRequest(RequestBody):
    """Why no limit on lines holds for a document."""

    cause: ExemptionCause


class Exemption(AnswerBody):
    """Whether limits on lines hold for a document."""

    document_id: Id
    is_exempt: bool
    cause: str | None = None
    at: Moment | None = None
    by: str | None = None


MOST_CAMPAIGN_LINES = 1_000
Then = Literal["suspended_outgoing", "suspended", "closed"]
Duration = Annotated[str, about("90m, 2h, 30d", max_length=8, examples=["30d"])]


class ChosenLines(RequestBody, kw_only=True):
    """Lines in use of the carrier that all of this holds for; empty: all of them."""

    outlet: Code | None = None
    opened_before: Moment | None = None
    opened_after: Moment | None = None


class CampaignRequest(RequestBody, kw_only=True):
    """A campaign. At the deadline a line whose holder has not come is overdue, and `then`; `after`
    that it is `then2` or `last`, and `after2` that `last`. Without `chosen` its lines are given by
    `POST /v1/campaigns/{campaign_id}/lines`."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    deadline: Moment
    carrier: Annotated[Code | None, about("for operators: whose lines")] = None
    chosen: ChosenLines | None = None
    then: Then | None = None
    after: Duration | None = None
    then2: Then | None = None
    after2: Duration | None = None
    last: Then | None = None


class CampaignLinesRequest(RequestBody):
    """Lines by number or id; those that a campaign has already stay as they are."""

    lines: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...],
        Meta(min_length=1, max_length=MOST_CAMPAIGN_LINES),
    ]


class AddedLines(AnswerBody):
    """How many are new to the campaign, and the places of those that are no line in use of its
    carrier."""

    added: int
    unknown: tuple[int, ...]


class CampaignProgress(AnswerBody):
    """How many lines are how far; those that were closed before their holder came have left."""

    asked: int
    verified: int
    overdue: int
    left: int


class Campaign(AnswerBody):
    """A campaign and how far it is; while it is `filling` lines are still being added, and once it
    was `ended` none are."""

    campaign_id: Id
    name: str
    carrier: str
    state: Annotated[str, known(*CampaignState)]
    deadline: Moment
    created_at: Moment
    progress: CampaignProgress


class Campaigns(AnswerBody):
    """The newest twenty."""

    campaigns: tuple[Campaign, ...]


class CampaignLinesQuery(QueryString):
    """Lines of a campaign in one state, by id."""

    state: CampaignLineState = CampaignLineState.OVERDUE
    after: Annotated[Id | None, about("`next` of the page before")] = None
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = MAX_PAGE


class CampaignLine(AnswerBody):
    """A line of a campaign, and when it came into this state."""

    line_id: Id
    at: Moment


class CampaignLines(AnswerBody):
    """A page; `next` is null on the last one."""

    lines: tuple[CampaignLine, ...]
    next: Id | None


MOST_HOURS, USUAL_HOURS = 2400, 240
PhoneNumber = Annotated[
    str,
    about(
        "in E.164; required, as no key stands for a number",
        pattern=r"^\+[1-9][0-9]{4,14}$",
        examples=["+346661113334"],
    ),
]


class SimSwapDateRequest(RequestBody):
    phoneNumber: PhoneNumber | None = None  # noqa: N815 - CAMARA's


class SimSwapCheckRequest(RequestBody):
    phoneNumber: PhoneNumber | None = None  # noqa: N815 - CAMARA's
    maxAge: Annotated[  # noqa: N815
        int,
        about(
            "hours that are looked back", extra_json_schema={"minimum": 1, "maximum": MOST_HOURS}
        ),
    ] = USUAL_HOURS


class SimSwapDate(AnswerBody, omit_defaults=True):
    """When the number got the SIM that it has; null: not within `monitoredPeriod` days."""

    latestSimChange: Moment | None  # noqa: N815
    monitoredPeriod: int | None = None  # noqa: N815


class SimSwapCheck(AnswerBody):
    """Whether it got it within these hours."""

    swapped: bool
