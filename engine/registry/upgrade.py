"""Brings registries of older versions to this one: the schema, the code of every row, and the
templates of a model that a transform was added to."""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, Engine, Table, bindparam, delete, func, select, update

from engine.errors import ChainBroken, KeyRingForeign, ModelMismatch
from engine.models.catalog import Conversion, Transform
from engine.registry import deployment, store
from engine.registry.accounts import API_KEYS, OUTLETS, SESSIONS, ApiKey, bind_secret
from engine.registry.audit import AUDIT, AuditEntry, AuditReader, read_head, verify_chain
from engine.registry.campaigns import CAMPAIGN_LINES
from engine.registry.cases import CASE_DOCUMENTS, CROPS
from engine.registry.database import (
    REVISIONS,
    AnyRow,
    Progress,
    changing,
    check,
    connected,
    hold_schema,
    long_statements,
    reading,
    require_known,
    restructuring,
    untold,
    utc_now,
)
from engine.registry.enrollments import ENROLLMENTS, TALLIES
from engine.registry.events import CURSORS
from engine.registry.references import ATTEMPT_TEMPLATES, REFERENCES, name_sealed
from engine.registry.resealing import begin_exchange, exchange_references, header_of
from engine.registry.rows import (
    changing_rows,
    pages_of,
    read_apart,
    read_as,
    without_sealed,
    write_macs,
)
from engine.registry.store import authenticated_tables, sealed_columns
from engine.registry.sweeps import SWEEPS
from engine.registry.transactions import chained, take_lease
from engine.registry.vault import REFERENCE_TEMPLATE, Vault, key_version, name_reference
from engine.registry.watchlist import WATCHLIST
from engine.registry.webhooks import UNDELIVERED
from indexes.base import Floats

ROWS_PER_BATCH = 2_000
_DONE = "registry.authenticated"
"""Ends an upgrade: from this entry on a row without its code was made by somebody else."""


class Upgraded(NamedTuple):
    """The revisions of a schema before and after, and whether templates were converted."""

    before: str
    after: str
    is_converted: bool


def upgrade(
    url: str, vault: Vault, progress: Progress = untold, conversion: Conversion | None = None
) -> Upgraded:
    """Brings a registry to this version.

    Templates of the model `conversion.before` are converted. `WriterBusy` where a process writes
    to it. May be stopped anywhere: the next call goes on. `progress(done, total)` is called now
    and then. `ChainBroken` where its audit chain is: an upgrade vouches for what it finds.
    `ModelMismatch` where templates are of a model that is not converted.
    """
    with connected(url) as engine:
        with store.reachable(), reading(engine) as connection:
            before = require_known(connection)
            is_newest = before == REVISIONS[-1]
            if is_newest and not _is_left(read_head(connection), conversion):
                return Upgraded(before, before, is_converted=False)
        with closing(take_lease(engine)):
            return bring_up_to_date(engine, vault, progress, conversion)


def _is_left(head: AnyRow, conversion: Conversion | None) -> bool:
    """True where rows of a registry of the newest schema are to be changed."""
    is_other = conversion is not None and head.model_digest != conversion.after
    return head.audit_mac is None or is_other


def bring_up_to_date(
    engine: Engine, vault: Vault, progress: Progress = untold, conversion: Conversion | None = None
) -> Upgraded:
    """The same, of a registry that nobody else uses."""
    with store.reachable(), restructuring(engine) as connection, long_statements(connection):
        before = hold_schema(connection)
        store.upgrade_schema(connection)
        check(connection)
        for revision, named in _CODES_SINCE.items():
            if before < revision:
                # In the transaction that adds the column: after it, a row without a code was made
                # by somebody else.
                _require_ring(read_head(connection), vault)
                for table in named:
                    left = (
                        select(*without_sealed(table))
                        .where(table.c.mac.is_(None))
                        .limit(ROWS_PER_BATCH)
                    )
                    while rows := connection.execute(left).all():
                        write_macs(connection, vault, table, rows)
        if before < _SEALS_ARE_COUNTED:
            _count_sealed(connection, vault)
        if before < _REASONS_ARE_SEALED:
            # Why an outlet is restricted stays in the history of its case, sealed.
            codes = OUTLETS.c.code
            has_reason = OUTLETS.c.restriction_reason.is_not(None)
            told = connection.scalars(select(codes).where(has_reason)).all()
            with changing_rows(connection, vault, OUTLETS, told):
                forgotten = update(OUTLETS).where(codes.in_(told)).values(restriction_reason=None)
                connection.execute(forgotten)
    _authenticate(engine, vault, progress)
    is_converted = conversion is not None and _convert(engine, vault, conversion, progress)
    return Upgraded(before, REVISIONS[-1], is_converted)


