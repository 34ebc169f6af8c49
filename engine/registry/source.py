"""What every reader of the registry stands on: the database, the vault, look-ups by many keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import BindParameter, Engine, Row, Select, bindparam

from engine.registry.database import chunks, reading
from engine.registry.vault import Vault

KEYS: BindParameter[Any] = bindparam("keys", expanding=True)
"""Stands in a query for the keys that `Source._rows_of` asks it for."""


class Source:
    """One registry to read from; safe to use from any thread."""

    def __init__(self, engine: Engine, vault: Vault) -> None:
        self._engine = engine
        self._vault = vault

    @property
    def vault(self) -> Vault:
        return self._vault

    def _rows_of(
        self, statement: Select[Any], keys: Sequence[object], **values: object
    ) -> Iterator[Row[Any]]:
        distinct = list(dict.fromkeys(keys))
        for chunk in chunks(distinct):
            with reading(self._engine) as connection:
                rows = connection.execute(statement, {"keys": chunk, **values}).all()
            yield from rows
