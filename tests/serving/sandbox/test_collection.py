"""The collection of requests: every operation, every outcome, and an example in each body."""

import json
from collections.abc import Iterator
from typing import Any

from serving.api.endpoints import ENDPOINTS
from serving.sandbox.collection import build_collection
from serving.sandbox.outcomes import OUTCOMES, SILENT


def items(folder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for one in folder["item"]:
        if "request" in one:
            yield one
        else:
            yield from items(one)


def test_it_has_every_operation_and_every_outcome(sosie) -> None:
    collection = sosie("sandbox", "--collection").json
    assert collection == build_collection("0.1.0")
    names = [one["name"] for one in items(collection)]
    assert {one.summary for one in ENDPOINTS} - {"Sign out"} <= set(names)
    assert {name[:3] for name in names} >= {str(one) for one in OUTCOMES if one != SILENT}
    for one in items(collection):
        assert any("pm.expect" in line for line in one["event"][0]["script"]["exec"])
        if "body" in one["request"]:
            json.loads(one["request"]["body"]["raw"])
        # No key is in it: they are variables.
        assert "sosie_" not in json.dumps(one)
