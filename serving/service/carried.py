"""A desk whose calls are carried elsewhere: to a service in this process, or over a hop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

from engine.matching.disputes import Dispute
from engine.matching.documents import Document
from engine.matching.holders import ErasureCertificate, HolderLines
from engine.matching.identification import Identification
from engine.matching.requests import Answer, EnrollmentRequest
from engine.matching.verification import HolderCheck
from engine.registry.records import AuditEntry
from serving.service.desk import CallContext, LineTarget, Probes, Status
from serving.service.replies import Reply


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

    async def _ask(self, method: str, *arguments: Any) -> Any:
        return (await self.carry(method, arguments)).unwrap()
