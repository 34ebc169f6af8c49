"""Who works with the service: carriers and their outlets, keys, accounts of an identity provider,
and the sessions that people have signed in with them.

The first sign-in of an account gives it its person, for good: whoever is renamed at the provider
stays the same person here, and nobody becomes another by taking a name that has gone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, replace
from datetime import datetime
from typing import Annotated, ClassVar

from sqlalchemy import (
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    Table,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from engine.errors import NotFound, RegistryError
from engine.formatting import mixes_scripts
from engine.registry.audit import AuditEntry
from engine.registry.columns import (
    KEY,
    ActorName,
    CarrierCode,
    Code,
    Id,
    mac_column,
    metadata,
    one_of,
    required,
    table_of,
)
from engine.registry.database import KEYS, AnyRow, Moment, Source, changing
from engine.registry.rows import (
    Change,
    RecordSource,
    RowValues,
    Transaction,
    changing_rows,
    encode_values,
    in_utc,
    open_each,
    read_as,
    require_authentic,
    sound_rows,
    update_one,
    with_macs,
)
from engine.registry.transactions import recorded
from engine.registry.vault import Vault
from schema import frozen
from schema.actors import Restriction, Role, describe_actor, fold_person
from schema.decoding import Value
from schema.people import Account

CARRIERS = Table(
    "carriers",
    metadata,
    Column("code", Code, primary_key=True),
    required("name", String(200)),
    required("line_limit", Integer),
    required("created_at", Moment),
    Column("time_zone", String(64)),
    mac_column(),
    CheckConstraint("line_limit >= 0", name="line_limit"),
)


class Carrier(Value, rename={"code": "carrier"}):
    """A tenant. `line_limit`: how many open lines one holder may have with it. `time_zone` (IANA):
    that of its outlets without one; None for the deployment's."""

    code: str
    name: str
    line_limit: int = 5
    time_zone: str | None = None


@frozen
class Outlet:
    """An official point of sale, with its carrier's limit, and its time zone or its carrier's.

    While it has a `restriction` it enrolls nobody; `refused_attempts` came since.
    `restricted_person` is who did it, `restricted_by` with which key.
    """

    code: Annotated[str, Code, KEY]
    carrier: CarrierCode
    is_open: bool
    line_limit: int
    created_at: datetime | None = field(default=None, compare=False)
    closed_at: datetime | None = None
    time_zone: Annotated[str | None, Code] = None
    restriction: Annotated[str | None, String(16)] = None
    restricted_at: datetime | None = None
    restricted_by: ActorName | None = None
    restricted_person: ActorName | None = None
    restriction_case: Id | None = None
    """The case that says why. No foreign key: cases have one on enrollments, and those on
    outlets."""
    restriction_reason: Annotated[str | None, String(200)] = None
    """From the history of that case, sealed there. A version before 0016 kept it here."""
    refused_attempts: int | None = None


OUTLETS = table_of("outlets", Outlet, line_limit=None, created_at=required("created_at", Moment))


@frozen(kw_only=True)
class OutletChange(Change):
    """An outlet as it is restricted from now on; by a `restriction` of None not any more."""

    table = OUTLETS
    update = update_one(OUTLETS).values(
        restriction=bindparam("new_restriction"),
        restricted_at=bindparam("at", type_=Moment),
        restricted_by=bindparam("by"),
        restricted_person=bindparam("who"),
        restriction_case=bindparam("case"),
        restriction_reason=None,
        # A bar goes on counting where the suspension before it stopped.
        refused_attempts=case((bindparam("is_lifted"), None), else_=OUTLETS.c.refused_attempts),
    )

    code: str
    restriction: Restriction | None = None
    by: str | None = None
    person: str | None = None
    case_id: str | None = None

    def row(self, to: Transaction) -> RowValues:
        is_lifted = self.restriction is None
        return {
            "key": self.code,
            "new_restriction": self.restriction,
            "at": None if is_lifted else to.at,
            "by": self.by,
            "who": self.person,
            "case": self.case_id,
            "is_lifted": is_lifted,
        }


