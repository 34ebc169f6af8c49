"""The desk of a service in this process: for tests, and deployments of one process."""

from __future__ import annotations

from typing import Any

from serving.service.carried import CarriedDesk
from serving.service.desk import Status
from serving.service.match_service import MatchService
from serving.service.replies import Reply


class LocalDesk(CarriedDesk):
    """Errors look as they do after a hop; a call that is cancelled is cancelled in the service."""

    def __init__(self, service: MatchService) -> None:
        self.service = service

    async def status(self) -> Status:
        return await self.service.status()

    async def carry(self, method: str, arguments: tuple[Any, ...]) -> Reply:
        return await self.service.perform(method, arguments)
