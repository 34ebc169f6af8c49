"""`/v1/backups`: copies of the registry, made while it is used."""

from __future__ import annotations

from serving.api import serializers
from serving.api.request import Request
from serving.parts import Parts
from serving.wire import oversight as wire


async def start_backup(parts: Parts, request: Request) -> wire.Backup:
    """Begins a backup beside all decisions, into the home's folder `backups`: it is copied, checked
    as a whole, and audited. One at a time: where one runs, this is it.
    """
    return serializers.backup(await parts.registrar.start_backup(request.context()))


async def list_backups(parts: Parts, request: Request) -> wire.Backups:
    """Every backup of the home, and the one that runs or has failed last; the newest first."""
    found = await parts.registrar.list_backups(request.context())
    return wire.Backups(tuple(map(serializers.backup, found)))