_COUNT_REFUSED = update_one(OUTLETS, OUTLETS.c.restriction.is_not(None)).values(
    refused_attempts=func.coalesce(OUTLETS.c.refused_attempts, 0) + bindparam("count")
)

ENROLLMENT_REFUSED = "enrollment.refused"
"""Action of the entry of an attempt at a restricted outlet, its subject; the outlet counts them."""


def count_refused(to: Transaction, entries: Sequence[AuditEntry]) -> None:
    """Counts attempts at restricted outlets, as the audit entries have them."""
    counts = Counter(one.subject for one in entries if one.action == ENROLLMENT_REFUSED)
    if counts:
        with to.changing(OUTLETS, list(counts)):
            for code, count in counts.items():
                # None where it has been lifted meanwhile.
                to.connection.execute(_COUNT_REFUSED, {"key": code, "count": count})


_IS_TENANTS = one_of("role", (Role.OUTLET, Role.CARRIER))
API_KEYS = Table(
    "api_keys",
    metadata,
    Column("id", Code, primary_key=True),
    # Keyed, of the whole key and of what it may do (`bind_secret`): a reader of the table cannot
    # use it, and whoever alters a row makes it useless. Empty once the key is revoked.
    required("digest", LargeBinary),
    required("label", String(200)),
    required("role", String(16)),
    Column("carrier", Code, ForeignKey("carriers.code")),
    Column("outlet", Code, ForeignKey("outlets.code")),
    Column("rate_limit", Float(53)),
    required("created_at", Moment),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
    Column("person", String(200)),
    mac_column(),
    CheckConstraint(one_of("role", Role), name="role"),
    CheckConstraint(f"({_IS_TENANTS}) = (carrier IS NOT NULL)", name="carrier"),
    CheckConstraint("(role = 'outlet') = (outlet IS NOT NULL)", name="outlet"),
    CheckConstraint("rate_limit > 0", name="rate_limit"),
)

# Who has signed in by the identity provider: `subject` and `name` are keyed look-ups, of what the
# provider calls the account and of the person's name, so that no two accounts are one person.
ACCOUNTS = Table(
    "accounts",
    metadata,
    Column("subject", LargeBinary, primary_key=True),
    required("person", String(200)),
    required("name", LargeBinary, unique=True),
    required("created_at", Moment),
    mac_column(),
)

SESSIONS = Table(
    "sessions",
    metadata,
    Column("id", Code, primary_key=True),
    # As a key's: of the secret and of all that the session may do, but `seen_at`.
    required("digest", LargeBinary),
    required("subject", LargeBinary, ForeignKey("accounts.subject"), index=True),
    required("person", String(200)),
    required("role", String(16)),
    Column("carrier", Code, ForeignKey("carriers.code")),
    Column("outlet", Code, ForeignKey("outlets.code")),
    required("created_at", Moment),
    required("expires_at", Moment),
    required("seen_at", Moment),
    mac_column(),
    CheckConstraint(one_of("role", (one for one in Role if one is not Role.METRICS)), name="role"),
    CheckConstraint(f"({_IS_TENANTS}) = (carrier IS NOT NULL)", name="carrier"),
    CheckConstraint("(role = 'outlet') = (outlet IS NOT NULL)", name="outlet"),
)


@frozen
class KeptSecret:
    """The row of a secret that was given out; `digest` is all that is stored of the secret itself,
    bound to the row's columns `bound`. `carrier` and `outlet` are what the role is bound to."""

    table: ClassVar[Table]
    bound: ClassVar[Sequence[str]]

    id: str
    digest: bytes = field(repr=False)
    role: str
    carrier: str | None
    outlet: str | None
    created_at: datetime


@frozen(kw_only=True)
class ApiKey(KeptSecret):
    """A key of the service; `rate_limit` is in items a second. A `person` may have several keys;
    those of fraud teams and operators have one."""

    table = API_KEYS
    bound = ("id", "role", "carrier", "outlet", "person", "rate_limit", "expires_at")

    label: str = ""
    rate_limit: float | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    person: str | None = None


