"""The switch of a registry to its second model, once that has a template of everybody.

The two change places: what decided is kept beside what decides from now on, so switching back is
the same command. Nothing is converted, and no photograph is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, Row, Table, bindparam, delete, func, select, update

from engine.errors import RequestError, SealBroken
from engine.registry import deployment, store, tables
from engine.registry.audit import AuditReader, read_head
from engine.registry.database import KEYS, check, chunks, connect, reading
from engine.registry.reader import Reader
from engine.registry.records import AuditEntry, Changes, utc_now
from engine.registry.row_macs import changing_rows, open_each, read_apart
from engine.registry.rows import name_sealed
from engine.registry.upgrade import Progress
from engine.registry.vault import Vault
from engine.registry.writer import Writer, chained, take_lease

ROWS_PER_BATCH = 2_000
_references, _watchlist, _sweeps = tables.references, tables.watchlist, tables.sweeps
_UNDER_WAY = ("queued", "running", "paused")


def switch_models(
    url: str,
    vault: Vault,
    *,
    before: str,
    after: str,
    dim: int,
    actor: str,
    progress: Progress | None = None,
) -> int:
    """Makes the second model `after`, of vectors float32[dim], the one in force, and `before`, the
    vault's, the second; how many references there are.

    May be stopped anywhere: the next call goes on. `RequestError`, with nothing changed, while a
    live reference or a watched face has no template of it, or a sweep is under way; `WriterBusy`
    where a process writes. A damaged template is set aside, and goes along as what opens nowhere.
    """
    engine = connect(url)
    try:
        with store.reachable():
            lease = take_lease(engine)
            try:
                return _switch(engine, vault, before, after, dim, actor, progress)
            finally:
                lease.release()
    finally:
        engine.dispose()


def remove_missing(url: str, vault: Vault, *, before: str, after: str, actor: str) -> list[str]:
    """Removes the references that the second model has no template of; their documents, whose
    holders are to be enrolled again.

    Until then no search finds these people, and nobody's face holds their documents.
    """
    documents: list[str] = []
    engine = connect(url)
    try:
        registry = Reader(engine, vault)
        with Writer(engine, vault, before) as writer:
            # What refuses the switch all the same, before anybody is removed.
            _require_ready(registry, after, may_lack_references=True)
            for ids in registry.missing_second(after, ROWS_PER_BATCH):
                owners = sorted(set(read_apart(ids, registry.documents_of).values()))
                sequence = writer.sequence + 1
                detail = {"references": len(ids), "gallery_sequence": sequence}
                entry = AuditEntry(actor, "references.removed", after, detail)
                removed = tuple((key, sequence) for key in ids)
                writer.commit(Changes(sequence, (entry,), removed_references=removed))
                documents += owners
    finally:
        engine.dispose()
    return documents


def _switch(
    engine: Engine,
    vault: Vault,
    before: str,
    after: str,
    dim: int,
    actor: str,
    progress: Progress | None,
) -> int:
    reader = Reader(engine, vault)
    marker = deployment.SWITCHING + after
    with reading(engine) as connection:
        check(connection)
        head = read_head(connection)
        is_resumed = head.model_digest == marker
        if not is_resumed:
            deployment.check(connection, vault, before)
    said = {"before": before}
    if not is_resumed:
        _require_ready(reader, after)
        entry = AuditEntry(actor, "model.switching", after, said)
        with chained(engine, vault, [entry], utc_now()) as (connection, _):
            # Whoever wrote with the model of before, and lost the lease, writes no more.
            deployment.raise_epoch(connection)
            deployment.set_model(connection, marker)
    rotation_id = vault.of_dimension(dim).rotation_id
    total = _switch_references(reader, before, after, rotation_id, actor, progress)
    entry = AuditEntry(actor, "model.switched", after, said)
    with chained(engine, vault, [entry], utc_now()) as (connection, _):
        of_second = _watchlist.c.second_model_digest == after
        rows = connection.execute(select(_watchlist).where(of_second)).all()
        with changing_rows(connection, vault, {_watchlist: [row.id for row in rows]}):
            _exchange(connection, vault, _watchlist, rows, before)
        # Nothing of the present model's is compared from now on, and the second has none of them.
        connection.execute(delete(tables.attempt_templates))
        connection.execute(
            update(tables.deployment).values(model_digest=after, dim=dim, rotation_id=rotation_id)
        )
    return total


def _require_ready(reader: Reader, after: str, *, may_lack_references: bool = False) -> None:
    coverage = reader.coverage(after)
    watched = reader.rows(select(_watchlist).where(_watchlist.c.second_model_digest == after))
    # Nobody leaves the watch-list by damage.
    open_one = partial(_open, reader.vault, _watchlist, "second_template")
    damaged = len(watched) - len(list(open_each(watched, open_one)))
    if coverage.missing_references and not may_lack_references:
        raise RequestError(
            f"{coverage.missing_references:,} of {coverage.references:,} references have no "
            "template of the second model: run sosie model fill, wait until people have returned, "
            "or have the rest enrolled again with --reenroll FILE"
        )
    unwatched = coverage.missing_watched + damaged
    if unwatched:
        raise RequestError(
            f"{unwatched:,} of {coverage.watched:,} watched faces have no template "
            "of the second model: remove them from the watch-list and add them again"
        )
    under_way = select(func.count()).select_from(_sweeps).where(_sweeps.c.state.in_(_UNDER_WAY))
    if reader.rows(under_way)[0][0]:
        raise RequestError("a sweep is under way by the present model: end or cancel it first")


def _switch_references(
    reader: AuditReader,
    before: str,
    after: str,
    rotation_id: str,
    actor: str,
    progress: Progress | None,
) -> int:
    """Exchanges the templates of every reference, in audited batches; a row says its model, so none
    is exchanged twice. Removed ones, which have none, get the new model's name too."""
    # Of whatever model a damaged row says that it is.
    vault, is_old = reader.vault, _references.c.model_digest != after
    ((left,),) = reader.rows(select(func.count()).select_from(_references).where(is_old))
    page = select(_references).where(is_old).order_by(_references.c.id).limit(ROWS_PER_BATCH)
    done = 0
    while rows := reader.rows(page):
        entry = AuditEntry(actor, "references.switched", after, {"rows": len(rows)})
        with (
            chained(reader.engine, vault, [entry], utc_now()) as (connection, _),
            changing_rows(connection, vault, {_references: [row.id for row in rows]}),
        ):
            held = [row for row in rows if row.template is not None]
            _exchange(connection, vault, _references, held, before)
            for part in chunks([row.id for row in rows]):
                named = {"keys": part, "model": after, "rotation": rotation_id}
                connection.execute(_NAME_MODEL, named)
        done += len(rows)
        if progress is not None:
            progress(done, left)
    ((total,),) = reader.rows(select(func.count()).select_from(_references))
    return int(total)


