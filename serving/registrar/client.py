"""A desk whose calls are carried elsewhere: to a service in this process, or over a hop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

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
    Reply,
    Status,
    Steering,
)
from serving.registrar.service import MatchService


class CarriedDesk(ABC):
    """A `Desk` of which only the carrying is left to say."""

    @abstractmethod
    async def status(self) -> Status: ...

    @abstractmethod
    async def carry(self, method: str, arguments: tuple[Any, ...]) -> Reply:
        """Has `MatchService.perform(method, arguments)` done, wherever that runs."""

    async def enroll(self, request: EnrollmentRequest, context: CallContext) -> Answer:
        return cast("Answer", await self._ask("enroll", request, context))

    async def identify(
        self, probes: Probes, threshold: float, context: CallContext
    ) -> list[Identification]:
        answer = await self._ask("identify", probes, threshold, context)
        return cast("list[Identification]", answer)

    async def check_line(
        self, target: LineTarget, probe: Probes, context: CallContext
    ) -> HolderCheck:
        return cast("HolderCheck", await self._ask("check_line", target, probe, context))

    async def check_document(
        self, document: Document | str, probe: Probes, context: CallContext
    ) -> HolderCheck:
        return cast("HolderCheck", await self._ask("check_document", document, probe, context))

    async def read_lines(
        self, document: Document, probe: Probes, context: CallContext
    ) -> HolderLines:
        return cast("HolderLines", await self._ask("read_lines", document, probe, context))

    async def dispute_line(
        self, target: LineTarget, document: Document, probe: Probes, context: CallContext
    ) -> Dispute:
        answer = await self._ask("dispute_line", target, document, probe, context)
        return cast("Dispute", answer)

    async def close_line(self, target: LineTarget, context: CallContext) -> str:
        return cast("str", await self._ask("close_line", target, context))

    async def erase(self, document_id: str, context: CallContext) -> ErasureCertificate:
        return cast("ErasureCertificate", await self._ask("erase", document_id, context))

    async def note(self, entries: Sequence[AuditEntry], context: CallContext) -> None:
        await self._ask("note", tuple(entries), context)

    async def step_case(self, case_id: str, step: CaseStep, context: CallContext) -> CaseRecord:
        return cast("CaseRecord", await self._ask("step_case", case_id, step, context))

    async def expect_sweep(self, request: SweepRequest, context: CallContext) -> Expectation:
        return cast("Expectation", await self._ask("expect_sweep", request, context))

    async def start_sweep(self, request: SweepRequest, context: CallContext) -> SweepRecord:
        return cast("SweepRecord", await self._ask("start_sweep", request, context))

    async def steer_sweep(
        self, sweep_id: str, steering: Steering, context: CallContext
    ) -> SweepRecord:
        answer = await self._ask("steer_sweep", sweep_id, steering, context)
        return cast("SweepRecord", answer)

    async def read_sweep(self, sweep_id: str, context: CallContext) -> SweepRecord:
        return cast("SweepRecord", await self._ask("read_sweep", sweep_id, context))

    async def list_sweeps(self, limit: int, context: CallContext) -> list[SweepRecord]:
        return cast("list[SweepRecord]", await self._ask("list_sweeps", limit, context))

    async def list_groups(
        self, sweep_id: str, after: int, limit: int, context: CallContext
    ) -> GroupList:
        answer = await self._ask("list_groups", sweep_id, after, limit, context)
        return cast("GroupList", answer)

    async def read_group(self, sweep_id: str, key: str, context: CallContext) -> Mapping[str, Any]:
        answer = await self._ask("read_group", sweep_id, key, context)
        return cast("Mapping[str, Any]", answer)

    async def _ask(self, method: str, *arguments: Any) -> Any:
        return (await self.carry(method, arguments)).unwrap()


# The desk of a service in this process: for tests, and deployments of one process.


class LocalDesk(CarriedDesk):
    """Errors look as they do after a hop; a call that is cancelled is cancelled in the service."""

    def __init__(self, service: MatchService) -> None:
        self.service = service

    async def status(self) -> Status:
        return await self.service.status()

    async def carry(self, method: str, arguments: tuple[Any, ...]) -> Reply:
        return await self.service.perform(method, arguments)