@frozen(kw_only=True)
class Session(KeptSecret):
    """A sign-in by the identity provider; `seen_at` is when it was used last, to a minute. It ends
    at `expires_at` at the latest, and a row that was altered lives no longer."""

    table = SESSIONS
    bound = ("id", "person", "role", "carrier", "outlet", "created_at", "expires_at")

    person: str
    expires_at: datetime
    seen_at: datetime


def bind_secret(vault: Vault, row: KeptSecret, secret_digest: bytes) -> bytes:
    """Binds a row to the digest of the secret itself and all that it may do, so that an alteration
    of the row only makes it useless."""
    said = {name: getattr(row, name) for name in row.bound}
    moments = {name: in_utc(value) for name, value in said.items() if isinstance(value, datetime)}
    return vault.authenticate(row.table.name, encode_values([said | moments, secret_digest]))


_OF_CARRIER = "carrier_"
_ANY_OUTLETS = select(
    OUTLETS, *(one.label(f"{_OF_CARRIER}{one.name}") for one in CARRIERS.columns)
).join(CARRIERS)
_OUTLETS = _ANY_OUTLETS.where(OUTLETS.c.code.in_(KEYS))
_CARRIERS = select(CARRIERS).order_by(CARRIERS.c.code)
_ALL_OUTLETS = _ANY_OUTLETS.order_by(OUTLETS.c.code)
_RESTRICTED_OUTLETS = _ALL_OUTLETS.where(OUTLETS.c.restriction.is_not(None))
_API_KEYS = select(API_KEYS).order_by(API_KEYS.c.created_at, API_KEYS.c.id)
_OF_NAME = select(ACCOUNTS).where(ACCOUNTS.c.name == bindparam("name"))
_ALL = (
    select(
        *ACCOUNTS.columns,
        func.count(SESSIONS.c.id).label("sessions"),
        func.max(SESSIONS.c.seen_at).label("last_seen"),
    )
    .outerjoin(
        SESSIONS,
        (SESSIONS.c.subject == ACCOUNTS.c.subject) & (SESSIONS.c.expires_at > bindparam("now")),
    )
    .group_by(*ACCOUNTS.columns)
    .order_by(ACCOUNTS.c.person)
)


