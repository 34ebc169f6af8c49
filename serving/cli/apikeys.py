"""Keys and accounts: `apikey`, `account`."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, time, timedelta
from functools import partial

import typer

from engine.errors import RequestError
from engine.registry.accounts import ApiKey
from engine.registry.store import PERSONAL_ROLES
from schema.actors import Role
from serving.access.authentication import make_key
from serving.access.authorization import MIN_BURST
from serving.cli.inputs import argument, option, read_date, require_code, require_words
from serving.cli.output import Answer, Call, Listing, columns, command, escape
from serving.wire.fields import of_record, plain
from serving.wire.oversight import ListedAccount, ListedKey

MAX_LABEL_LENGTH = 200
FASTEST = 1_000_000


@command("apikey add")
def add_key(
    call: Call,
    role: Role = option("What the key may do.", default=...),
    carrier: str | None = option("Its carrier: for roles outlet and carrier.", "CODE"),
    outlet: str | None = option("Its outlet: for the role outlet.", "CODE"),
    person: str | None = option(
        "Whose it is, as your directory names them: for roles fraud and operator. Several keys of "
        "one person are one person.",
        "NAME",
    ),
    label: str = option("What it is for.", default=""),
    rate_limit: float | None = option(
        "Items a second that it may ask for; without it, the setting serve.rate_limit. "
        f"Each replica lets a burst of {MIN_BURST} through first.",
        "N",
    ),
    expires_on: str | None = option("The last day (UTC) on which it is taken: 2031-01-31.", "DAY"),
) -> Answer:
    """Add a key and show it, this once: only a digest of it is kept."""
    now = datetime.now(UTC)
    _require_bounds(role, carrier, outlet)
    _require_person(role, person)
    _require_sound(label, rate_limit)
    expires_at = None if expires_on is None else _read_expiry(expires_on, now)
    made = make_key(call.deployment.vault)
    key = ApiKey(
        id=made.id,
        digest=made.digest,
        label=label,
        role=role.value,
        carrier=carrier,
        outlet=outlet,
        rate_limit=rate_limit,
        created_at=now,
        expires_at=expires_at,
        person=person,
    )
    call.store.add_api_key(key, actor=call.actor)

    return Answer(
        {"key": made.text} | plain(_list_key(key, now)),
        f"[green]Added[/] the key {key.id}, of role {role.value}. It is shown this once:",
        # Not by rich: a key is copied, and must come as it is.
        partial(typer.echo, made.text),
    )


@command("apikey list")
def list_keys(call: Call) -> Answer:
    """List the keys, those no longer in force too, the oldest first; without their secrets."""
    now = datetime.now(UTC)
    keys = call.store.api_keys()
    closed = {one.code for one in call.store.all_outlets() if not one.is_open}
    items = [_list_key(key, now, closed) for key in keys]
    shown = {
        "key": "key_id",
        **columns("role carrier outlet person"),
        "rate": lambda one: "-" if one.rate_limit is None else f"{one.rate_limit:g}/s",
        "state": "state",
        "last day": lambda one: "-" if one.expires_at is None else _last_day(one.expires_at),
        "label": lambda one: escape(one.label),
    }
    empty = "There is no key: add one with `sosie apikey add`."
    return Answer({"keys": items}, Listing(items, shown, empty))


@command("apikey revoke")
def revoke_key(
    call: Call, key_id: str = argument("As `sosie apikey list` shows it.", "ID")
) -> Answer:
    """Revoke a key: the service refuses it within the setting serve.key_cache_s."""
    require_code(key_id)
    call.store.revoke_api_key(key_id, actor=call.actor)
    text = f"[green]Revoked[/] the key {escape(key_id)}."
    return Answer({"key_id": key_id, "state": "revoked"}, text)


def _require_bounds(role: Role, carrier: str | None, outlet: str | None) -> None:
    needed = {Role.OUTLET: (True, True), Role.CARRIER: (True, False)}.get(role, (False, False))
    bounds = zip(("--carrier", "--outlet"), (carrier, outlet), needed, strict=True)
    for name, value, is_needed in bounds:
        if is_needed and value is None:
            raise RequestError(f"a key of role {role.value} is bound: give {name} too")
        if not is_needed and value is not None:
            raise RequestError(f"a key of role {role.value} is not bound by {name}: leave it out")
        if value is not None:
            require_code(value)


def _require_person(role: Role, person: str | None) -> None:
    if person is not None:
        require_words(person, "a person's name", MAX_LABEL_LENGTH)
    elif role.value in PERSONAL_ROLES:
        raise RequestError(f"a key of role {role.value} is a person's: give --person too")


def _require_sound(label: str, rate_limit: float | None) -> None:
    if label:
        require_words(label, "a label", MAX_LABEL_LENGTH)
    if rate_limit is not None and not 0 < rate_limit <= FASTEST:
        raise RequestError(f"--rate-limit is above 0 and at most {FASTEST} items a second")


def _read_expiry(text: str, now: datetime) -> datetime:
    """The end of that day."""
    day = read_date(text)
    if day < now.date():
        raise RequestError("the day of expiry is over: give a later one")
    try:
        return datetime.combine(day + timedelta(days=1), time(), UTC)
    except OverflowError:
        raise RequestError("the day of expiry is too late: give an earlier one") from None


def _last_day(expires_at: datetime) -> str:
    return (expires_at - timedelta(microseconds=1)).date().isoformat()


def _name_state(key: ApiKey, now: datetime, closed: Collection[str]) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= now:
        return "expired"
    return "outlet closed" if key.outlet in closed else "in force"


def _list_key(key: ApiKey, now: datetime, closed: Collection[str] = ()) -> ListedKey:
    return of_record(ListedKey, key, key_id=key.id, state=_name_state(key, now, closed))


PERSON_NAME = argument("As `sosie account list` shows it.", "NAME")


@command("account list")
def list_accounts(call: Call) -> Answer:
    """List who has signed in by the identity provider, by name."""
    found = call.store.accounts.everyone(datetime.now(UTC))
    items = [of_record(ListedAccount, one, since=one.created_at) for one in found]
    shown = {
        **columns("person sessions"),
        "seen": lambda one: _minute(one.seen_at),
        "since": lambda one: _minute(one.since),
    }
    empty = escape("Nobody has signed in: [sign_in] names the provider.")
    return Answer({"accounts": items}, Listing(items, shown, empty))


@command("account sign-out")
def sign_out_person(call: Call, person: str = PERSON_NAME) -> Answer:
    """End every session of a person: refused within the setting serve.key_cache_s.

    Who is still in a group of [sign_in] may sign in again.
    """
    return _end_sessions(call, person, forgets=False)


@command("account forget")
def forget_person(call: Call, person: str = PERSON_NAME) -> Answer:
    """Forget an account, with its sessions: its name is free for another one.

    Only for a name that the provider has given to somebody else: histories keep it.
    """
    return _end_sessions(call, person, forgets=True)


def _end_sessions(call: Call, person: str, *, forgets: bool) -> Answer:
    require_words(person, "a person's name", MAX_LABEL_LENGTH)
    ended = call.store.accounts.sign_out_person(person, actor=call.actor, forgets=forgets)
    done = "Forgot" if forgets else "Signed out"
    text = f"[green]{done}[/] {escape(person)}: {ended} sessions ended."
    return Answer({"person": person, "sessions": ended}, text)


def _minute(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
