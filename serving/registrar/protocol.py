"""What an ingress asks of the one registrar, wherever that runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.cases.case import Outcome
from engine.errors import GalleryBehind, LeaseLost, RequestError, SosieError
from engine.matching.registrar import BoundedRunner
from indexes.errors import IndexFault, ShardLost
from serving.errors import Interrupted, ServiceRefusal

if TYPE_CHECKING:
    from engine.matching.documents import Document
    from engine.matching.holders import ErasureCertificate, HolderLines
    from engine.matching.identification import Identification
    from engine.matching.lines import Dispute
    from engine.matching.requests import Answer, EnrollmentRequest
    from engine.matching.verification import HolderCheck
    from engine.registry.records import AuditEntry, CaseRecord
    from engine.sweeps.estimate import Expectation, SweepRequest
    from engine.sweeps.sweep_model import SweepRecord


Probes = NDArray[np.float32]

MOST_CANDIDATES = 100
"""As many of a probe as are listed: all of them may be more than one message carries."""


class Phase(StrEnum):
    """How far the registrar is; it answers calls in `ready` only."""

    STARTING = "starting"
    WAITING = "waiting"
    """For the writer's lease, which another process still holds."""
    REPLAYING = "replaying"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Status:
    """The state of the registrar and its gallery; `detail` is one line for people.

    `sequence` is the gallery's, `store_sequence` the store's; both are None where they could not
    be read. `boot_id` changes with every start of a registrar.
    """

    phase: Phase
    detail: str
    boot_id: str
    gallery_size: int = 0
    sequence: int | None = None
    store_sequence: int | None = None

    @property
    def is_ready(self) -> bool:
        """Decides and searches, on a gallery that is the store's image."""
        return self.phase is Phase.READY and self.sequence == self.store_sequence


@dataclass(frozen=True, slots=True)
class CallContext:
    """What travels with every call: who asks, under which correlator, and how long it may take.

    `timeout_s` is what is left when the call is sent; the receiver counts from its arrival.
    `carrier` limits what may be touched to one tenant; None is all.
    """

    actor: str
    correlator: str
    carrier: str | None = None
    timeout_s: float | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class LineTarget:
    """A line by its number (+8613…) or by its id, as a list of lines shows it."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class GroupList:
    """Groups of a sweep in short, the riskiest first; `next_after` is None on the last page."""

    groups: tuple[Mapping[str, Any], ...]
    total: int
    next_after: int | None


class FraudDesk(Protocol):
    """What fraud teams ask of the one registrar. Whatever is answered fits into one message."""

    async def step_case(self, case_id: str, step: CaseStep, context: CallContext) -> CaseRecord:
        """Takes one step of a case and returns it as it is then; audited. `NotFound`, `CaseMoved`
        where the case is not in a state for it, `FourEyes` where another person must do it."""
        ...

    async def expect_sweep(self, request: SweepRequest, context: CallContext) -> Expectation:
        """What a sweep would cost and bring; changes nothing. `RateUnsupported`."""
        ...

    async def start_sweep(self, request: SweepRequest, context: CallContext) -> SweepRecord:
        """Starts a sweep; audited. `SweepBusy` where one is alive."""
        ...

    async def steer_sweep(
        self, sweep_id: str, steering: Steering, context: CallContext
    ) -> SweepRecord:
        """Pauses, resumes or cancels a sweep; audited. `NotFound`, `SweepOver`."""
        ...

    async def read_sweep(self, sweep_id: str, context: CallContext) -> SweepRecord:
        """A sweep with its progress of this moment."""
        ...

    async def list_sweeps(self, limit: int, context: CallContext) -> list[SweepRecord]:
        """The newest sweeps, without their summaries."""
        ...

    async def list_groups(
        self, sweep_id: str, after: int, limit: int, context: CallContext
    ) -> GroupList:
        """Groups of a sweep that is done, after the place `after`; audited. `SweepOver`."""
        ...

    async def read_group(self, sweep_id: str, key: str, context: CallContext) -> Mapping[str, Any]:
        """One group with its members and links; audited with whom it showed."""
        ...


class Desk(FraudDesk, Protocol):
    """The one registrar. Every call may raise a `SosieError` or a `ServiceRefusal`:

    `NotReady` before it is ready, `Busy` or `Overloaded` where a queue is full, `Interrupted`
    where it was lost meanwhile, `DeadlinePassed` where nothing was kept in time.
    """

    async def status(self) -> Status:
        """Answers in every phase."""
        ...

    async def enroll(self, request: EnrollmentRequest, context: CallContext) -> Answer:
        """Judges one activation; the answer is durable and visible. A call that is cancelled, or
        whose time runs out while it waits, is dropped before it commits."""
        ...

    async def identify(
        self, probes: Probes, threshold: float, context: CallContext
    ) -> list[Identification]:
        """1:N for rows float32[n, d], beside the writer; one audit entry for the call.

        Each lists its best `MOST_CANDIDATES`, and counts all."""
        ...

    async def check_line(
        self, target: LineTarget, probe: Probes, context: CallContext
    ) -> HolderCheck:
        """The face float32[d] against the holder of a line in use; audited. `NotFound` for a line
        that is not, or is of another tenant than the context's."""
        ...

    async def check_document(
        self, document: Document | str, probe: Probes, context: CallContext
    ) -> HolderCheck:
        """The same for a document, presented or by its id; for a tenant, one with which that
        document has a line in use."""
        ...

    async def read_lines(
        self, document: Document, probe: Probes, context: CallContext
    ) -> HolderLines:
        """The numbers under a document, over all carriers, to its holder's face; audited. Another
        face learns nothing, nor whether anybody holds the document."""
        ...

    async def dispute_line(
        self, target: LineTarget, document: Document, probe: Probes, context: CallContext
    ) -> Dispute:
        """Opens a case over a line of this document that its holder did not open; the line becomes
        `disputed`. `HolderMismatch` where the face is not the holder's, or nobody's document.
        `NotFound` where the line is not under it. Disputed again: the same case."""
        ...

    async def close_line(self, target: LineTarget, context: CallContext) -> str:
        """Closes a line in use and returns its id; `NotFound` for another tenant's."""
        ...

    async def erase(self, document_id: str, context: CallContext) -> ErasureCertificate:
        """Erases a holder. For a tenant: one whose every line is its own, else `NotFound` or, where
        it has lines here and elsewhere, `TenantConflict`."""
        ...

    async def note(self, entries: Sequence[AuditEntry], context: CallContext) -> None:
        """Keeps audit entries durably; gathered with others into one transaction."""
        ...


