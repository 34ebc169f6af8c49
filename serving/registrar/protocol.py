"""The registrar as an ingress asks it, wherever it runs, and what travels between the two."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import field
from datetime import datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

from engine.errors import GalleryBehind, LeaseLost, RequestError, SosieError, VectorUnusable
from indexes.errors import IndexFault, ShardLost, VectorInvalid
from schema import frozen
from schema.actors import Restriction
from schema.lines import ExemptionCause
from schema.people import DeathSource, DeathStep
from schema.phases import Phase
from serving.errors import Interrupted, ServiceRefusal

if TYPE_CHECKING:
    from engine.faces.liveness_judge import Judged
    from engine.imports.chunks import ChunkAnswer
    from engine.lifecycle.campaigns import CampaignTerms
    from engine.matching.checks.picture import FaceVector
    from engine.matching.holders import ErasureState, FoundLines
    from engine.matching.lines import OpenedDispute
    from engine.matching.requests import Answer, EnrollmentRequest
    from engine.matching.verification import FoundHolders, HolderCheck
    from engine.registry.accounts import Outlet, Session
    from engine.registry.audit import AuditEntry
    from engine.registry.campaigns import Campaign
    from engine.registry.cases import CaseRecord
    from engine.registry.documents import ExemptDocument
    from engine.registry.lines import LineEvent
    from engine.registry.people import DeathRecord
    from engine.registry.references import SecondTemplate
    from engine.sweeps.estimate import ExpectedSweep, SweepOrder
    from indexes.base import Floats
    from schema.decisions import RecordedLiveness, RecordedProof
    from schema.documents import Document, ErasureCertificate
    from schema.lines import LineEventKind
    from schema.sweeps import SweepRecord
    from serving.deployment.backups import BackupRecord
    from serving.wire.cases import OutcomeRequest, ReopenRequest
    from serving.wire.sweeps import Group, GroupPage
    from serving.wire.webhooks import ChangedWebhook, NewWebhook, Webhook, WebhookSecret


@frozen
class Status:
    """The state of the registrar and its gallery; `detail` is one line for people. `sequence` is
    the gallery's, `store_sequence` the store's, None where it could not be read; `boot_id` changes
    with every start. `faults` stop nothing: of the audit head's anchor, of the device that searches
    and of the upkeep since removals, by these names."""

    phase: Phase
    detail: str
    boot_id: str
    gallery_size: int = 0
    sequence: int | None = None
    store_sequence: int | None = None
    faults: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_ready(self) -> bool:
        """Decides and searches, on a gallery that is the store's image."""
        return self.phase is Phase.READY and self.sequence == self.store_sequence


@frozen
class CallContext:
    """Context of every call. `timeout_s` is what is left when it is sent; the receiver counts from
    its arrival. `carrier` limits it to one tenant, None is all; `outlet` where the key acts for one
    alone; `person` is whose key it is: two keys of one are not two people."""

    actor: str
    correlator: str
    carrier: str | None = None
    timeout_s: float | None = None
    traceparent: str | None = None
    outlet: str | None = None
    person: str | None = None

    @property
    def name(self) -> str:
        """The name in the history of cases."""
        return self.person or self.actor


@frozen
class LineTarget:
    """A line by its number (+8613…) or its id; `is_photographed` where the face was taken to verify
    its holder, who presented this `document`."""

    text: str = field(repr=False)
    is_photographed: bool = False
    document: Document | None = None


@frozen
class HolderFace:
    """A face float32[d] that is to be held against a holder's, and what says that it was alive: of
    a template nobody can say it. `second` is the same face by a second model, where one is named,
    and `judged` what a judge made of its picture. `portrait` is that of the document presented,
    where no face is on file."""

    face: FaceVector
    second: SecondTemplate | None = None
    liveness: RecordedLiveness | None = None
    judged: Judged | None = None
    portrait: FaceVector | None = None


@frozen
class Reply:
    """Outcome of a call: a value, or the error for its caller. Both can be pickled."""

    value: Any = None
    error: SosieError | ServiceRefusal | None = None

    def unwrap(self) -> Any:
        """The value; raises the error where there is one."""
        if self.error is not None:
            raise self.error
        return self.value


def presentable(error: Exception) -> SosieError | ServiceRefusal:
    """The error as a caller may see it; of an unforeseen one the type, and nothing of its text. A
    lost registrar or gallery is `Interrupted`: it may have committed, and its caller asks again
    with the same key."""
    if isinstance(error, LeaseLost | GalleryBehind | ShardLost):
        return Interrupted(
            "the registry was interrupted and is opened again: "
            "ask again, with the same Idempotency-Key if the call has one"
        )
    if isinstance(error, VectorInvalid):
        return VectorUnusable(f"{error}: report this")
    if isinstance(error, IndexFault):
        return RequestError(str(error))
    if isinstance(error, SosieError | ServiceRefusal):
        return error
    return SosieError(f"the call met an internal error ({type(error).__name__}): report it")


