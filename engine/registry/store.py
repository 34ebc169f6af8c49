"""The registry of a deployment as a whole: creating, opening, reading and administering it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from msgspec import structs
from sqlalchemy import Column, Connection, Engine, Table, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from engine.errors import (
    NotFound,
    RegistryError,
    RegistryExists,
    RegistryMissing,
    RequestError,
    StorageFailed,
    StorageFull,
    WriterBusy,
)
from engine.formatting import mixes_scripts
from engine.registry import audit, deployment
from engine.registry.accounts import (
    API_KEYS,
    CARRIERS,
    OUTLETS,
    Accounts,
    ApiKey,
    Carrier,
    KeyReader,
    OutletReader,
    bind_secret,
)
from engine.registry.audit import AuditEntry, AuditReader, AuditRecord
from engine.registry.campaigns import LifeReader
from engine.registry.columns import metadata
from engine.registry.database import (
    check,
    connect,
    long_statements,
    reading,
    reading_often,
    restructuring,
    sqlite_file,
    utc_now,
    version,
)
from engine.registry.deployment import AUTHENTICATED, DEPLOYMENT, DeploymentReader, list_data_keys
from engine.registry.documents import DocumentReader
from engine.registry.enrollments import EnrollmentReader, Tally, TallyReader
from engine.registry.lines import LineReader
from engine.registry.people import PeopleReader
from engine.registry.queues import QueueReader
from engine.registry.references import REFERENCES, ReferenceReader, SecondTemplate, fill_references
from engine.registry.rows import Transaction, Write, changing_rows, with_macs
from engine.registry.sweeps import FactReader, PairReader, SweepReader
from engine.registry.transactions import recorded, take_lease
from engine.registry.vault import Vault
from engine.registry.watchlist import WatchReader
from engine.registry.webhooks import Webhooks
from engine.registry.writer import ChangeRunner, Writer
from indexes.base import Closing
from schema import frozen

P = ParamSpec("P")
T = TypeVar("T")


def write_first(connection: Connection, vault: Vault, model_digest: str, at: datetime) -> None:
    """Fills an empty schema with the deployment's row and the first audit entry."""
    entry = AuditEntry("sosie", "registry.created", vault.deployment_id, {AUTHENTICATED: True})
    first = audit.extend(vault, 0, audit.GENESIS, at, [entry])
    connection.execute(
        insert(DEPLOYMENT).values(
            singleton=1,
            deployment_id=vault.deployment_id,
            key_check=vault.key_check,
            data_keys=list_data_keys(vault),
            model_digest=model_digest,
            dim=vault.dim,
            rotation_id=vault.rotation_id,
            writer_epoch=0,
            sequence=0,
            audit_number=first[-1].number,
            chain_head=first[-1].hash,
            audit_mac=audit.authenticate_head(vault, first[-1].number, first[-1].hash, 0),
            created_at=at,
        )
    )
    audit.append(connection, first)


def every_table() -> list[Table]:
    """Every table, each after those that it refers to."""
    return metadata.sorted_tables


def sealed_columns() -> list[tuple[Table, Column[Any]]]:
    """Every sealed column with its table; `name_sealed` says how its seals name a row."""
    return [
        (table, column)
        for table in metadata.sorted_tables
        for column in table.columns
        if column.info.get("is_sealed")
    ]


def authenticated_tables() -> list[Table]:
    """Tables whose rows decide."""
    return [table for table in metadata.sorted_tables if "mac" in table.columns]


ROOM_BYTES = 2**20
"""Less free space than the largest commits and their journal need counts as none."""

PERSONAL_ROLES = frozenset({"fraud", "operator"})
"""Whoever has such a key acts for all tenants, and is named."""