# What people do with a case or a sweep, as it travels to the registrar.


@dataclass(frozen=True, slots=True)
class Assign:
    """To an actor; None gives the case back to the queue."""

    assignee: str | None


@dataclass(frozen=True, slots=True)
class Remark:
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Propose:
    """An outcome, and the lines that another person may close by it.

    `seen_at`, here and in `Close`, is `updated_at` of the case that was looked at.
    """

    outcome: Outcome
    close_lines: tuple[str, ...] = ()
    seen_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Takes the proposal back."""


@dataclass(frozen=True, slots=True)
class Close:
    outcome: Outcome
    close_lines: tuple[str, ...] = ()
    seen_at: datetime | None = None


CaseStep = Assign | Remark | Propose | Withdraw | Close


class Steering(StrEnum):
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


# How a call of the desk crosses to another process: errors go as values, never as exceptions.

QUEUED = frozenset({"enroll", "identify", "note"})
"""Gathered with others of their kind; every other call is carried out by a thread of its own."""
ABOUT_HOLDERS = frozenset(
    {"check_line", "check_document", "read_lines", "dispute_line", "close_line", "erase"}
)
ABOUT_FRAUD = frozenset(
    {
        "step_case",
        "expect_sweep",
        "start_sweep",
        "steer_sweep",
        "read_sweep",
        "list_sweeps",
        "list_groups",
        "read_group",
    }
)
OPERATIONS = QUEUED | ABOUT_HOLDERS | ABOUT_FRAUD
"""The methods of a `Desk` that another process may ask for, besides `status`."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a call came to: a value, or the error that its caller must see. Both can be pickled."""

    value: Any = None
    error: SosieError | ServiceRefusal | None = None

    def unwrap(self) -> Any:
        """The value; raises the error where there is one."""
        if self.error is not None:
            raise self.error
        return self.value


def presentable(error: Exception) -> SosieError | ServiceRefusal:
    """The error as a caller may see it; of an unforeseen one the type, and nothing of its text.

    Whatever says that the registrar or its gallery was lost is `Interrupted`: it may or may not
    have committed, and its caller asks again with the same key.
    """
    if isinstance(error, LeaseLost | GalleryBehind | ShardLost):
        return Interrupted(
            "the registry was interrupted and is opened again: "
            "ask again, with the same Idempotency-Key if the call has one"
        )
    if isinstance(error, IndexFault):
        return RequestError(str(error))
    if isinstance(error, SosieError | ServiceRefusal):
        return error
    return SosieError(f"the call met an internal error ({type(error).__name__}): report it")


def find_context(arguments: Sequence[Any]) -> CallContext | None:
    """Who asks, and for how long, among the arguments of a call."""
    for argument in arguments:
        if isinstance(argument, CallContext):
            return argument
    return None


# One call of the desk on its way through a thread.


@dataclass(frozen=True, slots=True)
class Turn:
    """Who asks, who makes its changes, and until when by the monotonic clock."""

    context: CallContext
    runner: BoundedRunner
    expires_at: float

    @property
    def left_s(self) -> float:
        return max(0.0, self.expires_at - monotonic())
