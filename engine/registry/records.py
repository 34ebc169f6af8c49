"""Records that the registry reads and writes, free of any database.

Moments are timezone-aware datetimes. Fields that hold a name, a number or a template never show
in a record's text form.
"""

from __future__ import annotations

import re
import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schema.actors import Restriction
from schema.cases import CaseNote, CaseOrigin, CaseState, Outcome, Proposal
from schema.documents import DocumentStatus
from schema.lines import (
    CampaignLineState,
    CampaignState,
    LineEventKind,
    LineService,
    LineState,
    LineStatus,
)
from schema.sweeps import SweepRecord

Json = Mapping[str, Any]
_ID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def new_id() -> str:
    """A fresh UUID, version 7 (RFC 9562): ids made one after another lie together in an index."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | secrets.randbits(80)
    value = value & ~(0xF << 76) | (0x7 << 76)
    value = value & ~(0x3 << 62) | (0x2 << 62)
    return str(uuid.UUID(int=value))


def is_id(text: str) -> bool:
    """True for a text in the form of `new_id`."""
    return _ID.fullmatch(text) is not None


def utc_now() -> datetime:
    """The moment, timezone-aware."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Carrier:
    """A tenant. `line_limit`: how many open lines one holder may have with it. `time_zone` (IANA):
    that of its outlets without one; None for the deployment's."""

    code: str
    name: str
    line_limit: int = 5
    time_zone: str | None = None


@dataclass(frozen=True, slots=True)
class Outlet:
    """An official point of sale, with its carrier's limit, and its time zone or its carrier's.

    While it is `restricted` it enrolls nobody; `refused_attempts` came since. `restricted_person`
    is who did it, `restricted_by` with which key, `restriction_case` the case that says why.
    """

    code: str
    carrier: str
    is_open: bool
    line_limit: int
    time_zone: str | None = None
    restriction: str | None = None
    restricted_at: datetime | None = None
    restricted_by: str | None = None
    restricted_person: str | None = None
    restriction_case: str | None = None
    restriction_reason: str | None = None
    refused_attempts: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutletChange:
    """An outlet as it is restricted from now on; by a `restriction` of None not any more."""

    code: str
    restriction: Restriction | None = None
    by: str | None = None
    person: str | None = None
    case_id: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class NewDocument:
    """`lookup` and `name_lookup` come from `Vault.look_up`; number, name and consent are sealed."""

    id: str
    kind: str
    lookup: bytes
    name_lookup: bytes
    number: str = field(repr=False)
    name: str = field(repr=False)
    expires_on: date | None = None
    status: DocumentStatus = DocumentStatus.ACTIVE
    consent_ref: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """A document as look-ups need it.

    The look-ups are `None` once it is erased; only a blocked one keeps `lookup`, so that it stays
    refused, until it is unblocked. An erasure that waits for open cases is done at the moment
    `erasure_due_at` at the latest; `erasure_number` is of the audit entry of one that was done.
    """

    id: str
    kind: str
    lookup: bytes | None
    name_lookup: bytes | None
    status: DocumentStatus
    expires_on: date | None
    reference_ids: tuple[int, ...]
    blocked_at: datetime | None = None
    is_erased: bool = False
    erasure_asked_at: datetime | None = None
    erasure_due_at: datetime | None = None
    erasure_asked_by: str | None = None
    erased_at: datetime | None = None
    erasure_number: int | None = None

    @property
    def awaits_erasure(self) -> bool:
        return self.erasure_due_at is not None


@dataclass(frozen=True, slots=True)
class EnrollmentRecord:
    """One attempt and its decision; `sequence` is the gallery's that was searched.

    Once it has expired, evidence, consent and capture time are gone; `reasons` stay.
    """

    id: str
    sequence: int
    carrier: str
    outlet: str
    document_id: str | None
    decision: str
    reasons: tuple[str, ...]
    evidence: Json
    consent_ref: str | None
    captured_at: datetime | None
    created_at: datetime
    expired_at: datetime | None = None


