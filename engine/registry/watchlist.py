"""The watch-list, and the share of the registry that has templates of a second model."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Column, LargeBinary, String, Table, bindparam, case, func, select

from engine.errors import SealBroken
from engine.registry.columns import RowNumber, mac_column, metadata, required, sealed_column
from engine.registry.database import AnyRow, Moment, Source, long_statements, reading
from engine.registry.references import (
    IS_LIVE,
    IS_UNFILLED,
    REFERENCES,
    SecondTemplate,
    require_unit,
    seal_second,
)
from engine.registry.rows import (
    Change,
    RowValues,
    Transaction,
    Write,
    is_authentic,
    name_row,
    read_as,
    update_one,
    values_of,
)
from engine.registry.vault import SECOND_WATCHED, WATCHED_TEMPLATE
from indexes.base import Floats
from schema import frozen

WATCHLIST = Table(
    "watchlist",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=False),
    Column("document_lookup", LargeBinary, index=True),
    sealed_column("template"),
    required("reason", String(200)),
    required("added_at", Moment),
    Column("removed_at", Moment),
    mac_column(),
    sealed_column("second_template"),
    Column("second_model_digest", String(128)),
)


@frozen(eq=False)
class WatchEntry(Write):
    """A document, a rotated template (float32[dim]) or both, to be reviewed when met.

    `id` is its key in an index of watched faces, given by `Writer.next_watch_id`.
    """

    table = WATCHLIST

    id: int
    document_lookup: bytes | None
    template: Floats | None = field(repr=False)
    reason: str
    added_at: datetime
    second: SecondTemplate | None = None

    def row(self, to: Transaction) -> RowValues:
        template = None
        if self.template is not None:
            require_unit(self.template[None], to.vault.dim)
            template = to.vault.seal_templates([self.id], self.template[None], WATCHED_TEMPLATE)[0]
        second = seal_second(to.vault, SECOND_WATCHED, self.id, self.second)
        return self.columns(template=template, **second)


@frozen
class RemovedWatchEntry(Change):
    """An entry of the watch-list that is removed; its row stays, so that its id stays taken."""

    table = WATCHLIST
    update = update_one(WATCHLIST, WATCHLIST.c.removed_at.is_(None)).values(
        template=None,
        second_template=None,
        second_model_digest=None,
        document_lookup=None,
        removed_at=bindparam("at"),
    )

    id: int

    def row(self, to: Transaction) -> RowValues:
        to.is_erasing = True
        return {"key": int(self.id), "at": to.at}


BY_CASE = "case "
"""With a case's id, the reason of a face that its decision watches; typed, it is refused."""

WATCHED_SINCE = case((WATCHLIST.c.removed_at.is_(None), WATCHLIST.c.added_at))
"""When an entry in force was added; null of others."""


def forget_watched(to: Transaction, ids: Sequence[int]) -> None:
    RemovedWatchEntry.store(to, [RemovedWatchEntry(one) for one in ids])


DAMAGED_ENTRY = "(damaged: run sosie doctor)"
"""In place of what a damaged row says."""


@frozen
class Coverage:
    """Counts of live references and watched faces, and of those that a second model has no template
    of."""

    references: int
    missing_references: int
    watched: int
    missing_watched: int

    @property
    def is_whole(self) -> bool:
        return not (self.missing_references or self.missing_watched)

    def __str__(self) -> str:
        filled = self.references - self.missing_references
        told = f"{filled:,} of {self.references:,} references"
        if self.watched:
            watched = self.watched - self.missing_watched
            told += f", {watched:,} of {self.watched:,} watched faces"
        return told


_IS_WATCHED_FACE = WATCHLIST.c.removed_at.is_(None) & WATCHLIST.c.template.is_not(None)
_COVERAGE = select(
    *(
        query.scalar_subquery().label(name)
        for name, query in {
            "references": select(func.count()).select_from(REFERENCES).where(IS_LIVE),
            "missing_references": select(func.count())
            .select_from(REFERENCES)
            .where(IS_LIVE, IS_UNFILLED),
            "watched": select(func.count()).select_from(WATCHLIST).where(_IS_WATCHED_FACE),
            "missing_watched": select(func.count())
            .select_from(WATCHLIST)
            .where(
                _IS_WATCHED_FACE,
                func.coalesce(WATCHLIST.c.second_model_digest, "") != bindparam("digest"),
            ),
        }.items()
    )
)
_WATCHLIST = select(WATCHLIST).where(WATCHLIST.c.removed_at.is_(None)).order_by(WATCHLIST.c.id)


class WatchReader(Source):
    """Reader of the watch-list."""

    def watchlist(self) -> list[WatchEntry]:
        """Every entry in force, with its template; of a damaged one all that still opens."""
        return [self._watched(row) for row in self.rows(_WATCHLIST)]

    def _watched(self, row: AnyRow) -> WatchEntry:
        template, rest = None, dict[str, Any]()
        # A template has a seal of its own, and a damaged look-up is nobody else's: an entry whose
        # row is damaged still protects by what is left of it.
        with suppress(SealBroken):
            if row.template is not None:
                template = self.vault.open_templates([row.id], [row.template], WATCHED_TEMPLATE)[0]
        if not is_authentic(self.vault, WATCHLIST, values_of(row)):
            self.vault.set_aside.add(WATCHLIST.name, name_row(WATCHLIST, row))
            rest = {"reason": DAMAGED_ENTRY, "added_at": datetime.fromtimestamp(0, UTC)}
        return read_as(WatchEntry, row, template=template, second=None, **rest)

    def coverage(self, digest: str) -> Coverage:
        """The share of the registry that has templates of a second model."""
        with reading(self._engine) as connection, long_statements(connection):
            row = connection.execute(_COVERAGE, {"digest": digest}).one()
        return Coverage(**row._mapping)
