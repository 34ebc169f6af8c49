"""The files of sweeps leave when their time is over."""

from __future__ import annotations

from engine.registry.records import AuditEntry, Changes, utc_now
from engine.retention.job import Turns
from serving.compose import Deployment

EXPIRED = "sweep.expired"


def retire_sweeps(deployment: Deployment, turns: Turns, actor: str) -> list[str]:
    """The ids of the sweeps whose files have left, which is audited."""
    expired = deployment.sweeps.expire(utc_now())
    if expired:
        entries = tuple(AuditEntry(actor, EXPIRED, key) for key in expired)
        turns.run(lambda writer, _: writer.commit(Changes(sequence=writer.sequence, audit=entries)))
    return expired