P = ParamSpec("P")
R = TypeVar("R")
Ask: TypeAlias = Callable[P, Coroutine[Any, Any, R]]
"""A call of a client: the operation of its name, asked with these."""


class RegistrarClient(ABC):
    """The one registrar. Every call may raise a `SosieError` or a `ServiceRefusal`: `NotReady`,
    `Busy` or `Overloaded` where a queue is full, `Interrupted` where it was lost meanwhile,
    `DeadlinePassed` where nothing was kept in time."""

    @abstractmethod
    async def status(self) -> Status:
        """Answers in every phase."""

    @abstractmethod
    async def carry(self, method: str, arguments: tuple[Any, ...], context: CallContext) -> Reply:
        """Has `RegistrarService.perform` done with these, wherever that runs."""

    def by(self, context: CallContext) -> RegistrarCalls:
        """The calls that may be made of it, in this context."""
        return RegistrarCalls(self, context)


class RegistrarCalls:
    """Calls of one client. Arguments are given by place."""

    def __init__(self, client: RegistrarClient, context: CallContext) -> None:
        self._client, self._context = client, context

    # Type checkers see the calls below alone: to them a misspelt one is an error.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Ask[..., Any]:
            if name not in OPERATIONS:
                raise AttributeError(f"{type(self).__name__} has no {name}", name=name, obj=self)

            async def ask(*given: Any) -> Any:
                return (await self._client.carry(name, given, self._context)).unwrap()

            return ask

    enroll: Ask[[EnrollmentRequest], Answer]
    """Judges one activation; the answer is durable and visible. A call that is cancelled, or
    whose time runs out while it waits, is dropped before it commits."""
    identify: Ask[[Floats, float], list[FoundHolders]]
    """1:N for rows float32[n, d], beside the writer; one audit entry for the call. Each lists
    its best `MOST_CANDIDATES`, and counts all."""
    check_line: Ask[[LineTarget, HolderFace], HolderCheck]
    """The face against the holder of a line in use; audited. `NotFound` for no line, or another
    tenant's; `LivenessRefused` or `LivenessReplayed` where the evidence that came with it is
    required and does not hold."""
    prove_line: Ask[[LineTarget, RecordedProof], HolderCheck]
    """The same by a proof in place of the face, of a line with its document. `ProofRefused` before
    anybody is looked up."""
    check_document: Ask[[Document | str, HolderFace], HolderCheck]
    """The same for a document, presented or by its id; for a tenant, one with which that
    document has a line in use."""
    read_lines: Ask[[Document, HolderFace], FoundLines]
    """The numbers under a document, over all carriers, to its holder's face; audited. Another
    face learns nothing, nor whether anybody holds the document. `LivenessRefused` and
    `LivenessReplayed` as of a verification."""
    dispute_line: Ask[[LineTarget, Document, HolderFace], OpenedDispute]
    """Opens a case over a line of this document that its holder did not open; the line becomes
    `disputed`. Disputed again: the same case. `HolderMismatch` for another's face or nobody's
    document, `NotFound` for a line not under it, `LivenessRefused`, `LivenessReplayed`."""
    close_line: Ask[[LineTarget], str]
    """Closes a line in use and returns its id; `NotFound` for another tenant's."""
    report_event: Ask[[LineTarget, LineEventKind, datetime], LineEvent]
    """Notes what has happened to a line, and does what the carrier's rules say to it; told
    again, it is the same event. `NotFound` for another tenant's, `EventRefused`."""
    start_campaign: Ask[[CampaignTerms], Campaign]
    """Asks for the holders of many lines by a deadline; audited. `NotFound` for no carrier."""
    add_to_campaign: Ask[[str, Sequence[str]], tuple[int, list[int]]]
    """Adds lines by number or id: how many are new, and the places of those that are none in
    use of the campaign's carrier. `NotFound` for another tenant's campaign."""
    end_campaign: Ask[[str], Campaign]
    """Ends a campaign before its deadline; audited. `NotFound` for another tenant's,
    `EventRefused`."""
    exempt: Ask[[str, ExemptionCause], ExemptDocument]
    """No limit on lines holds for a document any more; audited. `NotFound`."""
    end_exemption: Ask[[str], None]
    """They do again; audited. `NotFound` where they did."""
    erase: Ask[[str], ErasureCertificate | ErasureState]
    """Erases a holder, or acknowledges it where open cases need the document: then the service
    does it later. For a tenant: one whose every line is its own, or that of a minor whom the
    holder answers for, else `NotFound` or, where it has lines here and elsewhere,
    `TenantConflict`; `HolderMoved` while a minor's line is in use."""
    withdraw: Ask[[str], ErasureCertificate | ErasureState]
    """The same of a face whose consent is withdrawn from the tenant, or from all. `NotFound`."""
    note: Ask[[Sequence[AuditEntry]], None]
    """Keeps audit entries durably; gathered with others into one transaction."""
    open_session: Ask[[Session, str], bool]
    """Keeps a new session; audited. False where the account or the name is another's."""
    touch_session: Ask[[str], None]
    """Notes that a session is used."""
    end_session: Ask[[str], None]
    """Ends a session; audited."""
    assign_case: Ask[[str, str | None], CaseRecord]
    """Assigns a case to a person; None gives it back to the queue."""
    note_case: Ask[[str, str], CaseRecord]
    reveal_case: Ask[[str, Sequence[str], str | None], None]
    reveal_subject: Ask[[str, str], None]
    """Counts whom a person is shown in full, and keeps why; audited. `TooManyFailures` beyond."""
    propose_outcome: Ask[[str, OutcomeRequest], CaseRecord]
    """Proposes an outcome, and the lines that another person may close by it."""
    withdraw_proposal: Ask[[str], CaseRecord]
    close_case: Ask[[str, OutcomeRequest], CaseRecord]
    reopen_case: Ask[[str, ReopenRequest], CaseRecord]
    """Each step returns the case as it is then; audited. `NotFound`, `CaseMoved` where the case is
    not in a state for it, `FourEyes` where another person must do it, or have proposed it."""
    suspend_outlet: Ask[[str, str, str], Outlet]
    bar_outlet: Ask[[str, str, str], Outlet]
    lift_restriction: Ask[[str, Restriction, str], Outlet]
    """Audited, as the two above. `NotFound`, `OutletMoved` where the outlet is not in a state for
    it, `FourEyes` where another person must do it."""
    create_webhook: Ask[[NewWebhook], WebhookSecret]
    change_webhook: Ask[[str, ChangedWebhook], Webhook]
    rotate_secret: Ask[[str], WebhookSecret]
    remove_webhook: Ask[[str], None]
    replay_events: Ask[[str, int], Webhook]
    """Delivers the events beyond a number again."""
    ask_again: Ask[[str, Sequence[str]], int]
    """Tries dead letters again, these events by their ids or all; how many. Audited, as are all
    changes of webhooks; `NotFound` for another tenant's."""
    step_death: Ask[[str, DeathStep, DeathSource | None], DeathRecord]
    """Takes one step on a holder who is reported dead; audited. `NotFound`, `HolderMoved`,
    `FourEyes` where another person must do it."""
    expect_sweep: Ask[[SweepOrder], ExpectedSweep]
    """Estimates the cost and the yield of a sweep; changes nothing. `RateUnsupported`."""
    start_sweep: Ask[[SweepOrder], SweepRecord]
    """Starts a sweep; audited. `SweepBusy` where one is alive."""
    pause_sweep: Ask[[str], SweepRecord]
    resume_sweep: Ask[[str], SweepRecord]
    cancel_sweep: Ask[[str], SweepRecord]
    """Audited, as the two above. `NotFound`, `SweepOver`."""
    read_sweep: Ask[[str], SweepRecord]
    """A sweep with its progress of this moment."""
    list_sweeps: Ask[[int], list[SweepRecord]]
    """The newest sweeps, without their summaries."""
    list_groups: Ask[[str, int, int], GroupPage]
    """Groups of a sweep that is done, after the place `after`; audited. `SweepOver`."""
    read_group: Ask[[str, str], Group]
    """One group with its members and links, without its cases; audited with whom it showed."""
    start_backup: Ask[[], BackupRecord]
    """Begins a backup beside all else; the one that runs, where one does."""
    list_backups: Ask[[], list[BackupRecord]]
    """Every backup of the home, and the one that runs or has failed last; newest first."""
    admit_chunk: Ask[[bytes, str | None], ChunkAnswer]
    """Plans a sealed part of an import, or commits it if its plan is still the one with the
    digest `planned`; see `engine.imports.chunks`."""


OPERATIONS = frozenset(RegistrarCalls.__annotations__)
"""Names of the calls of a client."""
