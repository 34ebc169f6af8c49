"""Reads who may enroll and call: carriers, their outlets, the keys of the service."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, select

from engine.errors import NotFound
from engine.registry import tables
from engine.registry.apikeys import ApiKey
from engine.registry.database import reading
from engine.registry.records import Carrier, Outlet
from engine.registry.rows import api_key_of
from engine.registry.source import KEYS, Source

_OUTLETS = (
    select(tables.outlets, tables.carriers.c.line_limit)
    .join(tables.carriers)
    .where(tables.outlets.c.code.in_(KEYS))
)
_CARRIERS = select(tables.carriers).order_by(tables.carriers.c.code)
_ALL_OUTLETS = (
    select(tables.outlets, tables.carriers.c.line_limit)
    .join(tables.carriers)
    .order_by(tables.outlets.c.code)
)
_API_KEYS = select(tables.api_keys).order_by(tables.api_keys.c.created_at, tables.api_keys.c.id)
_API_KEY = select(tables.api_keys).where(tables.api_keys.c.id == bindparam("id"))


class TenantReader(Source):
    """The tenants of a deployment, and what stands for them."""

    def outlets(self, codes: Sequence[str]) -> dict[str, Outlet]:
        """The known ones of these outlets."""
        return {
            row.code: Outlet(row.code, row.carrier, row.is_open, row.line_limit)
            for row in self._rows_of(_OUTLETS, codes)
        }

    def carriers(self) -> list[Carrier]:
        """Every carrier, by code."""
        with reading(self._engine) as connection:
            return [
                Carrier(row.code, row.name, row.line_limit) for row in connection.execute(_CARRIERS)
            ]

    def all_outlets(self) -> list[Outlet]:
        """Every outlet, closed ones too, by code."""
        with reading(self._engine) as connection:
            return [
                Outlet(row.code, row.carrier, row.is_open, row.line_limit)
                for row in connection.execute(_ALL_OUTLETS)
            ]

    def api_key(self, key_id: str) -> ApiKey:
        """One key of the service, in force or not; `NotFound` if there is none."""
        with reading(self._engine) as connection:
            row = connection.execute(_API_KEY, {"id": key_id}).one_or_none()
        if row is None:
            raise NotFound("no key has this id: see `sosie apikey list`")
        return api_key_of(row)

    def api_keys(self) -> list[ApiKey]:
        """Every key of the service, those no longer in force too, the oldest first."""
        with reading(self._engine) as connection:
            return [api_key_of(row) for row in connection.execute(_API_KEYS)]
