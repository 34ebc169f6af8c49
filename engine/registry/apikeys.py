"""A key of the service, as the registry keeps it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Who may call the service; `digest` is all that is kept of the key itself.

    `carrier` and `outlet` are what the role is bound to; `rate_limit` is in items a second.
    """

    id: str
    digest: bytes = field(repr=False)
    label: str
    role: str
    carrier: str | None
    outlet: str | None
    rate_limit: float | None
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
