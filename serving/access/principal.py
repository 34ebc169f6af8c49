"""Who calls: what a key stands for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """`outlet` acts for one outlet, `carrier` for one tenant; the other two for all tenants."""

    OUTLET = "outlet"
    CARRIER = "carrier"
    FRAUD = "fraud"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Principal:
    """The holder of a key. `carrier` is None for roles of all tenants, `outlet` for all but one.

    `rate_limit` is in items a second; None takes the setting.
    """

    key_id: str
    role: Role
    carrier: str | None = None
    outlet: str | None = None
    rate_limit: float | None = None

    @property
    def actor(self) -> str:
        """How the audit chain names it."""
        return f"key:{self.key_id}"
