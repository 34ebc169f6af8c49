"""The one registrar as an ingress asks it, wherever that runs."""

# The bodies of the calls are the decorator's.
# mypy: disable-error-code="empty-body"
# ruff: noqa: B027

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from serving.registrar.protocol import Reply, Status

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
    from serving.registrar.protocol import (
        CallContext,
        CaseStep,
        GroupList,
        LineTarget,
        Probes,
        Steering,
    )
    from serving.registrar.service import RegistrarService

Method = TypeVar("Method", bound=Callable[..., Any])

OPERATIONS: set[str] = set()
"""The calls that a client may have carried out."""


def _carried(method: Method) -> Method:
    """The call has the method of this name of `Operations` carried out."""

    OPERATIONS.add(method.__name__)

    @wraps(method)
    async def ask(self: RegistrarClient, *arguments: Any) -> Any:
        *given, context = arguments
        return (await self.carry(method.__name__, tuple(given), context)).unwrap()

    return cast("Method", ask)


class RegistrarClient(ABC):
    """The one registrar. Every call may raise a `SosieError` or a `ServiceRefusal`:

    `NotReady` before it is ready, `Busy` or `Overloaded` where a queue is full, `Interrupted`
    where it was lost meanwhile, `DeadlinePassed` where nothing was kept in time. Arguments are
    given by place. Whatever is answered fits into one message.
    """

    @abstractmethod
    async def status(self) -> Status:
        """Answers in every phase."""

    @abstractmethod
    async def carry(self, method: str, arguments: tuple[Any, ...], context: CallContext) -> Reply:
        """Has `RegistrarService.perform` done with these, wherever that runs."""

    @_carried
    async def enroll(self, request: EnrollmentRequest, context: CallContext) -> Answer:
        """Judges one activation; the answer is durable and visible. A call that is cancelled, or
        whose time runs out while it waits, is dropped before it commits."""

    @_carried
    async def identify(
        self, probes: Probes, threshold: float, context: CallContext
    ) -> list[Identification]:
        """1:N for rows float32[n, d], beside the writer; one audit entry for the call.

        Each lists its best `MOST_CANDIDATES`, and counts all."""

    @_carried
    async def check_line(
        self, target: LineTarget, probe: Probes, context: CallContext
    ) -> HolderCheck:
        """The face float32[d] against the holder of a line in use; audited. `NotFound` for a line
        that is not, or is of another tenant than the context's."""

    @_carried
    async def check_document(
        self, document: Document | str, probe: Probes, context: CallContext
    ) -> HolderCheck:
        """The same for a document, presented or by its id; for a tenant, one with which that
        document has a line in use."""

    @_carried
    async def read_lines(
        self, document: Document, probe: Probes, context: CallContext
    ) -> HolderLines:
        """The numbers under a document, over all carriers, to its holder's face; audited. Another
        face learns nothing, nor whether anybody holds the document."""

    @_carried
    async def dispute_line(
        self, target: LineTarget, document: Document, probe: Probes, context: CallContext
    ) -> Dispute:
        """Opens a case over a line of this document that its holder did not open; the line becomes
        `disputed`. `HolderMismatch` where the face is not the holder's, or nobody's document.
        `NotFound` where the line is not under it. Disputed again: the same case."""

    @_carried
    async def close_line(self, target: LineTarget, context: CallContext) -> str:
        """Closes a line in use and returns its id; `NotFound` for another tenant's."""

    @_carried
    async def erase(self, document_id: str, context: CallContext) -> ErasureCertificate:
        """Erases a holder. For a tenant: one whose every line is its own, else `NotFound` or, where
        it has lines here and elsewhere, `TenantConflict`."""

    @_carried
    async def note(self, entries: Sequence[AuditEntry], context: CallContext) -> None:
        """Keeps audit entries durably; gathered with others into one transaction."""

    @_carried
    async def step_case(self, case_id: str, step: CaseStep, context: CallContext) -> CaseRecord:
        """Takes one step of a case and returns it as it is then; audited. `NotFound`, `CaseMoved`
        where the case is not in a state for it, `FourEyes` where another person must do it."""

    @_carried
    async def expect_sweep(self, request: SweepRequest, context: CallContext) -> Expectation:
        """What a sweep would cost and bring; changes nothing. `RateUnsupported`."""

    @_carried
    async def start_sweep(self, request: SweepRequest, context: CallContext) -> SweepRecord:
        """Starts a sweep; audited. `SweepBusy` where one is alive."""

    @_carried
    async def steer_sweep(
        self, sweep_id: str, steering: Steering, context: CallContext
    ) -> SweepRecord:
        """Pauses, resumes or cancels a sweep; audited. `NotFound`, `SweepOver`."""

    @_carried
    async def read_sweep(self, sweep_id: str, context: CallContext) -> SweepRecord:
        """A sweep with its progress of this moment."""

    @_carried
    async def list_sweeps(self, limit: int, context: CallContext) -> list[SweepRecord]:
        """The newest sweeps, without their summaries."""

    @_carried
    async def list_groups(
        self, sweep_id: str, after: int, limit: int, context: CallContext
    ) -> GroupList:
        """Groups of a sweep that is done, after the place `after`; audited. `SweepOver`."""

    @_carried
    async def read_group(self, sweep_id: str, key: str, context: CallContext) -> Mapping[str, Any]:
        """One group with its members and links; audited with whom it showed."""


class LocalRegistrar(RegistrarClient):
    """Asks a service in this process. Errors look as they do after a hop between processes; a call
    that is cancelled is cancelled in the service."""

    def __init__(self, service: RegistrarService) -> None:
        self.service = service

    async def status(self) -> Status:
        return await self.service.status()

    async def carry(self, method: str, arguments: tuple[Any, ...], context: CallContext) -> Reply:
        return await self.service.perform(method, arguments, context)
