"""Seals values anew, in batches that may stop anywhere: with another data key, or for the place of
the other of two models.

The order that loses nothing as the data key is rotated: `ring.with_new_data_key().save(path)`, open
the store with that ring, `reseal` (again after any interruption), `retire`, save the ring that it
returns.

A switch has the two models change places, once the second has a template of everybody: what
decided is kept beside what decides from now on, so switching back is the same command. Nothing is
converted, and no photograph is needed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Table,
    and_,
    bindparam,
    delete,
    func,
    select,
    update,
)

from engine.errors import KeyRingError, RequestError, SealBroken
from engine.registry import deployment, store
from engine.registry.audit import AuditEntry, AuditReader, read_head
from engine.registry.database import (
    AnyRow,
    Condition,
    Progress,
    check,
    chunks,
    connected,
    reading,
    untold,
    utc_now,
)
from engine.registry.deployment import DEPLOYMENT
from engine.registry.keyring import KeyRing
from engine.registry.references import ATTEMPT_TEMPLATES, REFERENCES, RemovedReference, name_sealed
from engine.registry.rows import changing_rows, open_each, pages_of, read_apart
from engine.registry.store import Reader, sealed_columns
from engine.registry.sweeps import SWEEPS
from engine.registry.transactions import chained, take_lease
from engine.registry.vault import KEY_HEADER_BYTES, Vault, key_header, key_version
from engine.registry.watchlist import WATCHLIST
from engine.registry.writer import Writer

ROWS_PER_BATCH = 2_000


def reseal(
    writer: Writer, rows_per_batch: int = ROWS_PER_BATCH, progress: Progress = untold
) -> dict[str, int]:
    """Seals every value of an older key with the active data key; returns rows by table. A damaged
    one is set aside, and stays as it is.

    `progress(done, total)` is called after each batch. Each batch is a fenced, audited transaction:
    a stop between or inside batches leaves every value sealed with a key of the ring, and the
    next call goes on with the rows that are left.
    """
    done = dict.fromkeys((table.name for table, _ in sealed_columns()), 0)
    total = sum(_count_left(writer, column) for _, column in sealed_columns())
    for table, column in sealed_columns():
        for rows in _reseal_table(writer, table, column, rows_per_batch):
            done[table.name] += rows
            progress(sum(done.values()), total)
    return done


def retire(writer: Writer) -> KeyRing:
    """The writer's ring with its active data key alone, once no value opens with another. Keys of
    damaged values are kept, and open nothing.

    Save it to finish; snapshots of an index that the old keys sealed must be written again.
    """
    ring, needed = writer.vault.ring, set[int]()
    for table, column in sealed_columns():
        for rows in pages_of(writer.rows, table, _is_left(column, writer.vault)):
            if _seal_again(writer.vault, table, column, rows):
                raise KeyRingError(
                    f"an old data key still seals rows of {table.name}: reseal, then retire it"
                )
            needed |= {key_version(row._mapping[column]) for row in rows}
    known = {key.version for key in (*ring.kept, *ring.data)}
    if not needed <= known:
        # The header itself is damaged, which says the key.
        needed = known
    old = [key.version for key in ring.data[:-1]]
    entries = [AuditEntry("sosie", "datakey.retired", str(version)) for version in old]
    with writer.changing(*entries) as connection:
        for version in old:
            deployment.drop_data_key(connection, version)
    return ring.with_active_alone(needed)


def _reseal_table(writer: Writer, table: Table, column: Column[Any], limit: int) -> Iterator[int]:
    store = (
        update(table)
        .where(table.c.id == bindparam("key"))
        .values({column.name: bindparam("sealed")})
    )
    for rows in pages_of(writer.rows, table, _is_left(column, writer.vault), page=limit):
        sealed = _seal_again(writer.vault, table, column, rows)
        if sealed:
            entry = AuditEntry("sosie", "values.resealed", table.name, {"rows": len(sealed)})
            with writer.changing(entry) as connection:
                connection.execute(store, sealed)
        yield len(sealed)


def _count_left(writer: Writer, column: Column[Any]) -> int:
    query = select(func.count()).where(_is_left(column, writer.vault))
    return int(writer.rows(query)[0][0])


def _is_left(column: Column[Any], vault: Vault) -> Condition:
    active = key_header(vault.active_data_version)
    return and_(column.is_not(None), header_of(column) != active)


def _seal_again(
    vault: Vault, table: Table, column: Column[Any], rows: Sequence[AnyRow]
) -> list[dict[str, Any]]:
    place = f"{table.name}.{column.name}"

    def seal(row: AnyRow) -> dict[str, Any]:
        name = name_sealed(table, row)
        return {
            "key": row.id,
            "sealed": vault.seal(place, name, vault.open(place, name, row._mapping[column])),
        }

    return list(open_each(rows, seal))


def header_of(column: Column[Any]) -> Any:
    """The first bytes of a sealed column's values, which say the data key."""
    return func.substr(column, 1, KEY_HEADER_BYTES, type_=column.type)


def begin_exchange(engine: Engine, vault: Vault, entry: AuditEntry, marker: str) -> None:
    """Has the deployment's row say that templates are being exchanged, and fences every writer of
    before: none writes with that model any more."""
    with chained(engine, vault, [entry], utc_now()) as (connection, _):
        deployment.raise_epoch(connection)
        deployment.set_model(connection, marker)


