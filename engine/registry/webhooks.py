"""Webhooks: where events are delivered, for whom, and what could not be delivered yet.

Every event up to a webhook's cursor was delivered, or has a row in `undelivered`, to be tried again
or as a dead letter.
"""

import base64
import secrets
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, field
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    Connection,
    ForeignKey,
    Row,
    Select,
    String,
    Table,
    delete,
    func,
    insert,
    literal,
    select,
    true,
    update,
)

from engine.errors import NotFound, RequestError, SealBroken
from engine.registry.accounts import CARRIERS
from engine.registry.audit import AuditEntry
from engine.registry.columns import (
    KEY,
    Code,
    Id,
    JsonValue,
    UuidText,
    mac_column,
    metadata,
    one_of,
    required,
    sealed_column,
    table_of,
)
from engine.registry.database import Moment, Source, changing, chunks, new_id, reading, utc_now
from engine.registry.events import (
    CURSORS,
    EVENTS,
    Cursor,
    CursorLost,
    Event,
    advance_cursor,
    find_cursor,
    find_last,
    is_of_type,
    put_cursor,
    read_these,
    touch_cursor,
)
from engine.registry.rows import (
    RowValues,
    changing_rows,
    open_each,
    read_as,
    require_authentic,
    sound_rows,
    with_macs,
)
from engine.registry.transactions import recorded
from engine.registry.vault import Vault
from schema import frozen
from schema.events import EventType, WebhookState

# Where events go, by whom it was asked for: a carrier, or who runs the deployment.
WEBHOOKS = Table(
    "webhooks",
    metadata,
    Column("id", UuidText, primary_key=True),
    Column("carrier", Code, ForeignKey("carriers.code"), index=True),
    sealed_column("sink", nullable=False),
    # Null: every type.
    Column("types", JsonValue),
    required("state", String(16)),
    sealed_column("secret", nullable=False),
    # Signs as well, until then.
    sealed_column("earlier_secret"),
    Column("earlier_until", Moment),
    required("created_at", Moment),
    required("created_by", String(200)),
    mac_column(),
    CheckConstraint(one_of("state", WebhookState), name="state"),
)

SECRET_BYTES = 32
SECRET_PREFIX = "whsec_"  # noqa: S105 - how a secret begins, in Standard Webhooks
MOST_WEBHOOKS = 10
"""Of one carrier, and of the deployment's own."""
MOST_COUNTED = 100_000
"""A backlog is counted so far."""


@frozen
class Webhook:
    """Where the events of a `carrier` go; None: those of all, as whoever runs the deployment reads
    them. `types` is empty for every type. `secrets` sign, the newest first: a second one until
    `earlier_until`."""

    id: str
    carrier: str | None
    sink: str = field(repr=False)
    types: tuple[EventType, ...]
    state: WebhookState
    created_at: datetime
    created_by: str
    earlier_until: datetime | None = None
    secrets: tuple[bytes, ...] = field(default=(), repr=False)


@frozen
class WebhookChange:
    """A change of a webhook; None leaves the field as it is."""

    sink: str | None = field(default=None, repr=False)
    types: tuple[EventType, ...] | None = None
    state: WebhookState | None = None


@frozen(kw_only=True)
class Undelivered:
    """An event up to a webhook's cursor that it has not taken, after so many attempts; without
    `due_at` it is a dead letter, which is tried no more. `at` is when it happened; those of one
    `queue`, a document's or the event's subject's, are delivered one after another."""

    number: Annotated[int, BigInteger(), KEY]
    queue: Id
    attempts: int
    due_at: datetime | None
    fault: Annotated[str | None, Code]
    at: datetime


UNDELIVERED = table_of(
    "undelivered",
    Undelivered,
    webhook_id=Column("webhook_id", UuidText, ForeignKey("webhooks.id"), primary_key=True),
)
_IS_DEAD: ColumnElement[bool] = UNDELIVERED.c.due_at.is_(None)