_CODES_SINCE = {
    "0011": (CROPS,),
    "0026": (
        SWEEPS,
        CASE_DOCUMENTS,
        CURSORS,
        UNDELIVERED,
        CAMPAIGN_LINES,
        TALLIES,
        API_KEYS,
        SESSIONS,
    ),
}
"""Tables whose rows had no codes before."""


_REASONS_ARE_SEALED = "0016"


_SEALS_ARE_COUNTED = "0015"
_SEALS_OF_ATTEMPT = 4
"""Crops and thumbnails of both photographs, which older versions sealed with the data key."""


def _count_sealed(connection: Connection, vault: Vault) -> None:
    """Begins to count what each data key has sealed with what is there. It is not known how often
    values were replaced, and how many templates were issued."""
    counted: Counter[int] = Counter()
    for _, column in sealed_columns():
        header = header_of(column)
        query = select(header.label("header"), func.count().label("values"))
        for row in connection.execute(query.where(column.is_not(None)).group_by(header)):
            counted[key_version(bytes(row.header))] += row.values
    attempts = connection.scalar(select(func.count()).select_from(ENROLLMENTS)) or 0
    counted[vault.active_data_version] += _SEALS_OF_ATTEMPT * attempts
    for key in vault.ring.data:
        before = read_head(connection).seals
        deployment.count_seals(connection, key.version, counted[key.version], before)


def _require_ring(head: AnyRow, vault: Vault) -> None:
    if head.key_check != vault.key_check:
        raise KeyRingForeign("the key ring is not this registry's: put back the right one")


def _authenticate(engine: Engine, vault: Vault, progress: Progress) -> None:
    """Gives every row its code, and the audit head its own at the end."""
    reader = AuditReader(engine, vault)
    with reading(engine) as connection:
        head = read_head(connection)
    if head.audit_mac is not None:
        return
    _require_ring(head, vault)
    _require_sound(reader, head)
    with reading(engine) as connection, long_statements(connection):
        total = sum(_count_left(connection, table) for table in authenticated_tables())
    done = 0
    for table in authenticated_tables():
        for rows in pages_of(reader.rows, table, table.c.mac.is_(None), page=ROWS_PER_BATCH):
            with changing(engine) as connection:
                if table is REFERENCES:
                    _reseal(connection, vault, rows)
                write_macs(connection, vault, table, rows)
            done += len(rows)
            progress(done, total)
    entry = AuditEntry("sosie", _DONE, vault.deployment_id, {"rows": total})
    with chained(engine, vault, [entry], utc_now(), trusts_head=True) as (connection, _):
        _bind_keys(connection, vault)


def _require_sound(reader: AuditReader, head: AnyRow) -> None:
    """All that an older registry has to tell whether it was altered is its chain."""
    found = verify_chain(reader, trusts_head=True)
    first_bad = found.first_bad
    if first_bad is None and head.last_number > head.audit_number:
        first_bad = head.audit_number + 1
    if first_bad is not None:
        raise ChainBroken(
            f"the audit chain is broken at entry {first_bad}: put back a backup, then upgrade"
        )
    audit = AUDIT.c
    told = reader.rows(
        select(audit.action, audit.detail).where(audit.action.in_((_DONE, "registry.created")))
    )
    if any(one.action == _DONE or deployment.AUTHENTICATED in one.detail for one in told):
        raise ChainBroken(
            "the codes of this registry's rows were removed in the database: put back a backup"
        )


def _count_left(connection: Connection, table: Table) -> int:
    query = select(func.count()).select_from(table).where(table.c.mac.is_(None))
    return int(connection.scalar(query) or 0)


def _reseal(connection: Connection, vault: Vault, rows: Sequence[AnyRow]) -> None:
    """Seals templates for their row and their document: before, for their row alone. Counts the
    seals where the upgrade may be killed before its end."""
    sealed = []
    for row in rows:
        if row.template is not None:
            opened = vault.open(REFERENCE_TEMPLATE, row.id, row.template)
            name = name_reference(row.id, row.document_id)
            sealed.append({"key": row.id, "new": vault.seal(REFERENCE_TEMPLATE, name, opened)})
    if sealed:
        connection.execute(_RESEAL, sealed)
        version, before = vault.active_data_version, read_head(connection).seals
        deployment.count_seals(connection, version, vault.seals.take(), before)


_RESEAL = (
    update(REFERENCES).where(REFERENCES.c.id == bindparam("key")).values(template=bindparam("new"))
)