class Accounts(RecordSource):
    """The accounts and sessions of one registry; changes are audited, and may be made beside its
    writer."""

    def find(self, session_id: str) -> Session:
        """One session, in force or not; `NotFound` if there is none."""
        found = self._one(SESSIONS.c.id, Session, session_id)
        if found is None:
            raise NotFound("no session has this id: sign in")
        return found

    def everyone(self, now: datetime) -> list[Account]:
        """Every account, by its person's name."""
        found = sound_rows(self.vault, ACCOUNTS, self.rows(_ALL, now=now))
        return [Account(row.person, row.created_at, row.sessions, row.last_seen) for row in found]

    def sign_in(self, session: Session, subject: str, correlator: str) -> bool:
        """Keeps a new session, whose `digest` is of its secret, and its account where that is new.

        `subject` is what the provider calls the account. Where it is known the session is its
        person's, however the provider names them today. False, with nothing kept, where another
        account has the name of a new one, or it mixes scripts. Sessions that have expired leave.
        """
        key = self.vault.look_up("subject", subject)
        name = self.vault.look_up("person", fold_person(session.person))
        known = next(self._found(ACCOUNTS.c.subject, [key]), None)
        if known is not None:
            session = replace(session, person=str(known.person))
        elif mixes_scripts(session.person) or self._first(_OF_NAME, name=name) is not None:
            return False
        account = {"subject": key, "person": session.person, "name": name}
        bound = {one: getattr(session, one) for one in ("person", "role", "carrier", "outlet")}
        actor = describe_actor(session.person, f"session:{session.id}")
        entry = AuditEntry(actor, "session.opened", session.id, bound | {"correlator": correlator})
        digest = bind_secret(self.vault, session, session.digest)
        with recorded(self._engine, self.vault, [entry]) as connection:
            ended = delete(SESSIONS).where(SESSIONS.c.expires_at <= session.created_at)
            connection.execute(ended)
            try:
                if known is None:
                    row = account | {"created_at": session.created_at}
                    connection.execute(insert(ACCOUNTS), with_macs(self.vault, ACCOUNTS, [row]))
                values = asdict(session) | {"digest": digest, "subject": key}
                connection.execute(insert(SESSIONS), with_macs(self.vault, SESSIONS, [values]))
            except IntegrityError:
                # Or another first sign-in of this account or name came in between.
                raise RegistryError(
                    "the carrier or the outlet of a group in [sign_in] groups is not here: add it"
                ) from None
        return True

    def touch(self, session_id: str, now: datetime) -> None:
        """Notes that a session is used; nothing where it has ended."""
        seen = update(SESSIONS).where(SESSIONS.c.id == session_id, SESSIONS.c.seen_at < now)
        with (
            changing(self._engine) as connection,
            changing_rows(connection, self.vault, SESSIONS, [session_id]),
        ):
            connection.execute(seen.values(seen_at=now))

    def sign_out(self, session_id: str, *, actor: str) -> None:
        """Ends a session; nothing where it has ended before."""
        entry = AuditEntry(actor, "session.ended", session_id)
        with recorded(self._engine, self.vault, [entry]) as connection:
            connection.execute(delete(SESSIONS).where(SESSIONS.c.id == session_id))

    def sign_out_person(self, person: str, *, actor: str, forgets: bool = False) -> int:
        """Ends every session of a person and returns how many there were; `NotFound` for one who
        has no account. With `forgets` the account goes as well: its name is free, and the next
        sign-in counts as its first."""
        name = self.vault.look_up("person", fold_person(person))
        row = self._first(_OF_NAME, name=name)
        if row is None:
            raise NotFound("nobody of this name has signed in: see `sosie account list`")
        detail: Mapping[str, object] = {"person": row.person}
        action = "account.forgotten" if forgets else "account.signed_out"
        entry = AuditEntry(actor, action, row.subject.hex()[:16], detail)
        with recorded(self._engine, self.vault, [entry]) as connection:
            of_account = delete(SESSIONS).where(SESSIONS.c.subject == row.subject)
            ended = connection.execute(of_account).rowcount
            if forgets:
                connection.execute(delete(ACCOUNTS).where(ACCOUNTS.c.subject == row.subject))
        return int(ended)


class OutletReader(Source):
    """Reader of carriers and outlets."""

    def outlets(self, codes: Sequence[str]) -> dict[str, Outlet]:
        """The known ones of these outlets."""
        return {row.code: self._outlet(row) for row in self._rows_of(_OUTLETS, codes)}

    def carriers(self) -> list[Carrier]:
        """Every carrier, by code."""
        rows = sound_rows(self.vault, CARRIERS, self.rows(_CARRIERS))
        return [Carrier(row.code, row.name, row.line_limit, row.time_zone) for row in rows]

    def carrier_names(self) -> dict[str, str]:
        """The names of all carriers, by code."""
        return {one.code: one.name for one in self.carriers()}

    def all_outlets(self) -> list[Outlet]:
        """Every outlet, closed ones too, by code."""
        return list(open_each(self.rows(_ALL_OUTLETS), self._outlet))

    def restricted_outlets(self) -> list[Outlet]:
        """Every outlet that may enroll nobody, by code."""
        return list(open_each(self.rows(_RESTRICTED_OUTLETS), self._outlet))

    def _outlet(self, row: AnyRow) -> Outlet:
        require_authentic(self.vault, OUTLETS, row)
        require_authentic(self.vault, CARRIERS, row, _OF_CARRIER)
        time_zone = row.time_zone if row.time_zone is not None else row.carrier_time_zone
        return read_as(Outlet, row, line_limit=row.carrier_line_limit, time_zone=time_zone)


class KeyReader(RecordSource):
    """Reader of the service's keys."""

    def api_key(self, key_id: str) -> ApiKey:
        """One key of the service, in force or not; `NotFound` if there is none."""
        found = self._one(API_KEYS.c.id, ApiKey, key_id)
        if found is None:
            raise NotFound("no key has this id: see `sosie apikey list`")
        return found

    def api_keys(self) -> list[ApiKey]:
        """Every key of the service, those no longer in force too, the oldest first."""
        return self._sound(ApiKey, _API_KEYS)
