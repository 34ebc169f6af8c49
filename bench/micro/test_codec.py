"""A match request read and its answer written, in JSON and in MessagePack."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import numpy as np
import pytest

from bench.conftest import Clock
from serving.api.body import JSON, MSGPACK, decode, encode
from serving.wire.matching import MatchRequest

ITEMS = {"one item": 1, "256 items": 256}
TEMPLATE_BYTES = 564
FORMATS = {"JSON": JSON, "MessagePack": MSGPACK}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("called", ITEMS)
def test_request(called: str, form: str, clock: Clock, pytestconfig: pytest.Config) -> None:
    items, seed = ITEMS[called], pytestconfig.getoption("--seed")
    random = np.random.default_rng(seed)

    def draw() -> Any:
        template = random.bytes(TEMPLATE_BYTES)
        if form == "MessagePack":
            return template
        return base64.urlsafe_b64encode(template).decode().rstrip("=")

    asked = [
        {"probe": {"template": draw()}, "reference": {"template": draw()}} for _ in range(items)
    ]
    body = (msgspec.json if form == "JSON" else msgspec.msgpack).encode({"items": asked})

    def read() -> MatchRequest:
        return decode(FORMATS[form], body, MatchRequest)

    assert len(read().items) == items
    setup = {"items": items, "template_bytes": TEMPLATE_BYTES, "seed": seed, "threads": 1}
    clock(
        f"A request of {called}, read", form, read, setup,
        rounds=None, per=items, unit="us",
    )  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("called", ITEMS)
def test_answer(called: str, form: str, clock: Clock) -> None:
    items = ITEMS[called]
    answer = {
        "results": [{"verification": {"is_match": True, "band": "certain"}} for _ in range(items)]
    }
    setup = {"items": items, "threads": 1}
    clock(
        f"An answer of {called}, written", form, lambda: encode(answer, FORMATS[form]), setup,
        rounds=None, per=items, unit="us",
    )  # fmt: skip
