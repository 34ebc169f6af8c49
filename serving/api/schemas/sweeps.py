"""Sweeps: what is asked, what to expect, how far one is, and the groups that it found."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from engine.sweeps.estimate import SweepRequest
from engine.sweeps.sweep_model import GroupKind, Scope, SweepState
from serving.api.fields import ID_EXAMPLE, MAX_PAGE, PAGE, Asked, Body, Limit, Shown, Text
from serving.api.schemas.matching import ExpectedFalseCandidates

MOST_SWEEPS = MAX_PAGE


class SweepsAsked(Asked):
    """How many of the newest sweeps to list."""

    limit: Limit = PAGE


class GroupsAsked(Asked):
    """One page of a sweep's groups."""

    limit: Limit = PAGE
    after: Annotated[int, Field(ge=0, le=2**31 - 1, description="`next` of the page before")] = 0


class PrecisionAsked(Asked):
    """Of one sweep, or of all."""

    sweep_id: Annotated[Text, Field(min_length=1, max_length=64)] | None = None


class SweepBody(Body):
    """A threshold, or the false match rate that chooses one, or neither for the proposed one."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"scope": "all", "dry_run": True},
                {"scope": "new", "threshold": 0.57},
                {"fmr": 1e-6},
            ]
        }
    )

    threshold: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)] | None = None
    fmr: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = None
    scope: Annotated[Scope, Field(strict=False)] = Scope.ALL
    dry_run: bool = Field(default=False, description="only say what to expect")
    allow_unsupported: bool = Field(
        default=False,
        description="take a threshold of which the calibration says no more than a bound",
    )

    @model_validator(mode="after")
    def _chooses_once(self) -> Self:
        if self.threshold is not None and self.fmr is not None:
            raise ValueError("give a threshold or a false match rate, not both")
        return self

    def read(self) -> SweepRequest:
        return SweepRequest(
            threshold=self.threshold,
            fmr=self.fmr,
            scope=self.scope,
            is_unsupported_allowed=self.allow_unsupported,
        )


class ProposalShown(Shown):
    """The lowest calibrated threshold whose false pairs keep to the budget, or the highest."""

    threshold: float
    fmr: float
    false_pairs: ExpectedFalseCandidates
    budget: float
    is_within_budget: bool


class ExpectationAnswer(Shown):
    """What such a sweep would cost and bring, and the threshold that is proposed."""

    threshold: float
    scope: Scope
    references: int
    new_references: int
    gallery_sequence: int
    comparisons: int
    duration_s: float
    memory_bytes: int
    false_pairs: ExpectedFalseCandidates = Field(
        description="pairs of strangers at or above the threshold; at most `value` where `is_bound`"
    )
    is_supported: bool = Field(description="false where the calibration can only bound them")
    proposal: ProposalShown


class ProgressShown(Shown):
    comparisons: int
    comparisons_total: int
    share: float = Field(ge=0, le=1)
    pairs: int
    remaining_s: float | None = Field(description="null until something was measured")


class SweepShown(Shown):
    """A sweep, without what it found."""

    sweep_id: str = Field(examples=[ID_EXAMPLE])
    state: SweepState
    threshold: float
    scope: Scope
    requested_by: str
    gallery_sequence: int | None = Field(description="the gallery's that it covers")
    progress: ProgressShown
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    fault: str | None


class SweepAnswer(SweepShown):
    """A sweep with its progress of this moment."""

    summary: dict[str, Any] | None = Field(description="in counts; null before it is done")


class SweepsAnswer(Shown):
    """The newest sweeps, newest first."""

    sweeps: list[SweepShown]


class TermShown(Shown):
    """One stated reason of a rank: what was counted, and the points that it brings."""

    name: str
    value: float
    points: float


class GroupShown(Shown):
    """A group in counts."""

    key: str
    kind: GroupKind
    risk: float
    terms: list[TermShown]
    identities: int
    lines: int
    carriers: int
    outlets: int
    disputes: int
    weakest_score: float | None = Field(description="of the link without which it falls apart")
    severed_links: int = Field(description="from a member to a document that is not in the group")


class GroupsAnswer(Shown):
    """A page of groups, the riskiest first."""

    groups: list[GroupShown]
    total: int
    next: int | None = Field(description="`after` of the next page; null on the last")


class LinkShown(Shown):
    """Two documents whose faces score at or above the threshold."""

    left: str
    right: str
    score: float


class GroupLine(Shown):
    line_id: str
    carrier: str
    outlet: str
    opened_at: datetime
    status: str


class IdentityShown(Shown):
    """One document of a group, with its lines when the sweep was made."""

    document_id: str
    lines: list[GroupLine]
    disputes: int


class LeftOut(Shown):
    """What an answer does not list."""

    identities: int
    lines: int
    links: int


class GroupAnswer(Shown):
    """A group with its members, and its links, the closest first."""

    key: str
    kind: GroupKind
    risk: float
    terms: list[TermShown]
    weakest: LinkShown | None = Field(description="the link without which it falls apart")
    identities: list[IdentityShown]
    links: list[LinkShown]
    severed: list[LinkShown] = Field(
        description="from a member to a document outside, the closest first: linked to too few of "
        "the members, it is shown and not followed"
    )
    left_out: LeftOut
    cases: list[str] = Field(description="ids of the open cases that name one of its documents")


class PrecisionShown(Shown):
    """How many of the judged pairs were fraud, with a 95 % interval (Wilson, 1927).

    Null where nothing was judged. The pairs of one case are judged together, so the truth is less
    certain.
    """

    judged: int
    confirmed: int
    precision: float | None
    low: float | None
    high: float | None


class PrecisionAt(PrecisionShown):
    """Of the pairs that score at or above a threshold."""

    threshold: float


class PrecisionAnswer(PrecisionShown):
    """The precision of sweeps, and what higher thresholds would have had."""

    thresholds: list[PrecisionAt] = Field(description="rising; empty where nothing was judged")