def _exchange(
    connection: Connection, vault: Vault, table: Table, rows: Sequence[Row[Any]], before: str
) -> None:
    """Seals each of two templates of a row for the other's place."""
    first, second = "template", "second_template"
    sealed = [
        {
            "key": row.id,
            "first": _seal_for(vault, table, row, second, first),
            "other": _seal_for(vault, table, row, first, second),
            "model": before,
        }
        for row in rows
    ]
    if sealed:
        changed = update(table).where(table.c.id == bindparam("key"))
        connection.execute(
            changed.values(
                template=bindparam("first"),
                second_template=bindparam("other"),
                second_model_digest=bindparam("model"),
            ),
            sealed,
        )


_UNOPENED = b"\0"
"""Stands for the format of a seal: a value so marked opens nowhere, as it did where it was. By
itself it might, where somebody has put one of the other place there."""


def _seal_for(vault: Vault, table: Table, row: Row[Any], source: str, target: str) -> bytes | None:
    try:
        opened = _open(vault, table, source, row)
    except SealBroken:
        value = row._mapping[source]
        return _UNOPENED + value[1:] if isinstance(value, bytes) else None
    return vault.seal(f"{table.name}.{target}", name_sealed(table, row), opened)


def _open(vault: Vault, table: Table, column: str, row: Row[Any]) -> bytes:
    return vault.open(f"{table.name}.{column}", name_sealed(table, row), row._mapping[column])


_NAME_MODEL = (
    update(_references)
    .where(_references.c.id.in_(KEYS))
    .values(model_digest=bindparam("model"), rotation_id=bindparam("rotation"))
)
