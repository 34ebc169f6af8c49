"""The one writer: it orders every change of the gallery and commits batches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Engine, Row, Select, func, select, update

from engine.registry import deployment, tables
from engine.registry.changes import apply
from engine.registry.database import changing, reading
from engine.registry.lease import take_lease
from engine.registry.ledger import Fence, chained, recorded
from engine.registry.records import AuditEntry, AuditRecord, Changes, utc_now
from engine.registry.vault import Vault

_deployment = tables.deployment


class Writer:
    """Holds the writer's lease from its making to `close`; used by one thread at a time.

    The lease keeps a second writer out, and the epoch in the deployment's row fences this one
    should the lease be lost unnoticed: a commit under an older epoch raises `LeaseLost`.
    """

    def __init__(self, engine: Engine, vault: Vault, model_digest: str) -> None:
        self._engine = engine
        self._vault = vault
        self._model_digest = model_digest
        self._closed = False
        self._epoch = self._sequence = 0
        self._last_reference_id = self._last_watch_id = 0
        self._lease = take_lease(engine)
        try:
            self._take_over()
        except BaseException:
            self._lease.release()
            raise

    @property
    def vault(self) -> Vault:
        return self._vault

    @property
    def sequence(self) -> int:
        """The gallery sequence after the last commit."""
        return self._sequence

    def next_reference_id(self) -> int:
        """A gallery key that no reference had before, removed ones included."""
        self._last_reference_id += 1
        return self._last_reference_id

    def next_watch_id(self) -> int:
        """A key for a watched face, from a range of its own."""
        self._last_watch_id += 1
        return self._last_watch_id

    def commit(self, changes: Changes) -> AuditRecord:
        """Keeps all of the changes, durably, or raises and keeps none.

        Returns the last of their audit entries, in its place in the chain.

        `StorageFull` and `StorageFailed`: nothing was kept, and the writer may go on.
        `LeaseLost`: nothing more may be committed from here.
        """
        assert not self._closed
        assert changes.sequence >= self._sequence, "the gallery's sequence never goes back"
        now = utc_now()
        with chained(
            self._engine,
            self._vault,
            changes.audit,
            now,
            fence=self._fence,
            sequence=changes.sequence,
        ) as (connection, last):
            apply(connection, self._vault, self._model_digest, changes, now)
        self._sequence = changes.sequence
        return last

    def changing(self, *entries: AuditEntry) -> AbstractContextManager[Connection]:
        """A fenced and audited transaction, for work inside this package that has no `Changes`."""
        assert not self._closed
        return recorded(self._engine, self._vault, entries, utc_now(), fence=self._fence)

    def rows(self, query: Select[Any]) -> Sequence[Row[Any]]:
        """Reads for such work: nobody else changes the rows while the lease is held."""
        with reading(self._engine) as connection:
            return connection.execute(query).all()

    def close(self) -> None:
        """Gives the lease back; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._lease.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _fence(self) -> Fence:
        return Fence(self._epoch, self._sequence)

    def _take_over(self) -> None:
        # One transaction: a deposed writer's last commit is either seen here or fenced off.
        with changing(self._engine) as connection:
            connection.execute(
                update(_deployment).values(writer_epoch=_deployment.c.writer_epoch + 1)
            )
            # Again, after `Store.open`: the data key may have been rotated in between.
            deployment.check_data_key_is_newest(connection, self._vault)
            deployment.check(connection, self._vault, self._model_digest)
            deployment.add_data_key(connection, self._vault)
            row = connection.execute(
                select(_deployment.c.writer_epoch, _deployment.c.sequence)
            ).one()
            # Rows of removed references and watch-list entries stay, so their ids stay taken.
            last_reference = connection.scalar(select(func.max(tables.references.c.id)))
            last_watch = connection.scalar(select(func.max(tables.watchlist.c.id)))
        self._epoch = row.writer_epoch
        self._sequence = row.sequence
        self._last_reference_id = last_reference or 0
        self._last_watch_id = last_watch or 0
