"""A service on a real deployment, and people who never had a photograph taken."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture
from structlog.typing import FilteringBoundLogger

from engine.registry.audit import AuditEntry
from schema.phases import Phase
from serving.deployment.deployment import Deployment
from serving.registrar.protocol import CallContext, Status
from serving.registrar.service import RegistrarService
from serving.settings.sections import ServeSettings
from serving.settings.settings import Settings, load_settings
from serving.telemetry.metrics import Meter
from tests.engine.matching.conftest import People, busy
from tests.serving.local_registrar import LocalRegistrar

__all__ = ["busy"]

DIM = 128
WAIT_S = 300
CONTEXT = CallContext(actor="key:tests", correlator="c-1", timeout_s=15)


@pytest.fixture
def population() -> People:
    return People(seed=11, dim=DIM, outlet="b1")


@pytest.fixture
def context() -> CallContext:
    return CONTEXT


@pytest.fixture
def settings(home) -> Settings:
    return load_settings(home)


@pytest.fixture
def open_home(home, settings, tmp_path) -> Callable[..., Deployment]:
    """`open_home(settings=..., **more)` opens this test's deployment."""

    def build(chosen: Settings | None = None, **more: Any) -> Deployment:
        return Deployment(home, chosen or settings, **more)

    return build


class Kept:
    """Opens deployments and keeps the last, to look behind the service."""

    def __init__(self, open_home: Callable[..., Deployment], **more: Any) -> None:
        self._open, self._more = open_home, more
        self.opened = 0
        self.last: Any = None

    def __call__(self) -> Deployment:
        self.last = self._open(**self._more)
        self.opened += 1
        made: Deployment = self.last
        return made

    def actions(self) -> list[AuditEntry]:
        return [record.entry for record in self.last.store.audit_entries()]


@pytest.fixture
def keep(open_home) -> Callable[..., Kept]:
    """`keep(**more)` opens this test's deployment for a service, and keeps it."""
    return lambda **more: Kept(open_home, **more)


@pytest.fixture
def kept(keep) -> Kept:
    return keep()


@pytest.fixture
def lines() -> LogCapture:
    """What the services of this test have logged."""
    return LogCapture()


@pytest.fixture
def log(lines) -> FilteringBoundLogger:
    wrapper = structlog.make_filtering_bound_logger(0)
    made: FilteringBoundLogger = structlog.wrap_logger(
        None, processors=[lines], wrapper_class=wrapper
    )
    return made


@pytest.fixture
def serve(open_home, log) -> Iterator[Callable[..., LocalRegistrar]]:
    """`serve(open_deployment, meter=, **serve settings)`: a registrar, closed after the test."""
    services: list[RegistrarService] = []

    def start(
        open_deployment: Callable[[], Deployment] = open_home, meter: Any = None, **changes: Any
    ) -> LocalRegistrar:
        service = RegistrarService(open_deployment, ServeSettings(**changes), meter or Meter(), log)
        services.append(service)
        return LocalRegistrar(service)

    yield start
    for service in services:
        service.close()


@pytest.fixture
async def registrar(serve, kept) -> LocalRegistrar:
    """A service that is ready, on the deployment of `kept`."""
    opened: LocalRegistrar = serve(kept)
    await reach(opened)
    return opened


async def until(registrar: LocalRegistrar, holds: Callable[[Status], bool]) -> Status:
    """The first status of which that holds."""
    async with asyncio.timeout(WAIT_S):
        while not holds(status := await registrar.status()):
            await asyncio.sleep(0.01)
    return status


async def reach(registrar: LocalRegistrar, phase: Phase = Phase.READY) -> Status:
    return await until(registrar, lambda status: status.phase is phase)


async def wait_for_queued(kept: Any, count: int) -> None:
    """Until so many enrollments and changes wait in the registrar that was opened last."""
    async with asyncio.timeout(WAIT_S):
        while kept.last.registrar.queued != count:
            await asyncio.sleep(0.001)
