"""Sweeps: what is asked, what to expect, how far one is, and the groups that it found."""

from __future__ import annotations

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
    known,
)
from serving.wire.matching import ExpectedFalseCandidates

ShownScope = Annotated[str, known(*SweepScope)]
ShownState = Annotated[str, known(*SweepState)]
ShownKind = Annotated[str, known(*GroupKind)]


class SweepsQuery(QueryString, frozen=True):
    """How many of the newest sweeps to list."""

    limit: Limit = PAGE


class GroupsQuery(QueryString, frozen=True):
    """One page of a sweep's groups."""

    limit: Limit = PAGE
    after: Annotated[int, Meta(ge=0, le=2**31 - 1, description="`next` of the page before")] = 0


class PrecisionQuery(QueryString, frozen=True):
    """Of one sweep, or of all."""

    sweep_id: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    wanted: Annotated[
        float,
        Meta(ge=0.01, le=0.99, description="the least precision that a threshold is proposed for"),
    ] = 0.8


class SweepRequest(RequestBody, frozen=True):
    """A threshold, or the false match rate that chooses one, or neither for the proposed one."""

    threshold: Annotated[
        Score | None,
        Meta(description="not below the deployment's for review, or the proposed one if lower"),
    ] = None
    fmr: Annotated[
        Annotated[float, Meta(gt=0, lt=1)] | None,
        Meta(description="its threshold is bound in the same way"),
    ] = None
    scope: SweepScope = SweepScope.ALL
    dry_run: Annotated[bool, Meta(description="only say what to expect")] = False
    allow_unsupported: Annotated[
        bool,
        Meta(description="take a threshold of which the calibration says no more than a bound"),
    ] = False
    budget: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None,
        Meta(
            description="so many groups at most, by likelihood ratio: the score with outlets, "
            "times, names, birth dates, passport numbers and disputes"
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.threshold is not None and self.fmr is not None:
            raise ValueError("give a threshold or a false match rate, not both")


class SweepProposal(EstimatedThreshold, AnswerBody, frozen=True, kw_only=True):
    """The lowest calibrated threshold whose false pairs keep to the budget, or the highest."""

    false_pairs: ExpectedFalseCandidates


class Expectation(AnswerBody, frozen=True):
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
        Meta(
            description="pairs of strangers at or above the threshold; at most `value` where "
            "`is_bound`"
        ),
    ]
    is_supported: Annotated[
        bool, Meta(description="false where the calibration can only bound them")
    ]
    proposal: SweepProposal
    budget: Annotated[int | None, Meta(description="of groups; null where all are kept")]


class Progress(AnswerBody, frozen=True):
    """How far a sweep is."""

    comparisons: int
    comparisons_total: int
    share: Annotated[float, Meta(ge=0, le=1)]
    pairs: int
    remaining_s: Annotated[float | None, Meta(description="null until something was measured")]


class Sweep(AnswerBody, frozen=True):
    """A sweep as a list has it, without what it found."""

    sweep_id: Id
    state: ShownState
    threshold: float
    scope: ShownScope
    requested_by: str
    gallery_sequence: Annotated[int | None, Meta(description="the gallery's that it covers")]
    progress: Progress
    created_at: Moment
    started_at: Moment | None
    ended_at: Moment | None
    fault: str | None
    budget: Annotated[int | None, Meta(description="of groups; null where all are kept")]


class SweepReport(Sweep, frozen=True):
    """A sweep with its progress of this moment."""

    summary: Annotated[dict[str, Any] | None, Meta(description="in counts; null before it is done")]


class Sweeps(AnswerBody, frozen=True):
    """The newest sweeps, newest first."""

    sweeps: tuple[Sweep, ...]


class RankedGroup(AnswerBody, frozen=True):
    """A group, and why it has its rank."""

    key: str
    kind: ShownKind
    risk: float
    terms: tuple[RiskTerm, ...]


class GroupRow(RankedGroup, frozen=True):
    """A group in counts."""

    identities: int
    lines: int
    carriers: int
    outlets: int
    disputes: int
    weakest_score: Annotated[
        float | None, Meta(description="of the link without which it falls apart")
    ]
    severed_links: Annotated[
        int, Meta(description="from a member to a document that is not in the group")
    ]
    fraud_lines: Annotated[
        int, Meta(description="of its documents that people decided to be fraud, in use now")
    ] = 0


class GroupPage(AnswerBody, frozen=True):
    """A page of groups, the riskiest first."""

    groups: tuple[GroupRow, ...]
    total: int
    next: NextNumber


class GroupLine(LineFact, AnswerBody, frozen=True):
    """A line of a group's document when the sweep was made."""

    opened_at: Moment


class GroupIdentity(AnswerBody, frozen=True):
    """One document of a group, with its lines when the sweep was made."""

    document_id: str
    lines: tuple[GroupLine, ...]
    disputes: int


class LeftOut(AnswerBody, frozen=True):
    """What an answer does not list."""

    identities: int
    lines: int
    links: int


class Group(RankedGroup, frozen=True):
    """A group with its members, and its links, the closest first."""

    weakest: Annotated[Link | None, Meta(description="the link without which it falls apart")]
    identities: tuple[GroupIdentity, ...]
    links: tuple[Link, ...]
    severed: Annotated[
        tuple[Link, ...],
        Meta(
            description="from a member to a document outside, the closest first: linked to too few "
            "of the members, it is shown and not followed"
        ),
    ]
    left_out: LeftOut
    cases: Annotated[
        tuple[str, ...], Meta(description="ids of the open cases that name one of its documents")
    ]
    fraud_lines: Annotated[
        tuple[str, ...],
        Meta(description="lines of its documents that people decided to be fraud, in use now"),
    ] = ()


class PrecisionRate(AnswerBody, frozen=True):
    """How many of the judged pairs were fraud, with a 95 % interval (Wilson, 1927).

    Null where nothing was judged. The pairs of one case have one outcome: the interval counts
    cases, of which large ones count no more than small ones (Kish's effective number).
    """

    judged: int
    confirmed: int
    precision: float | None
    low: float | None
    high: float | None
    cases: Annotated[int, Meta(description="that judged them")]


class PrecisionAt(PrecisionRate, frozen=True):
    """Of the pairs that score at or above a threshold."""

    threshold: float


class CaseOutcomes(Outcomes, AnswerBody, frozen=True):
    """How the closed cases of a kind or of a month ended: the share of fraud with its interval."""

    precision: float
    low: float
    high: float


class ProposedThreshold(AnswerBody, frozen=True):
    """The lowest threshold, at a hundredth, at which the precision's interval begins at `wanted` or
    above; null where there are too few decisions, or none reaches it."""

    threshold: float | None
    wanted: float
    ground: Annotated[str, known(*Ground)]
    cases: Annotated[int, Meta(description="decided, of which it speaks")]
    effective_cases: float
    least_cases: Annotated[int, Meta(description="effective ones that a proposal takes")]


class Precision(PrecisionRate, frozen=True):
    """The precision of sweeps, and what higher thresholds would have had; how closed cases ended,
    by kind and by month; and the threshold that decisions on all sweeps propose."""

    thresholds: Annotated[
        tuple[PrecisionAt, ...], Meta(description="rising; empty where nothing was judged")
    ]
    kinds: Annotated[tuple[CaseOutcomes, ...], Meta(description="most cases first")]
    months: Annotated[tuple[CaseOutcomes, ...], Meta(description="newest first")]
    proposal: ProposedThreshold
