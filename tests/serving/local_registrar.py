"""A client of a registrar's service in the same process."""

from typing import Any

from serving.registrar.protocol import CallContext, RegistrarClient, Reply, Status
from serving.registrar.service import RegistrarService


class LocalRegistrar(RegistrarClient):
    """Asks a service in this process. Errors look as they do after a hop between processes; a call
    that is cancelled is cancelled in the service."""

    def __init__(self, service: RegistrarService) -> None:
        self.service = service

    async def status(self) -> Status:
        return await self.service.status()

    async def carry(self, method: str, arguments: tuple[Any, ...], context: CallContext) -> Reply:
        return await self.service.perform(method, arguments, context)
