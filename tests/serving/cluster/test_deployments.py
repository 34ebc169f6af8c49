"""An ingress whose embedder is away, or whose worker is dead."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import structlog

from engine.registry.keyring import KeyRing
from engine.registry.vault import Vault
from serving.cluster.deployments import Ingress, IngressParts, _call_embedder
from serving.errors import Interrupted, NotReady
from serving.ingress.extraction_queue import ExtractionQueue
from serving.telemetry.metrics import Meter


def test_a_lost_embedder_is_interrupted_and_nothing_of_ray_is_seen() -> None:
    class Method:
        async def remote(self, *_: Any) -> Any:
            raise ConnectionResetError("10.0.0.7")

    class Handle:
        embed = Method()

    async def run() -> None:
        call = _call_embedder(Handle())
        with pytest.raises(Interrupted) as caught:
            await asyncio.to_thread(call, np.zeros((1, 112, 112, 3), np.uint8))
        assert "10.0.0.7" not in str(caught.value)

    asyncio.run(run())


def ask_after_photograph(raised: BaseException) -> None:
    """The health of an ingress whose extractor has answered a photograph with this."""

    class Extractor:
        def extract(self, *_: Any) -> Any:
            raise raised

    log, vault = structlog.get_logger(), Vault(KeyRing.generate(), 32)
    faces = ExtractionQueue(Extractor(), vault, capacity=4, meter=Meter(), log=log)
    parts = object.__new__(IngressParts)
    parts._faces = faces

    async def run() -> None:
        with pytest.raises((Interrupted, NotReady)):
            await faces.sample([b"any"])
        assert not faces.is_alive
        await Ingress.check_health(SimpleNamespace(_parts=parts))

    try:
        asyncio.run(run())
    finally:
        faces.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_ingress_whose_worker_has_ended_is_to_be_replaced() -> None:
    with pytest.raises(RuntimeError, match="replaced"):
        ask_after_photograph(SystemExit())


def test_an_ingress_whose_embedder_is_away_stays() -> None:
    ask_after_photograph(Interrupted("no answer"))
