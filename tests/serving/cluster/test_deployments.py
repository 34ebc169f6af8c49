"""What an ingress sees of an embedder that runs elsewhere; the rest is tested on Ray itself."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from serving.cluster.deployments import _call_embedder
from serving.refusals import Interrupted


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
