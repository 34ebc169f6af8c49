"""A service on a real deployment, and people who never had a photograph taken."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from numpy.typing import NDArray
from stdnum.cn import ric
from structlog.testing import LogCapture
from structlog.typing import FilteringBoundLogger

from engine.matching.documents import Document
from engine.matching.requests import EnrollmentRequest, Sample
from engine.registry.records import AuditEntry
from serving.compose import Deployment
from serving.registrar.protocol import CallContext, Phase
from serving.registrar.service import LocalRegistrar, RegistrarService
from serving.settings import ServeSettings, Settings, load_settings
from serving.telemetry.metrics import Meter

DIM = 128
WAIT_S = 300
CONTEXT = CallContext(actor="key:tests", correlator="c-1", timeout_s=15)


class SyntheticPeople:
    """People as unit vectors: one person's samples score about 0.9, strangers' near 0."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(11)
        self._serial = itertools.count(1)

    def person(self) -> NDArray[np.float32]:
        return _unit(self._random.standard_normal(DIM))

    def probe(self, person: NDArray[np.float32]) -> NDArray[np.float32]:
        return _unit(person + 0.3 * self.person())

    def request(
        self, person: NDArray[np.float32] | None = None, **changes: Any
    ) -> EnrollmentRequest:
        """An honest request; anything can be given instead."""
        serial = next(self._serial)
        person = self.person() if person is None else person
        fields: dict[str, Any] = {
            "idempotency_key": f"key-{serial}",
            "carrier": "blue",
            "outlet": "b1",
            "document": Document("cn-ric", _resident_number(serial), f"Holder {serial}"),
            "msisdn": f"+8613{serial:09d}",
            "live": self._sample(person),
            "portrait": self._sample(person),
        }
        return EnrollmentRequest(**fields | changes)

    def _sample(self, person: NDArray[np.float32]) -> Sample:
        vector = self.probe(person)
        return Sample(vector, hashlib.sha256(vector.tobytes()).digest())


@pytest.fixture
def population() -> SyntheticPeople:
    return SyntheticPeople()


@pytest.fixture
def context() -> CallContext:
    return CONTEXT


@pytest.fixture
def settings(home: Path) -> Settings:
    return load_settings(home)


@pytest.fixture
def open_home(home: Path, settings: Settings, tmp_path: Path) -> Callable[..., Deployment]:
    """`open_home(settings=..., **more)` opens this test's deployment."""

    def build(chosen: Settings | None = None, **more: Any) -> Deployment:
        return Deployment(home, chosen or settings, tmp_path / "cache", **more)

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
def keep(open_home: Callable[..., Deployment]) -> Callable[..., Kept]:
    """`keep(**more)` opens this test's deployment for a service, and keeps it."""
    return lambda **more: Kept(open_home, **more)


@pytest.fixture
def kept(keep: Callable[..., Kept]) -> Kept:
    return keep()


@pytest.fixture
def busy() -> Callable[[Deployment], AbstractContextManager[None]]:
    """`with busy(deployment)`: its writer's thread does something long until the block ends."""

    @contextmanager
    def hold(deployment: Deployment) -> Iterator[None]:
        held, release = threading.Event(), threading.Event()

        def wait(*_: object) -> None:
            held.set()
            assert release.wait(120)

        future = deployment.registrar.schedule(wait)
        assert held.wait(120)
        try:
            yield
        finally:
            release.set()
            future.result(120)

    return hold


@pytest.fixture
def lines() -> LogCapture:
    """What the services of this test have logged."""
    return LogCapture()


@pytest.fixture
def log(lines: LogCapture) -> FilteringBoundLogger:
    wrapper = structlog.make_filtering_bound_logger(0)
    made: FilteringBoundLogger = structlog.wrap_logger(
        None, processors=[lines], wrapper_class=wrapper
    )
    return made


@pytest.fixture
def serve(
    open_home: Callable[..., Deployment], log: FilteringBoundLogger
) -> Iterator[Callable[..., LocalRegistrar]]:
    """`serve(open_deployment, meter=, **serve settings)`: a registrar, closed after the test."""
    services: list[RegistrarService] = []

    def start(
        open_deployment: Callable[[], Deployment] = open_home,
        meter: Any = None,
        **changes: Any,
    ) -> LocalRegistrar:
        service = RegistrarService(open_deployment, ServeSettings(**changes), meter or Meter(), log)
        services.append(service)
        return LocalRegistrar(service)

    yield start
    for service in services:
        service.close()


@pytest.fixture
def reach() -> Callable[..., Any]:
    """`await reach(registrar, phase)` waits until the service is there, and returns its status."""

    async def wait(registrar: LocalRegistrar, phase: Phase = Phase.READY) -> Any:
        give_up_at = time.monotonic() + WAIT_S
        while (status := await registrar.status()).phase is not phase:
            assert time.monotonic() < give_up_at, status
            await asyncio.sleep(0.02)
        return status

    return wait


async def wait_for_queued(kept: Any, count: int) -> None:
    """Until so many enrollments and changes wait in the registrar that was opened last."""
    async with asyncio.timeout(WAIT_S):
        while kept.last.registrar.queued != count:
            await asyncio.sleep(0.001)


def _unit(vector: NDArray[Any]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit


def _resident_number(serial: int) -> str:
    body = f"110105199{serial // 28000 % 10}{serial // 2800 % 10 + 1:02d}"
    body += f"{serial // 100 % 28 + 1:02d}{serial % 100:03d}"
    return body + str(ric.calc_check_digit(body + "0"))
