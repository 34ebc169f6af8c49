"""The one writer: its lease, and its fenced and audited transactions."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

import numpy as np
from sqlalchemy import Connection, Engine, Table, func, select, text

from engine.errors import GalleryBehind, SosieError, StorageFailed
from engine.registry import audit, deployment
from engine.registry.accounts import count_refused
from engine.registry.audit import AuditEntry, AuditRecord, write_mark
from engine.registry.columns import metadata
from engine.registry.database import (
    AnyRow,
    Query,
    changing,
    long_statements,
    open_connection,
    overwrite_journal,
    reading,
    sqlite_file,
    utc_now,
)
from engine.registry.deployment import DEPLOYMENT
from engine.registry.enrollments import forget_tallies
from engine.registry.events import write_events
from engine.registry.references import REFERENCES, NewReference, RemovedReference
from engine.registry.rows import Transaction, Write, choose
from engine.registry.transactions import Fence, chained, recorded, take_lease
from engine.registry.vault import Vault
from engine.registry.watchlist import WATCHLIST
from indexes.base import Closing, Floats

T = TypeVar("T")

if TYPE_CHECKING:
    import sqlite3

    from indexes.gallery import Gallery


BULK_WRITES = 15_000
"""From so many writes on, a commit counts as a bulk load."""

_ANALYZE = text('ANALYZE documents, enrollments, "references", lines')


def _group(writes: Iterable[Write]) -> list[tuple[type[Write], list[Write]]]:
    """Writes by class, in the order in which they are stored."""
    kinds: defaultdict[type[Write], list[Write]] = defaultdict(list)
    for one in writes:
        kinds[type(one)].append(one)
    # The chain takes its entries itself.
    kinds.pop(AuditEntry, None)
    return sorted(kinds.items(), key=lambda item: (item[0].step, _places()[item[0].table]))


@cache
def _places() -> dict[Table, int]:
    """Tables, each after those that it refers to."""
    return {table: place for place, table in enumerate(metadata.sorted_tables)}


class Writer(Closing):
    """Holds the writer's lease from its making to `close`; used by one thread at a time.

    The lease keeps a second writer out, and the epoch in the deployment's row fences this one
    should the lease be lost unnoticed: a commit under an older epoch raises `LeaseLost`.
    """

    def __init__(self, engine: Engine, vault: Vault, model_digest: str) -> None:
        self._engine = engine
        self.vault = vault
        self.model_digest = model_digest
        self._closed = False
        self._epoch = self._sequence = self._audit_number = 0
        self._last_reference_id = self._last_watch_id = 0
        self._has_erased = True  # A process before this one may have, and been killed.
        self._lease = take_lease(engine)
        self._place: Engine | Connection = engine
        try:
            if sqlite_file(engine) is not None:
                # One for all that is written: only so may a copy be made meanwhile.
                self._place = open_connection(engine)
            self._take_over()
            self._forget_erased()
        except BaseException:
            self._release()
            raise

    @property
    def engine(self) -> Engine:
        return self._engine

    @property
    def sequence(self) -> int:
        """The gallery sequence after the last commit."""
        return self._sequence

    @property
    def epoch(self) -> int:
        """The number of this writer: every later one has a greater."""
        return self._epoch

    def next_reference_id(self) -> int:
        """A gallery key that no reference had before, removed ones included."""
        self._last_reference_id += 1
        return self._last_reference_id

    def next_watch_id(self) -> int:
        """A key for a watched face, from a range of its own."""
        self._last_watch_id += 1
        return self._last_watch_id

    def commit(self, writes: Sequence[Write]) -> AuditRecord:
        """Stores all of the writes, an audit entry at least, durably, or raises and stores none.

        Returns the last of their audit entries, in its place in the chain.

        `StorageFull` and `StorageFailed`: nothing was stored, and the writer may go on.
        `LeaseLost`: nothing more may be committed from here.
        """
        assert not self._closed
        moved = (one for one in writes if isinstance(one, NewReference | RemovedReference))
        sequence = max((one.sequence for one in moved), default=self._sequence)
        assert sequence >= self._sequence, "the gallery's sequence never goes back"
        entries, now = choose(writes, AuditEntry), utc_now()
        with chained(
            self._place, self.vault, entries, now, fence=self._fence, sequence=sequence
        ) as (connection, last):
            to = Transaction(connection, self.vault, self.model_digest, now, last.number)
            for kind, written in _group(writes):
                kind.store(to, written)
            count_refused(to, entries)
            write_events(connection, self.vault, to.events, now)
            if connection.dialect.name == "postgresql" and len(writes) >= BULK_WRITES:
                # Until its own statistics follow, PostgreSQL would scan a table just filled.
                with long_statements(connection):
                    connection.execute(_ANALYZE)
        self._sequence = sequence
        self._audit_number = last.number
        self._has_erased |= to.is_erasing
        self._forget_erased()
        return last

    @property
    def place(self) -> Engine | Connection:
        """The place where it writes: on SQLite the connection that has in memory what it wrote."""
        assert not self._closed
        return self._place

    @contextmanager
    def changing(self, *entries: AuditEntry) -> Iterator[Connection]:
        """A fenced and audited transaction, for work inside this package that is no `Write`."""
        assert not self._closed
        with (
            recorded(self._place, self.vault, entries, self._fence) as connection,
            long_statements(connection),
        ):
            yield connection
        # It wipes rows, or seals them anew.
        self._has_erased = True
        self._forget_erased()

    def rows(self, query: Query) -> Sequence[AnyRow]:
        """Reads for such work: nothing else changes the rows while the lease is held."""
        with reading(self._engine) as connection, long_statements(connection):
            return connection.execute(query).all()

    @property
    def sqlite(self) -> sqlite3.Connection | None:
        """The driver's connection that everything is written through; None on PostgreSQL."""
        if not isinstance(self._place, Connection):
            return None
        return cast("sqlite3.Connection", self._place.connection.driver_connection)

    def close(self) -> None:
        """Gives the lease back; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._release()

    def _release(self) -> None:
        try:
            if isinstance(self._place, Connection):
                self._place.close()
        finally:
            self._lease.close()

    def _forget_erased(self) -> None:
        """Overwrites the rows that were erased where SQLite's rollback journal still has them; what
        fails is tried again after the next commit, since this one is durable."""
        if self._has_erased:
            with contextlib.suppress(StorageFailed):
                overwrite_journal(self._engine)
                self._has_erased = False

    @property
    def _fence(self) -> Fence:
        return Fence(self._epoch, self._sequence, self._audit_number)

    def _take_over(self) -> None:
        # One transaction: a deposed writer's last commit is either seen here or fenced off.
        with changing(self._place) as connection:
            deployment.raise_epoch(connection)
            # Again, after `Store.open`: the data key may have been rotated in between.
            deployment.check_data_key_is_newest(connection, self.vault)
            deployment.check(connection, self.vault, self.model_digest)
            audit.require_head(self.vault, audit.read_head(connection), self._audit_number)
            deployment.add_data_key(connection, self.vault)
            forget_tallies(connection)
            row = connection.execute(select(DEPLOYMENT.c.writer_epoch, DEPLOYMENT.c.sequence)).one()
            # Rows of removed references and watch-list entries stay, so their ids stay taken.
            last_reference = connection.scalar(select(func.max(REFERENCES.c.id)))
            last_watch = connection.scalar(select(func.max(WATCHLIST.c.id)))
        self._epoch = row.writer_epoch
        self._sequence = row.sequence
        self._last_reference_id = last_reference or 0
        self._last_watch_id = last_watch or 0


class ChangeRunner(Protocol):
    """Performs changes one after the other on the one writer."""

    def run(self, perform: Callable[[Writer, datetime], T]) -> T:
        """Perform a change between two batches."""
        ...


def publish(
    writer: Writer, gallery: Gallery, writes: Sequence[Write], vectors: Floats | None = None
) -> AuditRecord:
    """Commits the writes and applies what they do to references; their last audit entry.

    `vectors` float32[n, d] are those of the new references, where the caller has them stacked.
    Storage errors leave both sides as they were. `GalleryBehind`: the writes are (or may be)
    durable but not visible, so the caller must stop.
    """
    added, left = choose(writes, NewReference), choose(writes, RemovedReference)
    assert not (added and left), "one kind for each sequence"
    try:
        kept = writer.commit(writes)
    except SosieError:
        raise
    except Exception as error:
        raise GalleryBehind("a commit ended in an unknown state: restart to rebuild") from error
    history = write_mark(kept.number, kept.hash)
    try:
        if added:
            ids = np.array([reference.id for reference in added], dtype=np.int64)
            if vectors is None:
                vectors = np.stack([reference.template for reference in added])
            gallery.add(ids, vectors, writer.sequence, history)
        elif left:
            removed = np.array([reference.id for reference in left], dtype=np.int64)
            if writer.vault.set_aside.count():
                # One that did not open never was in the gallery.
                removed, _ = gallery.held(removed)
            gallery.remove(removed, writer.sequence, history)
    except Exception as error:
        raise GalleryBehind("a change is durable but not visible: restart to rebuild") from error
    return kept