@frozen
class DeadLetter:
    """An event that was given up."""

    event: Event
    attempts: int
    fault: str | None


@frozen
class Backlog:
    """The backlog of a webhook: `waiting` events, counted up to `MOST_COUNTED`, of which the oldest
    is from `oldest_at`; and how many were given up."""

    cursor: int
    waiting: int
    oldest_at: datetime | None
    dead: int


@frozen
class Progress:
    """The progress of a worker on a webhook that it holds: the cursor's new number, rows that are
    to be kept, and numbers of rows that are done."""

    cursor: Cursor
    number: int
    kept: Sequence[Undelivered] = ()
    done: Sequence[int] = ()


def show_secret(secret: bytes) -> str:
    """A secret as receivers are given it."""
    return SECRET_PREFIX + base64.b64encode(secret).decode()


class Webhooks(Source):
    """The webhooks of one registry; changes are audited, and may be made beside its writer. A
    `carrier` limits what may be seen and changed to its own, else `NotFound`; None is all."""

    def find_all(self, carrier: str | None = None) -> list[Webhook]:
        """The oldest first."""
        query = select(WEBHOOKS).order_by(WEBHOOKS.c.created_at, WEBHOOKS.c.id)
        if carrier is not None:
            query = query.where(WEBHOOKS.c.carrier == carrier)
        return list(open_each(self.rows(query), partial(_webhook_of, self.vault, utc_now())))

    def find(self, webhook_id: str, carrier: str | None = None) -> Webhook:
        for row in self.rows(select(WEBHOOKS).where(WEBHOOKS.c.id == webhook_id)):
            if carrier in (None, row.carrier):
                return _webhook_of(self.vault, utc_now(), row)
        raise NotFound("no webhook has this id: check it")

    def create(
        self, sink: str, types: Sequence[EventType], *, carrier: str | None, actor: str
    ) -> tuple[Webhook, str]:
        """A new one, which gets what happens from now on, and its secret, which is not told again;
        `RequestError` for one more than `MOST_WEBHOOKS`, or a carrier that is not known."""
        webhook_id, secret = new_id(), secrets.token_bytes(SECRET_BYTES)
        kinds = [one.value for one in dict.fromkeys(types)]
        row = {
            "id": webhook_id,
            "carrier": carrier,
            "sink": self._seal("sink", webhook_id, sink.encode()),
            "types": kinds or None,
            "state": WebhookState.ACTIVE.value,
            "secret": self._seal("secret", webhook_id, secret),
            "created_at": utc_now(),
            "created_by": actor,
        }
        detail = {"carrier": carrier, "types": kinds}
        with self._recorded(actor, "webhook.created", webhook_id, detail) as connection:
            known = select(CARRIERS.c.code).where(CARRIERS.c.code == carrier)
            if carrier is not None and connection.scalar(known) is None:
                raise RequestError(f"no carrier has the code {carrier}: check it")
            own = WEBHOOKS.c.carrier.is_(None) if carrier is None else WEBHOOKS.c.carrier == carrier
            count = connection.scalar(select(func.count()).where(own)) or 0
            if count >= MOST_WEBHOOKS:
                raise RequestError(f"there are {count} webhooks already: remove one")
            connection.execute(insert(WEBHOOKS), with_macs(self.vault, WEBHOOKS, [row]))
            put_cursor(connection, self.vault, webhook_id, find_last(connection))
        return self.find(webhook_id), show_secret(secret)

    def change(
        self, webhook_id: str, change: WebhookChange, *, carrier: str | None, actor: str
    ) -> Webhook:
        """With another sink, other types or state. What waits is delivered to the new sink."""
        self.find(webhook_id, carrier)
        values: dict[str, Any] = {}
        detail: dict[str, Any] = {}
        if change.sink is not None:
            values["sink"] = self._seal("sink", webhook_id, change.sink.encode())
            # The path of an address may be a secret.
            detail["sink"] = "changed"
        if change.types is not None:
            kinds = [one.value for one in dict.fromkeys(change.types)]
            values["types"], detail["types"] = kinds or None, kinds
        if change.state is not None:
            values["state"] = detail["state"] = change.state.value
        if values:
            self._update(webhook_id, values, actor, "webhook.changed", detail)
        return self.find(webhook_id)

    def rotate(
        self, webhook_id: str, overlap: timedelta, *, carrier: str | None, actor: str
    ) -> tuple[Webhook, str]:
        """Gives it a new secret, and returns that; the one before signs as well for so long."""
        before, secret = self.find(webhook_id, carrier), secrets.token_bytes(SECRET_BYTES)
        until = utc_now() + overlap
        values = {
            "secret": self._seal("secret", webhook_id, secret),
            "earlier_secret": self._seal("earlier_secret", webhook_id, before.secrets[0]),
            "earlier_until": until,
        }
        detail = {"earlier_until": until.isoformat()}
        self._update(webhook_id, values, actor, "webhook.secret_rotated", detail)
        return self.find(webhook_id), show_secret(secret)

    def remove(self, webhook_id: str, *, carrier: str | None, actor: str) -> None:
        """Ends it: what waits is delivered to nobody."""
        self.find(webhook_id, carrier)
        with self._recorded(actor, "webhook.removed", webhook_id, {}) as connection:
            _drop(connection, webhook_id, true())
            connection.execute(delete(CURSORS).where(CURSORS.c.name == webhook_id))
            connection.execute(delete(WEBHOOKS).where(WEBHOOKS.c.id == webhook_id))

    def replay(self, webhook_id: str, after: int, *, carrier: str | None, actor: str) -> Webhook:
        """Delivers every event beyond a number that is still there, again or for the first time."""
        found = self.find(webhook_id, carrier)
        with self._recorded(actor, "webhook.replayed", webhook_id, {"after": after}) as connection:
            after = min(after, find_last(connection))
            _drop(connection, webhook_id, UNDELIVERED.c.number > after)
            put_cursor(connection, self.vault, webhook_id, after)
        return found

    def list_dead(
        self, webhook_id: str, after: int = 0, limit: int = 100, *, carrier: str | None
    ) -> list[DeadLetter]:
        """Dead letters beyond a number, in their order, whose events have not left."""
        self.find(webhook_id, carrier)
        query = _rows_of(webhook_id).where(_IS_DEAD, UNDELIVERED.c.number > after)
        rows = list(sound_rows(self.vault, UNDELIVERED, self.rows(query.limit(limit))))
        found = read_these(self, [row.number for row in rows])
        return [
            DeadLetter(found[row.number], row.attempts, row.fault)
            for row in rows
            if row.number in found
        ]

    def ask_again(
        self, webhook_id: str, event_ids: Sequence[str], *, carrier: str | None, actor: str
    ) -> int:
        """Has dead letters tried again, these events or all of them; how many. Events of their
        queue that were delivered since are not repeated."""
        self.find(webhook_id, carrier)
        dead = _rows_of(webhook_id).where(_IS_DEAD)
        asked = [dead]
        if event_ids:
            events = read_these(self, [row.number for row in self.rows(dead)])
            numbers = [number for number, one in events.items() if one.id in event_ids]
            asked = [dead.where(UNDELIVERED.c.number.in_(part)) for part in chunks(numbers)]
        detail = {"events": len(event_ids) or "all"}
        with self._recorded(actor, "webhook.asked_again", webhook_id, detail) as connection:
            found = [row for one in asked for row in connection.execute(one)]
            again = {"attempts": 0, "due_at": utc_now()}
            rows = [row._asdict() | again for row in sound_rows(self.vault, UNDELIVERED, found)]
            self._replace(connection, webhook_id, [row["number"] for row in rows], rows)
            touch_cursor(connection, self.vault, webhook_id)
        return len(rows)

    def measure(self, webhook: Webhook) -> Backlog:
        """Measures its backlog; `SealBroken` where its cursor is damaged."""
        number, is_own = EVENTS.c.number, UNDELIVERED.c.webhook_id == webhook.id
        with reading(self._engine) as connection:
            cursor = find_cursor(connection, self.vault, webhook.id)
            asked = _beyond(webhook, cursor).order_by(number).limit(MOST_COUNTED)
            count, oldest = connection.execute(_count(webhook, cursor, asked)).one()
            kept = select(func.count(), func.min(UNDELIVERED.c.at)).where(is_own, ~_IS_DEAD)
            waiting, oldest_kept = connection.execute(kept).one()
            dead = connection.scalar(select(func.count()).where(is_own, _IS_DEAD)) or 0
        moments = [one for one in (oldest, oldest_kept) if isinstance(one, datetime)]
        return Backlog(cursor, count + waiting, min(moments, default=None), dead)

    def count_leaving(self, numbers: Sequence[int]) -> dict[str, int]:
        """Counts the events of these rows, which leave the outbox, that each webhook has not taken
        and was still to be given; none of one that has them all."""
        found: Counter[str] = Counter()
        for webhook in (one for one in self.find_all() if one.state is not WebhookState.GONE):
            is_own = UNDELIVERED.c.webhook_id == webhook.id, ~_IS_DEAD
            with reading(self._engine) as connection:
                try:
                    cursor = find_cursor(connection, self.vault, webhook.id)
                except SealBroken:
                    # It is given nothing before people set it anew.
                    cursor = 0
                for part in chunks(numbers):
                    asked = _beyond(webhook, cursor).where(EVENTS.c.number.in_(part))
                    found[webhook.id] += connection.execute(_count(webhook, cursor, asked)).one()[0]
                    numbered = UNDELIVERED.c.number.in_({*part, *(one + 1 for one in part)})
                    # Those beyond the cursor are among the others.
                    is_before = numbered & (UNDELIVERED.c.number <= cursor)
                    kept = select(func.count()).where(*is_own, is_before)
                    found[webhook.id] += connection.scalar(kept) or 0
        return {key: count for key, count in found.items() if count}

    def last_event(self) -> int:
        """The number of the newest event."""
        with reading(self._engine) as connection:
            return find_last(connection)

    def undelivered(self, webhook_id: str) -> list[Undelivered]:
        """The events to be tried again, in order."""
        query = _rows_of(webhook_id).where(~_IS_DEAD)
        rows = sound_rows(self.vault, UNDELIVERED, self.rows(query))
        return [read_as(Undelivered, row) for row in rows]

    def forget_left(self) -> None:
        """Drops the rows of events that have left the outbox: they were counted when they did."""
        with changing(self._engine) as connection:
            first = connection.scalar(select(func.min(EVENTS.c.number)))
            has_left = true() if first is None else UNDELIVERED.c.number < first
            connection.execute(delete(UNDELIVERED).where(has_left))

    def save(self, holder: str, made: Sequence[Progress]) -> list[str]:
        """Keeps what was done for webhooks that are held, in one transaction; the ids of those that
        are not held any more, or were changed by people, of which nothing is kept."""
        lost = []
        with changing(self._engine) as connection:
            for one in made:
                name = one.cursor.name
                try:
                    advance_cursor(connection, self.vault, one.cursor, holder, one.number)
                except CursorLost:
                    lost.append(name)
                    continue
                replaced = [*one.done, *(row.number for row in one.kept)]
                rows = [{"webhook_id": name, **asdict(row)} for row in one.kept]
                self._replace(connection, name, replaced, rows)
        return lost

    def _replace(
        self,
        connection: Connection,
        webhook_id: str,
        numbers: Sequence[int],
        rows: Sequence[RowValues],
    ) -> None:
        for part in chunks(numbers):
            _drop(connection, webhook_id, UNDELIVERED.c.number.in_(part))
        if rows:
            connection.execute(insert(UNDELIVERED), with_macs(self.vault, UNDELIVERED, rows))

    def end(self, cursor: Cursor, holder: str, *, actor: str) -> None:
        """Notes that its receiver wants nothing any more; `CursorLost` where people have changed
        the webhook since, or another worker holds it."""
        values = {"state": WebhookState.GONE.value}
        self._update(cursor.name, values, actor, "webhook.gone", {}, (cursor, holder))

    def _update(
        self,
        webhook_id: str,
        values: dict[str, Any],
        actor: str,
        action: str,
        detail: dict[str, Any],
        held: tuple[Cursor, str] | None = None,
    ) -> None:
        changed = update(WEBHOOKS).where(WEBHOOKS.c.id == webhook_id).values(values)
        with (
            self._recorded(actor, action, webhook_id, detail) as connection,
            changing_rows(connection, self.vault, WEBHOOKS, [webhook_id]),
        ):
            if held is not None:
                advance_cursor(connection, self.vault, *held, held[0].number)
            if connection.execute(changed).rowcount != 1:
                raise NotFound("no webhook has this id: check it")
            touch_cursor(connection, self.vault, webhook_id)

    def _recorded(
        self, actor: str, action: str, webhook_id: str, detail: dict[str, Any]
    ) -> AbstractContextManager[Connection]:
        return recorded(self._engine, self.vault, [AuditEntry(actor, action, webhook_id, detail)])

    def _seal(self, column: str, webhook_id: str, value: bytes) -> bytes:
        return self.vault.seal(f"webhooks.{column}", webhook_id, value)


