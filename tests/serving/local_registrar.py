"""A client of a registrar's service in the same process."""

import pickle
from typing import Any

from serving.registrar.protocol import CallContext, RegistrarClient, Reply, Status
from serving.registrar.service import RegistrarService


class LocalRegistrar(RegistrarClient):
    """Asks a service in this process; what is asked and answered is pickled as on the hop between
    processes. A call that is cancelled is cancelled in the service."""

    def __init__(self, service: RegistrarService) -> None:
        self.service = service

    async def status(self) -> Status:
        return await self.service.status()

    async def carry(self, method: str, arguments: tuple[Any, ...], context: CallContext) -> Reply:
        arguments, context = pickle.loads(pickle.dumps((arguments, context)))
        reply = await self.service.perform(method, arguments, context)
        return pickle.loads(pickle.dumps(reply))  # type: ignore[no-any-return]
