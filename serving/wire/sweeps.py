"""Sweeps: what is asked, what to expect, how far one is, and the groups that it found."""

from typing import Annotated, Any

from msgspec import Meta

from schema.cases import Ground
from schema.sweeps import (
    EstimatedThreshold,
    GroupKind,
    LineFact,
    Link,
    Outcomes,
    RiskTerm,
    SweepScope,
    SweepState,
)
from serving.wire.fields import (
    PAGE,
    AnswerBody,
    Id,
    Limit,
    Moment,
    NextNumber,
    QueryString,
    RequestBody,
    Score,
    about,
    known,
)
from serving.wire.matching import ExpectedFalseCandidates

ShownScope = Annotated[str, known(*SweepScope)]
ShownState = Annotated[str, known(*SweepState)]


class SweepsQuery(QueryString):
    """How many of the newest sweeps to list."""

    limit: Limit = PAGE


class GroupsQuery(QueryString):
    """One page of a sweep's groups."""

    limit: Limit = PAGE
    after: Annotated[int, about("`next` of the page before", ge=0, le=2**31 - 1)] = 0


class PrecisionQuery(QueryString):
    """Of one sweep, or of all."""

    sweep_id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    wanted: Annotated[
        float, about("the least precision that a threshold is proposed for", ge=0.01, le=0.99)
    ] = 0.8


class SweepRequest(RequestBody):
    """A threshold, or the false match rate that chooses one, or neither for the proposed one."""

    threshold: Annotated[
        Score | None, about("not below the deployment's for review, or the proposed one if lower")
    ] = None
    fmr: Annotated[
        Annotated[float, Meta(gt=0, lt=1)] | None, about("its threshold is bound in the same way")
    ] = None
    scope: SweepScope = SweepScope.ALL
    dry_run: Annotated[bool, about("only say what to expect")] = False
    allow_unsupported: Annotated[
        bool, about("take a threshold of which the calibration says no more than a bound")
    ] = False
    budget: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None,
        about(
            "so many groups at most, by likelihood ratio: the score with outlets, times, "
            "names, birth dates, passport numbers and disputes"
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.threshold is not None and self.fmr is not None:
            raise ValueError("give a threshold or a false match rate, not both")


class SweepProposal(EstimatedThreshold, AnswerBody, kw_only=True):
    """The lowest calibrated threshold whose false pairs keep to the budget, or the highest."""

    false_pairs: ExpectedFalseCandidates


class Expectation(AnswerBody):
    """What such a sweep would cost and bring, and the threshold that is proposed."""

    threshold: float
    scope: ShownScope
    references: int
    new_references: int
    gallery_sequence: int
    comparisons: int
    duration_s: float
    memory_bytes: int
    false_pairs: Annotated[
        ExpectedFalseCandidates,
        about("pairs of strangers at or above the threshold; at most `value` where `is_bound`"),
    ]
    is_supported: Annotated[bool, about("false where the calibration can only bound them")]
    proposal: SweepProposal
    budget: Annotated[int | None, about("of groups; null where all are kept")]


class Progress(AnswerBody):
    """How far a sweep is."""

    comparisons: int
    comparisons_total: int
    share: Annotated[float, Meta(ge=0, le=1)]
    pairs: int
    remaining_s: Annotated[float | None, about("null until something was measured")]


class Sweep(AnswerBody):
    """A sweep as a list has it, without what it found."""

    sweep_id: Id
    state: ShownState
    threshold: float
    scope: ShownScope
    requested_by: str
    gallery_sequence: Annotated[int | None, about("the gallery's that it covers")]
    progress: Progress
    created_at: Moment
    started_at: Moment | None
    ended_at: Moment | None
    fault: str | None
    budget: Annotated[int | None, about("of groups; null where all are kept")]


class SweepReport(Sweep):
    """A sweep with its progress of this moment."""

    summary: Annotated[dict[str, Any] | None, about("in counts; null before it is done")]


class Sweeps(AnswerBody):
    """The newest sweeps, newest first."""

    sweeps: tuple[Sweep, ...]


class RankedGroup(AnswerBody):
    """A group, and why it has its rank."""

    key: str
    kind: Annotated[str, known(*GroupKind)]
    risk: float
    terms: tuple[RiskTerm, ...]


class GroupRow(RankedGroup):
    """A group in counts."""

    identities: int
    lines: int
    carriers: int
    outlets: int
    disputes: int
    weakest_score: Annotated[float | None, about("of the link without which it falls apart")]
    severed_links: Annotated[int, about("from a member to a document that is not in the group")]
    fraud_lines: Annotated[
        int, about("of its documents that people decided to be fraud, in use now")
    ] = 0


class GroupPage(AnswerBody):
    """A page of groups, the riskiest first."""

    groups: tuple[GroupRow, ...]
    total: int
    next: NextNumber


class GroupLine(LineFact, AnswerBody):
    """A line of a group's document when the sweep was made."""

    opened_at: Moment


class GroupIdentity(AnswerBody):
    """One document of a group, with its lines when the sweep was made."""

    document_id: str
    lines: tuple[GroupLine, ...]
    disputes: int


class LeftOut(AnswerBody):
    """What an answer does not list."""

    identities: int
    lines: int
    links: int


class Group(RankedGroup):
    """A group with its members, and its links, the closest first."""

    weakest: Annotated[Link | None, about("the link without which it falls apart")]
    identities: tuple[GroupIdentity, ...]
    links: tuple[Link, ...]
    severed: Annotated[
        tuple[Link, ...],
        about(
            "from a member to a document outside, the closest first: linked to too few of the "
            "members, it is shown and not followed"
        ),
    ]
    left_out: LeftOut
    cases: Annotated[tuple[str, ...], about("ids of the open cases that name one of its documents")]
    fraud_lines: Annotated[
        tuple[str, ...], about("lines of its documents that people decided to be fraud, in use now")
    ] = ()


class PrecisionRate(AnswerBody):
    """How many of the judged pairs were fraud, with a 95 % interval (Wilson, 1927).

    Null where nothing was judged. The pairs of one case have one outcome: the interval counts
    cases, of which large ones count no more than small ones (Kish's effective number).
    """

    judged: int
    confirmed: int
    precision: float | None
    low: float | None
    high: float | None
    cases: Annotated[int, about("that judged them")]


class PrecisionAt(PrecisionRate):
    """Of the pairs that score at or above a threshold."""

    threshold: float


class CaseOutcomes(Outcomes, AnswerBody):
    """How the closed cases of a kind or of a month ended: the share of fraud with its interval."""

    precision: float
    low: float
    high: float


class ProposedThreshold(AnswerBody):
    """The lowest threshold, at a hundredth, at which the precision's interval begins at `wanted` or
    above; null where there are too few decisions, or none reaches it."""

    threshold: float | None
    wanted: float
    ground: Annotated[str, known(*Ground)]
    cases: Annotated[int, about("decided, of which it speaks")]
    effective_cases: float
    least_cases: Annotated[int, about("effective ones that a proposal takes")]


class Precision(PrecisionRate):
    """The precision of sweeps, and what higher thresholds would have had; how closed cases ended,
    by kind and by month; and the threshold that decisions on all sweeps propose."""

    thresholds: Annotated[tuple[PrecisionAt, ...], about("rising; empty where nothing was judged")]
    kinds: Annotated[tuple[CaseOutcomes, ...], about("most cases first")]
    months: Annotated[tuple[CaseOutcomes, ...], about("newest first")]
    proposal: ProposedThreshold
