"""What every reader of the registry stands on: the database, the vault, look-ups by many keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BindParameter, Engine, Row, Select, bindparam

from engine.registry.database import chunks, reading
from engine.registry.vault import Vault

KEYS: BindParameter[Any] = bindparam("keys", expanding=True)
"""Stands in a query for the keys that `Source._rows_of` asks it for."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a document says in the clear, and where its holder's consent is on file if that came
    with an existing base: an enrollment has its own."""

    number: str = field(repr=False)
    name: str = field(repr=False)
    consent_ref: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ReferenceChunk:
    """Live references side by side: ids int64[n], rotated unit rows float32[n, dim],
    and the gallery sequence at which each was added, int64[n]."""

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32] = field(repr=False)
    sequences: NDArray[np.int64]


class Source:
    """One registry to read from; safe to use from any thread."""

    def __init__(self, engine: Engine, vault: Vault) -> None:
        self._engine = engine
        self._vault = vault

    @property
    def vault(self) -> Vault:
        return self._vault

    def rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        """Reads for work inside this package that has no reader of its own."""
        with reading(self._engine) as connection:
            return connection.execute(query).all()

    def _rows_of(
        self, statement: Select[Any], keys: Sequence[object], **values: object
    ) -> Iterator[Row[Any]]:
        distinct = list(dict.fromkeys(keys))
        for chunk in chunks(distinct):
            with reading(self._engine) as connection:
                rows = connection.execute(statement, {"keys": chunk, **values}).all()
            yield from rows