def _convert(engine: Engine, vault: Vault, conversion: Conversion, progress: Progress) -> bool:
    """Converts every template, if there is need, in audited batches; a row says its model, so none
    is converted twice. The watch-list's rows say none: they change in one transaction with the
    deployment's."""
    reader = AuditReader(engine, vault)
    with reading(engine) as connection:
        head = read_head(connection)
        if head.model_digest == conversion.after:
            return False
        begun = deployment.mark_converting(conversion.after)
        if head.model_digest not in (conversion.before, begun):
            raise ModelMismatch(
                f"the registry's references come from the model {head.model_digest}, from which "
                f"there is no conversion to {conversion.after}: use that model"
            )
        deployment.check(connection, vault, head.model_digest)
    _require_never_converted(reader, conversion)
    said = {"before": conversion.before}
    if head.model_digest == conversion.before:
        entry = AuditEntry("sosie", "model.conversion", conversion.after, said)
        begin_exchange(engine, vault, entry, begun)
    turned = vault.turn(conversion.transform)

    def convert(connection: Connection, rows: Sequence[AnyRow]) -> None:
        _convert_templates(connection, vault, REFERENCES, rows, turned)

    entry = AuditEntry("sosie", "references.converted", conversion.after)
    exchange_references(reader, entry, vault.rotation_id, convert, progress)
    watchlist = WATCHLIST
    entry = AuditEntry("sosie", _CONVERTED, conversion.after, said)
    with chained(engine, vault, [entry], utc_now()) as (connection, _):
        held = watchlist.c.template.is_not(None)
        rows = connection.execute(select(watchlist).where(held)).all()
        with changing_rows(connection, vault, watchlist, [row.id for row in rows]):
            _convert_templates(connection, vault, watchlist, rows, turned)
        connection.execute(delete(ATTEMPT_TEMPLATES))
        deployment.set_model(connection, conversion.after)
    return True


_CONVERTED = "model.converted"


def _require_never_converted(reader: AuditReader, conversion: Conversion) -> None:
    """Refuses a second conversion, or faces on the watch-list would be converted twice."""
    if not verify_chain(reader).intact:
        raise ChainBroken("the audit chain is broken: put back a backup, then upgrade")
    audit = AUDIT.c
    query = select(audit.number).where(
        audit.action == _CONVERTED, audit.subject == conversion.after
    )
    if reader.rows(query.limit(1)):
        raise ChainBroken(
            "the model of this registry was set back in the database: put back a backup"
        )


def _convert_templates(
    connection: Connection, vault: Vault, table: Table, rows: Sequence[AnyRow], turned: Transform
) -> None:
    """Seals the converted templates of these rows in their place; a damaged one stays as it is."""
    place, held = f"{table.name}.template", [row for row in rows if row.template is not None]

    def attempt(places: Sequence[int]) -> dict[int, Floats]:
        some = [held[at] for at in places]
        names = [name_sealed(table, row) for row in some]
        opened = vault.open_templates(names, [row.template for row in some], place)
        return dict(zip(places, opened, strict=True))

    found = read_apart(range(len(held)), attempt)
    if not found:
        return
    held = [held[at] for at in found]
    names = [name_sealed(table, row) for row in held]
    sealed = vault.seal_templates(names, turned.apply(np.stack(list(found.values()))), place)
    connection.execute(
        update(table).where(table.c.id == bindparam("key")).values(template=bindparam("new")),
        [{"key": row.id, "new": new} for row, new in zip(held, sealed, strict=True)],
    )


def _bind_keys(connection: Connection, vault: Vault) -> None:
    """Binds the keys to what the audit chain says they may do, and ends those that were revoked."""
    audit = AUDIT.c
    told: dict[str, dict[str, Any]] = {}
    query = select(audit.action, audit.subject, audit.detail).where(
        audit.action.in_(("apikey.added", "apikey.revoked"))
    )
    for entry in connection.execute(query.order_by(audit.number)):
        told[entry.subject] = {} if entry.action == "apikey.revoked" else dict(entry.detail)
    for row in connection.execute(select(API_KEYS)).all():
        key = read_as(ApiKey, row)
        bounds = told.get(key.id, {})
        is_told = all(bounds.get(name, "") == getattr(key, name) for name in _BOUNDS)
        digest = bind_secret(vault, key, key.digest) if is_told and key.revoked_at is None else b""
        changed = update(API_KEYS).where(API_KEYS.c.id == key.id)
        with changing_rows(connection, vault, API_KEYS, [key.id]):
            connection.execute(changed.values(digest=digest))


_BOUNDS = ("role", "carrier", "outlet")