@dataclass(frozen=True, slots=True, eq=False)
class AttemptTemplate:
    """What an attempt showed under a document without a reference, as a unit vector float32[d]: for
    what people decide of it, and shown by no call."""

    enrollment_id: str
    document_id: str
    template: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LivenessRecord:
    """What became of the evidence of liveness that a request brought, or should have brought.

    `token` is the keyed name of a result that has been used; `issued_at` when the capture system
    says that it judged. Without an `enrollment_id` it came with a verification. `judge` is the
    digest of the model that looked at the picture itself, None of what a capture system signed.
    """

    id: str
    use: str
    received_at: datetime
    token: bytes | None = field(default=None, repr=False)
    problem: str | None = None
    issuer: str | None = None
    jti: str | None = None
    decision: str | None = None
    level: str | None = None
    issued_at: datetime | None = None
    carrier: str | None = None
    outlet: str | None = None
    enrollment_id: str | None = None
    judge: str | None = None


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One enrollment in short; `Reader.enrollment` has its evidence."""

    id: str
    document_id: str | None
    carrier: str
    outlet: str
    decision: str
    reasons: tuple[str, ...]
    created_at: datetime


@dataclass(frozen=True, slots=True, eq=False)
class SecondTemplate:
    """A template of the model `digest` beside that of the model in force: rotated, float32[its
    dim]."""

    digest: str
    vector: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class NewReference:
    """A rotated template, float32[dim], under the id that `Writer.next_reference_id` gave."""

    id: int
    document_id: str
    enrollment_id: str | None
    template: NDArray[np.float32] = field(repr=False)
    sequence: int
    second: SecondTemplate | None = None


@dataclass(frozen=True, slots=True)
class NewLine:
    """`msisdn_lookup` comes from `Vault.look_up`; the number is sealed."""

    id: str
    msisdn_lookup: bytes
    msisdn: str = field(repr=False)
    document_id: str
    carrier: str
    outlet: str
    enrollment_id: str | None
    opened_at: datetime


@dataclass(frozen=True, slots=True)
class LineRecord:
    """A line without its number, which `Reader.numbers` opens."""

    id: str
    msisdn_lookup: bytes | None
    document_id: str
    carrier: str
    outlet: str
    enrollment_id: str | None
    status: LineStatus
    opened_at: datetime
    closed_at: datetime | None
    service: LineService | None = None

    @property
    def state(self) -> LineState:
        if self.status is LineStatus.ACTIVE and self.service is not None:
            return LineState(self.service)
        return LineState(self.status)


@dataclass(frozen=True, slots=True, kw_only=True)
class LineEvent:
    """What happened to a line, `at` which moment; it was written down at `recorded_at`.

    `cause` is the rule or the campaign that brought it, the case that it opened, or why people did
    it: then a case is `case:` with its id.
    """

    id: str
    line_id: str
    kind: LineEventKind
    at: datetime
    recorded_at: datetime
    cause: str | None
    by: str


Step = tuple[int, str]
"""Seconds, and the state that a line is in after them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reverification:
    """A line whose holder is asked for; one of a rule at a time.

    `steps` are those still to come, each counted from the one before. With none left it waits for
    the holder without a time. `overdue_at`: the first step's moment, once that was done.
    """

    id: str
    line_id: str
    rule: str
    asked_at: datetime
    next_step_at: datetime | None
    steps: tuple[Step, ...]
    overdue_at: datetime | None = None
    campaign_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """Lines of a carrier whose holders are asked for by a deadline, and what follows it.

    `chosen` are the terms by which lines are chosen, up to the line `filled_to` so far; empty where
    they are given one by one.
    """

    id: str
    carrier: str
    name: str
    state: CampaignState
    deadline: datetime
    steps: tuple[Step, ...]
    chosen: Json
    filled_to: str | None
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class CampaignLine:
    campaign_id: str
    line_id: str
    state: CampaignLineState
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemption:
    """A document that no limit on lines holds for; `cause` says what it is."""

    document_id: str
    cause: str
    at: datetime
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeChanges:
    """What changes in the life of lines. Re-verifications, campaigns and their lines replace those
    of the same id."""

    events: Sequence[LineEvent] = ()
    services: Mapping[str, LineService | None] = field(default_factory=dict)
    reverifications: Sequence[Reverification] = ()
    ended: Sequence[str] = ()
    """Re-verifications that wait no more."""
    campaigns: Sequence[Campaign] = ()
    campaign_lines: Sequence[CampaignLine] = ()
    exempted: Sequence[Exemption] = ()
    unexempted: Sequence[str] = ()
    """Documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRecord:
    """A case. `suspect_ids`: its documents that seem to be one person's, not one that was only
    misused. `line_id`: the line that it is about, if any. `score` and `weakest`: of its
    best and its weakest link; `weakest` is None where only one is known.
    """

    id: str
    kind: str
    origin: CaseOrigin
    state: CaseState
    enrollment_id: str | None = None
    document_ids: tuple[str, ...]
    suspect_ids: tuple[str, ...] = ()
    line_id: str | None = None
    line_ids: tuple[str, ...] = ()
    score: float | None = None
    risk: float | None = None
    sweep_id: str | None = None
    group_key: str | None = None
    assignee: str | None = None
    proposal: Proposal | None = None
    outcome: Outcome | None = None
    merged_into: str | None = None
    opened_at: datetime
    updated_at: datetime
    closed_at: datetime | None = None
    weakest: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPair:
    """The outcome that people gave a pair of documents, left < right.

    `score` is the best between their references, or what attempts showed under one that had none;
    `sweep_id` the sweep that found them, and `sequence` the gallery's that was decided on; None
    where it was not noted. `left_attempt_score`: the best of attempts by the holder of the left
    document that were decided on, with a reference of the right one; None where there was none.
    """

    left_document: str
    right_document: str
    outcome: Outcome
    score: float
    case_id: str
    sweep_id: str | None
    decided_at: datetime
    decided_by: str
    sequence: int | None = None
    left_attempt_score: float | None = None
    right_attempt_score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CropRecord:
    """An aligned face, without its image; `photograph` is `live` or `portrait`.

    It is of an attempt, or of an imported reference, which has a document alone. One that
    `is_held` is shown to nobody until a case names its document; from then on it is kept for
    `case_days`. `received_at` is when the photograph passed through.
    """

    id: str
    enrollment_id: str | None
    photograph: str
    kept_until: datetime
    document_id: str | None = None
    received_at: datetime | None = None
    quality: Mapping[str, float] | None = None
    is_held: bool | None = None
    case_days: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCrop(CropRecord):
    """A crop with its image as a JPEG or PNG file, which is sealed."""

    image: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class WatchEntry:
    """A document, a rotated template (float32[dim]) or both, to be reviewed when met.

    `id` is its key in an index of watched faces, given by `Writer.next_watch_id`.
    """

    id: int
    document_lookup: bytes | None
    template: NDArray[np.float32] | None = field(repr=False)
    reason: str
    added_at: datetime
    second: SecondTemplate | None = None


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The answer to an idempotent request; `scope` names the carrier and its key."""

    scope: bytes
    payload_digest: bytes
    enrollment_id: str | None
    response: Json
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Tally:
    """Adds `amount` to the count `name`, of which one is forgotten in each `each`; it stays below
    `most`, so that no single call blocks for longer than others."""

    name: str
    amount: float
    each: timedelta
    most: float


