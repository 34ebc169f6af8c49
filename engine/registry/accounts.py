"""Accounts of an identity provider, and the sessions that people have signed in with them.

The first sign-in of an account gives it its person, for good: whoever is renamed at the provider
stays the same person here, and nobody becomes another by taking a name that has gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from engine.errors import NotFound, RegistryError
from engine.registry import tables
from engine.registry.database import Source, changing
from engine.registry.records import AuditEntry, Session
from engine.registry.row_macs import (
    bind_session,
    changing_rows,
    require_authentic,
    sound_rows,
    with_macs,
)
from engine.registry.rows import read_as
from engine.registry.writer import recorded
from engine.texts import mixes_scripts
from schema.actors import describe_actor, fold_person

_accounts, _sessions = tables.accounts, tables.sessions
_SESSION = select(_sessions).where(_sessions.c.id == bindparam("id"))
_OF_SUBJECT = select(_accounts).where(_accounts.c.subject == bindparam("subject"))
_OF_NAME = select(_accounts).where(_accounts.c.name == bindparam("name"))
_ALL = (
    select(
        *_accounts.columns,
        func.count(_sessions.c.id).label("sessions"),
        func.max(_sessions.c.seen_at).label("last_seen"),
    )
    .outerjoin(
        _sessions,
        (_sessions.c.subject == _accounts.c.subject) & (_sessions.c.expires_at > bindparam("now")),
    )
    .group_by(*_accounts.columns)
    .order_by(_accounts.c.person)
)


class Account(NamedTuple):
    """A person who has signed in, with how many of their sessions have not expired."""

    person: str
    created_at: datetime
    sessions: int
    seen_at: datetime | None


class Accounts(Source):
    """The accounts and sessions of one registry; changes are audited, and may be made beside its
    writer."""

    def find(self, session_id: str) -> Session:
        """One session, in force or not; `NotFound` if there is none."""
        row = self._first(_SESSION, id=session_id)
        if row is None:
            raise NotFound("no session has this id: sign in")
        return read_as(Session, require_authentic(self.vault, _sessions, row))

    def everyone(self, now: datetime) -> list[Account]:
        """Every account, by its person's name."""
        found = sound_rows(self.vault, _accounts, self.rows(_ALL, now=now))
        return [Account(row.person, row.created_at, row.sessions, row.last_seen) for row in found]

    def sign_in(self, session: Session, subject: str, correlator: str) -> bool:
        """Keeps a new session, whose `digest` is of its secret, and its account where that is new.

        `subject` is what the provider calls the account. Where it is known the session is its
        person's, however the provider names them today. False, with nothing kept, where another
        account has the name of a new one, or it mixes scripts. Sessions that have expired leave.
        """
        key = self.vault.look_up("subject", subject)
        name = self.vault.look_up("person", fold_person(session.person))
        known = self._first(_OF_SUBJECT, subject=key)
        if known is not None:
            person = str(require_authentic(self.vault, _accounts, known).person)
            session = replace(session, person=person)
        elif mixes_scripts(session.person) or self._first(_OF_NAME, name=name) is not None:
            return False
        account = {"subject": key, "person": session.person, "name": name}
        bound = {one: getattr(session, one) for one in ("person", "role", "carrier", "outlet")}
        actor = describe_actor(session.person, f"session:{session.id}")
        entry = AuditEntry(actor, "session.opened", session.id, bound | {"correlator": correlator})
        digest = bind_session(self.vault, session, session.digest)
        with recorded(self._engine, self.vault, [entry]) as connection:
            ended = delete(_sessions).where(_sessions.c.expires_at <= session.created_at)
            connection.execute(ended)
            try:
                if known is None:
                    row = account | {"created_at": session.created_at}
                    connection.execute(insert(_accounts), with_macs(self.vault, _accounts, [row]))
                values = asdict(session) | {"digest": digest, "subject": key}
                connection.execute(insert(_sessions), with_macs(self.vault, _sessions, [values]))
            except IntegrityError:
                # Or another first sign-in of this account or name came in between.
                raise RegistryError(
                    "the carrier or the outlet of a group in [sign_in] groups is not here: add it"
                ) from None
        return True

    def touch(self, session_id: str, now: datetime) -> None:
        """Notes that a session is used; nothing where it has ended."""
        seen = update(_sessions).where(_sessions.c.id == session_id, _sessions.c.seen_at < now)
        with (
            changing(self._engine) as connection,
            changing_rows(connection, self.vault, {_sessions: [session_id]}),
        ):
            connection.execute(seen.values(seen_at=now))

    def sign_out(self, session_id: str, *, actor: str) -> None:
        """Ends a session; nothing where it has ended before."""
        entry = AuditEntry(actor, "session.ended", session_id)
        with recorded(self._engine, self.vault, [entry]) as connection:
            connection.execute(delete(_sessions).where(_sessions.c.id == session_id))

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
            of_account = delete(_sessions).where(_sessions.c.subject == row.subject)
            ended = connection.execute(of_account).rowcount
            if forgets:
                connection.execute(delete(_accounts).where(_accounts.c.subject == row.subject))
        return int(ended)