def exchange_references(
    reader: AuditReader,
    entry: AuditEntry,
    rotation_id: str,
    exchange: Callable[[Connection, Sequence[AnyRow]], None],
    progress: Progress,
) -> None:
    """Has `exchange` give every reference a template of the model that is the entry's subject, in
    audited batches; a row says its model, so none is exchanged twice. Removed ones, which have no
    template, get the new model's name too."""
    vault, after = reader.vault, entry.subject
    # Of whatever model a damaged row says that it is.
    is_old = REFERENCES.c.model_digest != after
    ((total,),) = reader.rows(select(func.count()).select_from(REFERENCES).where(is_old))
    page = select(REFERENCES).where(is_old).order_by(REFERENCES.c.id).limit(ROWS_PER_BATCH)
    named = update(REFERENCES).values(model_digest=after, rotation_id=rotation_id)
    done = 0
    while rows := reader.rows(page):
        ids = [row.id for row in rows]
        noted = replace(entry, detail={"rows": len(rows)})
        with (
            chained(reader.engine, vault, [noted], utc_now()) as (connection, _),
            changing_rows(connection, vault, REFERENCES, ids),
        ):
            exchange(connection, rows)
            for part in chunks(ids):
                connection.execute(named.where(REFERENCES.c.id.in_(part)))
        done += len(rows)
        progress(done, total)


_UNDER_WAY = ("queued", "running", "paused")


def switch_models(
    url: str,
    vault: Vault,
    *,
    before: str,
    after: str,
    dim: int,
    actor: str,
    progress: Progress = untold,
) -> int:
    """Makes the second model `after`, of vectors float32[dim], the one in force, and `before`, the
    vault's, the second; how many references there are.

    May be stopped anywhere: the next call goes on. `RequestError`, with nothing changed, while a
    live reference or a watched face has no template of it, or a sweep is under way; `WriterBusy`
    where a process writes. A damaged template is set aside, and goes along as what opens nowhere.
    """
    with connected(url) as engine, store.reachable(), closing(take_lease(engine)):
        return _switch(engine, vault, before, after, dim, actor, progress)


def remove_missing(url: str, vault: Vault, *, before: str, after: str, actor: str) -> list[str]:
    """Removes the references that the second model has no template of; their documents, whose
    holders are to be enrolled again.

    Until then no search finds these people, and nobody's face holds their documents.
    """
    documents: list[str] = []
    with connected(url) as engine, Writer(engine, vault, before) as writer:
        registry = Reader(engine, vault)
        # What refuses the switch all the same, before anybody is removed.
        _require_ready(registry, after, may_lack_references=True)
        for ids in registry.missing_second(after, ROWS_PER_BATCH):
            owners = sorted(set(read_apart(ids, registry.documents_of).values()))
            sequence = writer.sequence + 1
            detail = {"references": len(ids), "gallery_sequence": sequence}
            entry = AuditEntry(actor, "references.removed", after, detail)
            writer.commit([entry, *(RemovedReference(key, sequence) for key in ids)])
            documents += owners
    return documents


def _switch(
    engine: Engine, vault: Vault, before: str, after: str, dim: int, actor: str, progress: Progress
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
        begin_exchange(engine, vault, AuditEntry(actor, "model.switching", after, said), marker)
    rotation_id = vault.of_dimension(dim).rotation_id

    def switch(connection: Connection, rows: Sequence[AnyRow]) -> None:
        held = [row for row in rows if row.template is not None]
        _exchange(connection, vault, REFERENCES, held, before)

    entry = AuditEntry(actor, "references.switched", after)
    exchange_references(reader, entry, rotation_id, switch, progress)
    entry = AuditEntry(actor, "model.switched", after, said)
    with chained(engine, vault, [entry], utc_now()) as (connection, _):
        of_second = WATCHLIST.c.second_model_digest == after
        rows = connection.execute(select(WATCHLIST).where(of_second)).all()
        with changing_rows(connection, vault, WATCHLIST, [row.id for row in rows]):
            _exchange(connection, vault, WATCHLIST, rows, before)
        # Nothing of the present model's is compared from now on, and the second has none of them.
        connection.execute(delete(ATTEMPT_TEMPLATES))
        connection.execute(
            update(DEPLOYMENT).values(model_digest=after, dim=dim, rotation_id=rotation_id)
        )
    ((total,),) = reader.rows(select(func.count()).select_from(REFERENCES))
    return int(total)


def _require_ready(reader: Reader, after: str, *, may_lack_references: bool = False) -> None:
    coverage = reader.coverage(after)
    watched = reader.rows(select(WATCHLIST).where(WATCHLIST.c.second_model_digest == after))
    # Nobody leaves the watch-list by damage.
    open_one = partial(_open, reader.vault, WATCHLIST, "second_template")
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
    under_way = select(func.count()).select_from(SWEEPS).where(SWEEPS.c.state.in_(_UNDER_WAY))
    if reader.rows(under_way)[0][0]:
        raise RequestError("a sweep is under way by the present model: end or cancel it first")


def _exchange(
    connection: Connection, vault: Vault, table: Table, rows: Sequence[AnyRow], before: str
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


def _seal_for(vault: Vault, table: Table, row: AnyRow, source: str, target: str) -> bytes | None:
    try:
        opened = _open(vault, table, source, row)
    except SealBroken:
        value = row._mapping[source]
        return _UNOPENED + value[1:] if isinstance(value, bytes) else None
    return vault.seal(f"{table.name}.{target}", name_sealed(table, row), opened)


def _open(vault: Vault, table: Table, column: str, row: AnyRow) -> bytes:
    return vault.open(f"{table.name}.{column}", name_sealed(table, row), row._mapping[column])


_UNOPENED = b"\0"
"""Stands for the format of a seal: a value so marked opens nowhere, as it did where it was. By
itself it might, where somebody has put one of the other place there."""