DOCUMENT_ERASED, ERASURE_ASKED = "document.erased", "document.erasure_asked"
"""Actions of the audit entries of an erasure, and of one that is acknowledged and waits."""


ENROLLMENT_REFUSED = "enrollment.refused"
"""Action of the entry of an attempt at a restricted outlet, its subject; the outlet counts them."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An action for the audit trail; `detail` holds ids, codes, counts and scores, never a name."""

    actor: str
    action: str
    subject: str
    detail: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """An audit entry in its place in the chain."""

    number: int
    at: datetime
    entry: AuditEntry
    hash: bytes


@dataclass(frozen=True, slots=True)
class AskedErasure:
    """An erasure that waits for open cases, `due_at` at the latest."""

    document_id: str
    by: str
    due_at: datetime


@dataclass(frozen=True, slots=True)
class Guardianship:
    """Who answers for a minor's line, by ids, until the end of the year `ends_in`."""

    line_id: str
    document_id: str
    guardian_id: str
    enrollment_id: str
    ends_in: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class AskedLine:
    """What an exception asks for: a number, under a document as the attempt had it. The name is
    None where it was asked for before names were kept."""

    msisdn: str = field(repr=False)
    name: str | None = field(default=None, repr=False)
    expires_on: date | None = None


@dataclass(frozen=True, slots=True)
class ExceptionRecord:
    """An enrollment (its `id`) without a usable face or portrait, and why. `line` is sealed, and
    leaves once two people have decided; with a `line_id` they granted it."""

    id: str
    carrier: str
    outlet: str
    document_id: str
    cause: str
    line: AskedLine | None
    asked_at: datetime
    case_id: str
    decided_at: datetime | None = None
    line_id: str | None = None

    @property
    def state(self) -> str:
        if self.decided_at is None:
            return "asked"
        return "refused" if self.line_id is None else "granted"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeathRecord:
    """A holder who was reported dead; it holds until it is lifted."""

    document_id: str
    source: str
    reported_at: datetime
    reported_by: str
    reported_person: str
    disputed_lines: tuple[str, ...] = ()
    confirmed_at: datetime | None = None
    confirmed_by: str | None = None
    contested_at: datetime | None = None
    contested_by: str | None = None
    contested_person: str | None = None
    lifted_at: datetime | None = None
    lifted_by: str | None = None

    @property
    def state(self) -> str:
        if self.lifted_at is not None:
            return "lifted"
        return "reported" if self.confirmed_at is None else "confirmed"