def upgrade_schema(connection: Connection, last: str = "9999") -> None:
    """Brings an empty or older database to the newest schema, or to the revision `last`, inside the
    caller's transaction."""
    # Alembic is slow to import, and only this function needs it.
    from alembic.migration import MigrationContext  # noqa: PLC0415
    from alembic.operations import Operations  # noqa: PLC0415

    from engine.registry.migrations import from_0001, from_0012  # noqa: PLC0415

    before = version(connection) or ""
    context = MigrationContext.configure(connection, opts={"target_metadata": metadata})
    with Operations.context(context):
        for revision, migrate in {**from_0001.MIGRATIONS, **from_0012.MIGRATIONS}.items():
            if before < revision <= last:
                migrate()
                connection.execute(update(from_0001.VERSION).values(version_num=revision))


class Reader(
    AuditReader,
    DeploymentReader,
    OutletReader,
    KeyReader,
    DocumentReader,
    ReferenceReader,
    WatchReader,
    EnrollmentReader,
    LineReader,
    TallyReader,
    PairReader,
):
    """Reads for the registrar and the surfaces; safe to use from any thread."""

    def __init__(self, place: Engine | Connection, vault: Vault) -> None:
        super().__init__(place, vault)
        self.cases = QueueReader(place, vault)
        self.sweeps = SweepReader(place, vault)
        self.facts = FactReader(place, vault)
        self.life = LifeReader(place, vault)
        self.people = PeopleReader(place, vault)
        self.webhooks = Webhooks(place, vault)

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """The same over one connection until the block ends, for one thread."""
        with reading_often(self._place) as connection:
            yield Reader(connection, self.vault)

    def counts(self) -> dict[str, int]:
        """Rows by table, and `live_references`: those that the gallery holds."""
        queries = {
            table.name: select(func.count()).select_from(table)
            for table in metadata.sorted_tables
            if table is not DEPLOYMENT
        }
        # Those removed have an index; to count the others all rows would be read.
        queries["removed"] = queries["references"].where(REFERENCES.c.removed_sequence.is_not(None))
        # One statement, since PostgreSQL may show each statement a newer state.
        counted = select(*(query.scalar_subquery().label(name) for name, query in queries.items()))
        with reading(self._engine) as connection, long_statements(connection):
            found = dict(connection.execute(counted).one()._mapping)
        found["live_references"] = found["references"] - found.pop("removed")
        return found


