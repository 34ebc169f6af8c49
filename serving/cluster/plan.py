"""What the supervisor tells a node that it starts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """What one node is told. `folder` is for what lasts as long as the node; `report` is an open
    file descriptor for one JSON line: `{"deployed": true}`, or the fault."""

    home: str
    file: str | None
    host: str
    port: int
    ray_address: str
    folder: str
    drain_s: float
    is_proxied: bool
    report: int

    def write(self) -> str:
        """As one argument of a command."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Self:
        return cls(**json.loads(text))