@dataclass(frozen=True, slots=True)
class Replacement:
    """A document that another of the same person, its successor, has replaced; `score` is that of
    the face that was shown with the successor."""

    document_id: str
    successor_id: str
    enrollment_id: str
    score: float
    replaced_at: datetime


@dataclass(frozen=True, slots=True)
class PeopleChanges:
    """The part of a transaction about people whom rules treat apart."""

    guardianships: Sequence[Guardianship] = ()
    exceptions: Sequence[ExceptionRecord] = ()
    decided_exceptions: Sequence[tuple[str, str | None]] = ()
    """Enrollment, and the line that it was granted."""
    deaths: Sequence[DeathRecord] = ()
    """As they are from now on."""
    replacements: Sequence[Replacement] = ()
    moved_lines: Sequence[tuple[str, str]] = ()
    """Line, and the document that it is under from now on."""


@dataclass(frozen=True, slots=True)
class Changes:
    """One transaction: all of it is stored, or nothing.

    `sequence` is the gallery's after these changes. Every commit carries at least one audit
    entry. Sweeps and judged pairs replace those of the same id or documents. A removed reference
    keeps its row, without a template. An erased document loses its number, name and look-ups, and
    its lines are closed and lose theirs; the caller removes its references in the same changes. A
    blocked document keeps its keyed look-up through an erasure and loses it when it is unblocked.
    """

    sequence: int
    audit: Sequence[AuditEntry]
    documents: Sequence[NewDocument] = ()
    activated_documents: Sequence[NewDocument] = ()
    """Documents that were attempted, under the id they have, with what makes them active."""
    enrollments: Sequence[EnrollmentRecord] = ()
    references: Sequence[NewReference] = ()
    lines: Sequence[NewLine] = ()
    cases: Sequence[CaseRecord] = ()
    case_changes: Sequence[CaseRecord] = ()
    """Cases that are there, as they are from now on."""
    answers: Sequence[StoredAnswer] = ()
    removed_references: Sequence[tuple[int, int]] = ()
    """Reference id and the gallery sequence of its removal."""
    disputed_lines: Sequence[str] = ()
    closed_lines: Sequence[str] = ()
    blocked_documents: Sequence[str] = ()
    unblocked_documents: Sequence[str] = ()
    erased_documents: Sequence[str] = ()
    asked_erasures: Sequence[AskedErasure] = ()
    outlets: Sequence[OutletChange] = ()
    watched: Sequence[WatchEntry] = ()
    unwatched: Sequence[int] = ()
    case_notes: Sequence[tuple[str, CaseNote]] = ()
    """Case id and an entry of its history; those of one case in their order."""
    judged: Sequence[JudgedPair] = ()
    sweeps: Sequence[SweepRecord] = ()
    crops: Sequence[NewCrop] = ()
    restored_lines: Sequence[str] = ()
    """Disputed lines that are active again."""
    cause: str | None = None
    """Why people close, dispute or restore these lines."""
    tallies: Sequence[Tally] = ()
    """Of one name as many as there are."""
    attempt_templates: Sequence[AttemptTemplate] = ()
    """Those of a document go when it becomes active, and has a reference."""
    filled_references: Sequence[tuple[int, SecondTemplate]] = ()
    """Reference id and its template of a second model; one that was removed is left alone."""
    liveness: Sequence[LivenessRecord] = ()
    life: LifeChanges | None = None
    people: PeopleChanges | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key of the service; `digest` is all that is stored of the key itself, bound to what it may.

    `carrier` and `outlet` are what the role is bound to; `rate_limit` is in items a second. A
    `person` may have several keys; those of fraud teams and operators have one.
    """

    id: str
    digest: bytes = field(repr=False)
    label: str
    role: str
    carrier: str | None
    outlet: str | None
    rate_limit: float | None
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    person: str | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A sign-in by the identity provider; `digest` is as a key's, `seen_at` when it was used last,
    to a minute. It ends at `expires_at` at the latest."""

    id: str
    digest: bytes = field(repr=False)
    person: str
    role: str
    carrier: str | None
    outlet: str | None
    created_at: datetime
    expires_at: datetime
    seen_at: datetime