def _beyond(webhook: Webhook, cursor: int) -> Select[Any]:
    """Rows with events that a webhook is told of, beyond its cursor."""
    events = EVENTS.c
    # The row of the cursor itself may hold one more.
    query = select(events.number, events.type, events.at, events.line_id)
    query = query.where(events.number >= cursor)
    if webhook.carrier is not None:
        query = query.where(events.carrier == webhook.carrier)
    return query.where(is_of_type(webhook.types)) if webhook.types else query


def _count(webhook: Webhook, cursor: int, rows: Select[Any]) -> Select[Any]:
    """The query for the number of such events that it is told of, and the oldest's moment."""
    ahead = rows.subquery()
    is_first: ColumnElement[bool] = ahead.c.number > cursor
    is_second: ColumnElement[bool] = ahead.c.line_id.is_not(None)
    if webhook.types:
        is_first &= ahead.c.type.in_([one.value for one in webhook.types])
        is_second &= literal(EventType.LINE_OPENED in webhook.types)
    count: Any = func.count().filter(is_first) + func.count().filter(is_second)
    return select(count, func.min(ahead.c.at).filter(is_first | is_second))


def _rows_of(webhook_id: str) -> Select[Any]:
    of_webhook = UNDELIVERED.c.webhook_id == webhook_id
    return select(UNDELIVERED).where(of_webhook).order_by(UNDELIVERED.c.number)


def _drop(connection: Connection, webhook_id: str, condition: ColumnElement[bool]) -> None:
    connection.execute(delete(UNDELIVERED).where(UNDELIVERED.c.webhook_id == webhook_id, condition))


def _webhook_of(vault: Vault, now: datetime, row: Row[Any]) -> Webhook:
    require_authentic(vault, WEBHOOKS, row)
    secrets_ = [vault.open("webhooks.secret", row.id, row.secret)]
    if row.earlier_until is not None and row.earlier_until > now:
        secrets_.append(vault.open("webhooks.earlier_secret", row.id, row.earlier_secret))
    return read_as(
        Webhook,
        row,
        sink=vault.open("webhooks.sink", row.id, row.sink).decode(),
        types=row.types or (),
        earlier_until=row.earlier_until if len(secrets_) > 1 else None,
        secrets=tuple(secrets_),
    )