class Store(Reader, Closing):
    """The source of truth of one deployment, in SQLite or PostgreSQL."""

    def __init__(self, engine: Engine, vault: Vault, model_digest: str) -> None:
        super().__init__(engine, vault)
        self.model_digest = model_digest
        self.accounts = Accounts(engine, vault)

    @classmethod
    def create(cls, url: str, vault: Vault, *, model_digest: str) -> Store:
        """Makes an empty registry in a new SQLite file or an empty PostgreSQL database.

        `RegistryExists` where there is one; whatever else fails leaves nothing behind.
        """
        engine = connect(url, vault.dim)
        path = sqlite_file(engine)
        if path is not None:
            _claim(path)
        try:
            with reachable(), restructuring(engine) as connection, long_statements(connection):
                if version(connection) is not None:
                    raise RegistryExists("this database holds a registry already: open it instead")
                upgrade_schema(connection)
                write_first(connection, vault, model_digest, utc_now())
        except BaseException:
            engine.dispose()
            if path is not None:
                path.unlink()
            raise
        return cls(engine, vault, model_digest)

    @classmethod
    def open(cls, url: str, vault: Vault, *, model_digest: str, is_examined: bool = False) -> Store:
        """Opens a registry after checking that schema, key ring and model are its own, and that its
        audit chain ends where the key ring says.

        `RegistryMissing`, `SchemaMismatch`, `KeyRingForeign`, `ModelMismatch` or `ChainBroken`
        otherwise; `is_examined`: who opens it looks for what was altered, so it is no obstacle.
        """
        engine = connect(url)
        path = sqlite_file(engine)
        if path is not None and not path.is_file():
            raise RegistryMissing(f"no registry at {path}: run sosie init")
        try:
            with reachable(), reading(engine) as connection:
                check(connection)
                deployment.check(connection, vault, model_digest)
                head = audit.read_head(connection)
                if head.audit_mac is None or not is_examined:
                    audit.require_head(vault, head)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, vault, model_digest)

    def writer(self) -> Writer:
        """Takes the writer's lease; `WriterBusy` at once where another process has it."""
        return Writer(self._engine, self.vault, self.model_digest)

    def has_writer(self) -> bool:
        """True where a process holds the writer's lease now."""
        try:
            take_lease(self._engine).close()
        except WriterBusy:
            return True
        return False

    @property
    def has_room(self) -> bool:
        """True where an SQLite file can grow; also on PostgreSQL, whose disk we cannot see."""
        path = sqlite_file(self._engine)
        return path is None or shutil.disk_usage(path.parent).free >= ROOM_BYTES

    def close(self) -> None:
        self._engine.dispose()

    def add_carrier(self, carrier: Carrier, *, actor: str) -> None:
        """Adds a tenant; one that is there already is refused."""
        self._add(CARRIERS, structs.asdict(carrier), "carrier", actor)

    def add_outlet(
        self, code: str, carrier: str, *, actor: str, time_zone: str | None = None
    ) -> None:
        """Adds an open outlet of a known carrier; one that is there already is refused."""
        values = {"code": code, "carrier": carrier, "is_open": True, "time_zone": time_zone}
        self._add(OUTLETS, values, "outlet", actor)

    def set_carrier_time_zone(self, code: str, time_zone: str | None, *, actor: str) -> None:
        """Sets the zone of the carrier's outlets that have none; None: the deployment's."""
        self._change(CARRIERS, "carrier.time_zone_set", code, actor, {"time_zone": time_zone})

    def set_outlet_time_zone(self, code: str, time_zone: str | None, *, actor: str) -> None:
        """Sets an outlet's zone; None: its carrier's."""
        self._change(OUTLETS, "outlet.time_zone_set", code, actor, {"time_zone": time_zone})

    def close_outlet(self, code: str, *, actor: str) -> None:
        """Closes an outlet: nothing is enrolled there any more."""
        closed = {"is_open": False, "closed_at": utc_now()}
        self._change(OUTLETS, "outlet.closed", code, actor, {}, **closed)

    def _change(
        self, table: Table, action: str, code: str, actor: str, told: dict[str, Any], **untold: Any
    ) -> None:
        """Changes a tenant or an outlet; its audit entry has the values that are told."""
        statement = update(table).where(table.c.code == code).values(told | untold)
        with (
            self._recorded(AuditEntry(actor, action, code, told)) as connection,
            changing_rows(connection, self.vault, table, [code]),
        ):
            if connection.execute(statement).rowcount != 1:
                what = action.partition(".")[0]
                raise NotFound(f"no {what} has the code {code}: check it")

    def note(self, entry: AuditEntry, *counted: Tally) -> None:
        """Adds an entry to the audit chain, and to counts, beside a writer too."""
        with self._recorded(entry) as connection:
            Tally.store(Transaction(connection, self.vault, self.model_digest, utc_now()), counted)

    def fill_references(self, filled: Sequence[tuple[int, SecondTemplate]], *, actor: str) -> int:
        """Stores templates of a second model, beside a writer too, in one audited transaction; how
        many of these references are still there."""
        if not filled:
            return 0
        digest = filled[0][1].digest
        entry = AuditEntry(actor, "references.filled", digest, {"references": len(filled)})
        with self._recorded(entry) as connection:
            # Its models may have changed places since it was opened.
            deployment.check(connection, self.vault, self.model_digest)
            return fill_references(connection, self.vault, filled)

    def add_api_key(self, key: ApiKey, *, actor: str) -> None:
        """Adds a key of the service, whose `digest` is of the key itself, and binds it to what it
        may do; `NotFound` where its carrier or its open outlet is not."""
        if key.role in PERSONAL_ROLES and not key.person:
            raise RequestError(f"a key of role {key.role} is a person's: say whose")
        if key.person and mixes_scripts(key.person):
            raise RequestError(
                "the person's name mixes scripts: write it in the letters of one script"
            )
        bound = {name: getattr(key, name) for name in ("role", "carrier", "outlet", "person")}
        with self._recorded(AuditEntry(actor, "apikey.added", key.id, bound)) as connection:
            # The database would say only that a carrier or an outlet is missing.
            carriers, outlets = CARRIERS.c, OUTLETS.c
            if key.carrier is not None:
                known = connection.scalar(select(carriers.code).where(carriers.code == key.carrier))
                if known is None:
                    raise NotFound(f"no carrier has the code {key.carrier}: check it")
            if key.outlet is not None:
                query = select(outlets.code).where(outlets.code == key.outlet, outlets.is_open)
                if connection.scalar(query.where(outlets.carrier == key.carrier)) is None:
                    raise NotFound(
                        f"{key.carrier} has no open outlet with the code {key.outlet}: check both"
                    )
            try:
                digest = bind_secret(self.vault, key, key.digest)
                row = asdict(key) | {"digest": digest}
                table = API_KEYS
                connection.execute(insert(table), with_macs(self.vault, table, [row]))
            except IntegrityError:
                raise RegistryError(
                    f"a key of role {key.role} needs other bounds, or its id is taken: an outlet's "
                    "has a carrier and an outlet, a carrier's a carrier, the others neither"
                ) from None

    def revoke_api_key(self, key_id: str, *, actor: str) -> None:
        """Ends a key for good: its digest leaves with it. `NotFound` where it is unknown or has
        been revoked."""
        statement = (
            update(API_KEYS).where(API_KEYS.c.id == key_id).where(API_KEYS.c.revoked_at.is_(None))
        )
        with (
            self._recorded(AuditEntry(actor, "apikey.revoked", key_id)) as connection,
            changing_rows(connection, self.vault, API_KEYS, [key_id]),
        ):
            ended = statement.values(revoked_at=utc_now(), digest=b"")
            if connection.execute(ended).rowcount != 1:
                raise NotFound(
                    "no key has this id, or it was revoked before: see `sosie apikey list`"
                )

    def _add(self, table: Table, values: dict[str, Any], what: str, actor: str) -> None:
        with self._recorded(AuditEntry(actor, f"{what}.added", values["code"])) as connection:
            try:
                row = values | {"created_at": utc_now()}
                connection.execute(insert(table), with_macs(self.vault, table, [row]))
            except IntegrityError:
                raise RegistryError(
                    f"the {what} {values['code']} is there already, or its carrier is not: "
                    "choose another code, or add the carrier first"
                ) from None

    def _recorded(self, entry: AuditEntry) -> AbstractContextManager[Connection]:
        return recorded(self._engine, self.vault, [entry])


def _claim(path: Path) -> None:
    # Made here and not by SQLite: it must be new, and readable by its owner alone.
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise RegistryExists(f"{path} exists already: open it, or choose another place") from None
    except OSError as error:
        raise RegistryError(f"{path} cannot be made: {error.strerror}") from None


@contextmanager
def reachable() -> Iterator[None]:
    """Failures of a database that cannot be worked with at all: no transaction was lost."""
    try:
        yield
    except StorageFull:
        raise
    except StorageFailed as error:
        raise RegistryError(str(error)) from None


@frozen
class WriterCall:
    """A change that is being made on the writer's thread, between two batches, as of `now`."""

    writer: Writer
    registry: Reader
    now: datetime

    def commit(self, *writes: Write) -> AuditRecord:
        return self.writer.commit(writes)


def on_writer(
    perform: Callable[Concatenate[WriterCall, P], T],
) -> Callable[Concatenate[ChangeRunner, Reader, P], T]:
    """Has a runner make the change that a function describes."""

    @wraps(perform)
    def ask(runner: ChangeRunner, registry: Reader, /, *given: P.args, **named: P.kwargs) -> T:
        return runner.run(
            lambda writer, now: perform(WriterCall(writer, registry, now), *given, **named)
        )

    return ask
