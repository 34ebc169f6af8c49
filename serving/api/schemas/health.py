"""What the service says of itself, and of a key."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from serving.access.principal import Role
from serving.api.schemas.fields import Shown
from serving.service.desk import Phase


class LiveAnswer(Shown):
    status: Literal["live"]


class Check(Shown):
    """One condition of being ready."""

    is_ok: bool
    detail: str


class ReadyAnswer(Shown):
    """Ready where every check is; the phase is null where the registrar cannot be reached."""

    is_ready: bool
    phase: Phase | None
    checks: dict[str, Check] = Field(description="store, models, registrar, gallery")


class VersionAnswer(Shown):
    version: str
    api: Literal["v1"]
    model_digest: str


class KeyAnswer(Shown):
    """What the key that was sent stands for."""

    key_id: str
    role: Role
    carrier: str | None
    outlet: str | None
