"""Keys, accounts, carriers and outlets: `apikey`, `account`, `carrier`, `outlet`."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import RequestError
from schema.actors import Role
from serving.access.authorization import MIN_BURST
from serving.cli.inputs import (
    HomeOption,
    name_actor,
    open_deployment,
    read_date,
    require_code,
    require_words,
)
from serving.cli.outlets import bar_outlet, lift_restriction, list_past, suspend_outlet
from serving.cli.output import (
    DEPLOYMENT,
    JsonFlag,
    add_group,
    escape,
    print_answer,
    print_json,
    print_line,
    print_list,
)

if TYPE_CHECKING:
    from pathlib import Path

    from engine.registry.accounts import ApiKey
    from serving.wire.oversight import ListedKey


MAX_LABEL_LENGTH = 200
FASTEST = 1_000_000


def register(app: typer.Typer) -> None:
    summary = "Add a key of the service, list them, or revoke one."
    add_group(app, "apikey", summary, DEPLOYMENT, add=add_key, list=list_keys, revoke=revoke_key)
    summary = "List who has signed in to the console, and end their sessions."
    accounts = {"list": list_accounts, "sign-out": sign_out_person, "forget": forget_person}
    add_group(app, "account", summary, DEPLOYMENT, **accounts)


def add_key(
    role: Annotated[Role, typer.Option(help="What the key may do.")],
    carrier: Annotated[
        str | None, typer.Option(metavar="CODE", help="Its carrier: for roles outlet and carrier.")
    ] = None,
    outlet: Annotated[
        str | None, typer.Option(metavar="CODE", help="Its outlet: for the role outlet.")
    ] = None,
    person: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Whose it is, as your directory names them: for roles fraud and operator. "
            "Several keys of one person are one person.",
        ),
    ] = None,
    label: Annotated[str, typer.Option(help="What it is for.")] = "",
    rate_limit: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="Items a second that it may ask for; without it, the setting serve.rate_limit. "
            f"Each replica lets a burst of {MIN_BURST} through first.",
        ),
    ] = None,
    expires_on: Annotated[
        str | None,
        typer.Option(metavar="DAY", help="The last day (UTC) on which it is taken: 2031-01-31."),
    ] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Add a key and show it, this once: only a digest of it is kept."""
    from engine.registry.accounts import ApiKey
    from serving.access.authentication import make_key
    from serving.wire.fields import plain

    now = datetime.now(UTC)
    _require_bounds(role, carrier, outlet)
    _require_person(role, person)
    _require_sound(label, rate_limit)
    expires_at = None if expires_on is None else _read_expiry(expires_on, now)
    with open_deployment(home) as deployment:
        made = make_key(deployment.vault)
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
        deployment.store.add_api_key(key, actor=name_actor())
    if as_json:
        print_json({"key": made.text} | plain(_list_key(key, now)))
        return
    print_line(f"[green]Added[/] the key {key.id}, of role {role.value}. It is shown this once:")
    # Not by rich: a key is copied, and must come as it is.
    typer.echo(made.text)


def list_keys(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """List the keys, those no longer in force too, the oldest first; without their secrets."""
    now = datetime.now(UTC)
    with open_deployment(home) as deployment:
        keys = deployment.store.api_keys()
        closed = {one.code for one in deployment.store.all_outlets() if not one.is_open}
    items = [_list_key(key, now, closed) for key in keys]
    rows = [
        [
            key.id,
            key.role,
            escape(key.carrier or "-"),
            escape(key.outlet or "-"),
            escape(key.person or "-"),
            "-" if key.rate_limit is None else f"{key.rate_limit:g}/s",
            item.state,
            "-" if key.expires_at is None else _last_day(key.expires_at),
            escape(key.label),
        ]
        for key, item in zip(keys, items, strict=True)
    ]
    columns = ("key", "role", "carrier", "outlet", "person", "rate", "state", "last day", "label")
    empty = "There is no key: add one with `sosie apikey add`."
    print_list("keys", items, columns, rows, as_json=as_json, empty=empty)


def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `sosie apikey list` shows it.")],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Revoke a key: the service refuses it within the setting serve.key_cache_s."""
    require_code(key_id)
    with open_deployment(home) as deployment:
        deployment.store.revoke_api_key(key_id, actor=name_actor())
    text = f"[green]Revoked[/] the key {escape(key_id)}."
    print_answer({"key_id": key_id, "state": "revoked"}, text, as_json=as_json)


def _require_bounds(role: Role, carrier: str | None, outlet: str | None) -> None:
    needed = {Role.OUTLET: (True, True), Role.CARRIER: (True, False)}.get(role, (False, False))
    bounds = zip(("--carrier", "--outlet"), (carrier, outlet), needed, strict=True)
    for option, value, is_needed in bounds:
        if is_needed and value is None:
            raise RequestError(f"a key of role {role.value} is bound: give {option} too")
        if not is_needed and value is not None:
            raise RequestError(f"a key of role {role.value} is not bound by {option}: leave it out")
        if value is not None:
            require_code(value)


def _require_person(role: Role, person: str | None) -> None:
    from engine.registry.store import PERSONAL_ROLES

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
    from serving.wire.fields import of_record
    from serving.wire.oversight import ListedKey

    return of_record(ListedKey, key, key_id=key.id, state=_name_state(key, now, closed))


PersonName = Annotated[
    str, typer.Argument(metavar="NAME", help="As `sosie account list` shows it.")
]


def list_accounts(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """List who has signed in by the identity provider, by name."""
    from serving.wire.fields import Moment
    from serving.wire.oversight import ListedAccount

    now = datetime.now(UTC)
    with open_deployment(home) as deployment:
        items = [
            ListedAccount(
                person=one.person,
                since=Moment.of(one.created_at),
                sessions=one.sessions,
                seen_at=Moment.of_optional(one.seen_at),
            )
            for one in deployment.store.accounts.everyone(now)
        ]
    rows = [
        [escape(one.person), str(one.sessions), _minute(one.seen_at), _minute(one.since)]
        for one in items
    ]
    columns = ("person", "sessions", "seen", "since")
    empty = "Nobody has signed in: [sign_in] names the provider."
    print_list("accounts", items, columns, rows, as_json=as_json, empty=escape(empty))


def sign_out_person(person: PersonName, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """End every session of a person: refused within the setting serve.key_cache_s.

    Who is still in a group of [sign_in] may sign in again.
    """
    _end_sessions(person, home, as_json, forgets=False)


def forget_person(person: PersonName, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Forget an account, with its sessions: its name is free for another one.

    Only for a name that the provider has given to somebody else: histories keep it.
    """
    _end_sessions(person, home, as_json, forgets=True)


def _end_sessions(person: str, home: Path | None, as_json: bool, *, forgets: bool) -> None:
    require_words(person, "a person's name", MAX_LABEL_LENGTH)
    with open_deployment(home) as deployment:
        accounts = deployment.store.accounts
        ended = accounts.sign_out_person(person, actor=name_actor(), forgets=forgets)
    done = "Forgot" if forgets else "Signed out"
    text = f"[green]{done}[/] {escape(person)}: {ended} sessions ended."
    print_answer({"person": person, "sessions": ended}, text, as_json=as_json)


def _minute(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


Code = Annotated[str, typer.Argument(metavar="CODE")]

MAX_NAME_LENGTH = 200
NO_ZONE = "none"
ZoneOption = Annotated[
    str | None,
    typer.Option(
        "--time-zone",
        metavar="NAME",
        help="IANA name, as Asia/Shanghai: by its date documents expire. "
        "Without it the carrier's, else [registrar] time_zone.",
    ),
]
ZoneArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="IANA name, as Asia/Shanghai; none: unset it.")
]
MOST_LINES = 1_000_000


def register_operators(app: typer.Typer) -> None:
    summary = "Add a carrier, set its time zone, or list them."
    carriers = {"add": add_carrier, "time-zone": set_carrier_zone, "list": list_carriers}
    add_group(app, "carrier", summary, DEPLOYMENT, **carriers)
    summary = "Add an outlet of a carrier, close one, restrict one, or list them."
    outlets = {
        "add": add_outlet,
        "time-zone": set_outlet_zone,
        "close": close_outlet,
        "list": list_outlets,
        "suspend": suspend_outlet,
        "bar": bar_outlet,
        "lift": lift_restriction,
        "enrollments": list_past,
    }
    add_group(app, "outlet", summary, DEPLOYMENT, **outlets)


def add_carrier(
    code: Code,
    name: Annotated[str, typer.Option(help="The carrier's name.")],
    line_limit: Annotated[
        int,
        typer.Option(min=1, max=MOST_LINES, help="Open lines that one holder may have with it."),
    ] = 5,
    time_zone: ZoneOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Add a carrier."""
    from engine.registry.accounts import Carrier
    from serving.wire.oversight import ListedCarrier

    require_code(code)
    require_words(name, "a name", MAX_NAME_LENGTH)
    _require_time_zone(time_zone)
    new = Carrier(code, name, line_limit, time_zone)
    with open_deployment(home) as deployment:
        deployment.store.add_carrier(new, actor=name_actor())
    made = ListedCarrier(code, name, line_limit, time_zone)
    print_answer(made, f"[green]Added[/] the carrier {escape(code)}.", as_json=as_json)


def add_outlet(
    code: Code,
    carrier: Annotated[str, typer.Option(metavar="CODE", help="The carrier it belongs to.")],
    time_zone: ZoneOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Add an outlet of a carrier."""
    from serving.wire.oversight import ListedOutlet

    require_code(code)
    require_code(carrier)
    with open_deployment(home) as deployment:
        actor = name_actor()
        deployment.store.add_outlet(code, carrier, actor=actor, time_zone=time_zone)
        (made,) = deployment.store.outlets([code]).values()
    text = f"[green]Added[/] the outlet {escape(code)} of {escape(carrier)}."
    answer = ListedOutlet(code, carrier, is_open=True, time_zone=made.time_zone)
    print_answer(answer, text, as_json=as_json)


def set_carrier_zone(
    code: Code, time_zone: ZoneArgument, home: HomeOption = None, as_json: JsonFlag = False
) -> None:
    """Set the time zone of a carrier's outlets that have none of their own.

    By its date documents expire there, from the next decision on.
    """
    zone = _read_time_zone(time_zone)
    with open_deployment(home) as deployment:
        deployment.store.set_carrier_time_zone(code, zone, actor=name_actor())
    text = f"[green]Set[/] the time zone of {escape(code)}."
    print_answer({"carrier": code, "time_zone": zone}, text, as_json=as_json)


def set_outlet_zone(
    code: Code, time_zone: ZoneArgument, home: HomeOption = None, as_json: JsonFlag = False
) -> None:
    """Set the time zone of an outlet: by its date documents expire there."""
    zone = _read_time_zone(time_zone)
    with open_deployment(home) as deployment:
        deployment.store.set_outlet_time_zone(code, zone, actor=name_actor())
    text = f"[green]Set[/] the time zone of {escape(code)}."
    print_answer({"outlet": code, "time_zone": zone}, text, as_json=as_json)


def _read_time_zone(given: str) -> str | None:
    if given == NO_ZONE:
        return None
    _require_time_zone(given)
    return given


def _require_time_zone(name: str | None) -> None:
    from engine.matching.checks.document import find_time_zone

    if name is not None:
        find_time_zone(name)


def close_outlet(code: Code, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Close an outlet: it enrolls no one any more, and its keys are refused."""
    with open_deployment(home) as deployment:
        deployment.store.close_outlet(code, actor=name_actor())
    text = f"[green]Closed[/] the outlet {escape(code)}."
    print_answer({"outlet": code, "is_open": False}, text, as_json=as_json)


def list_carriers(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """List the carriers by code."""
    from serving.wire.oversight import ListedCarrier

    with open_deployment(home) as deployment:
        carriers = [
            ListedCarrier(one.code, one.name, one.line_limit, one.time_zone)
            for one in deployment.store.carriers()
        ]
    rows = [
        [escape(one.carrier), escape(one.name), str(one.line_limit), one.time_zone or "-"]
        for one in carriers
    ]
    columns = ("carrier", "name", "line limit", "time zone")
    empty = "There is no carrier: sosie carrier add makes one."
    print_list("carriers", carriers, columns, rows, as_json=as_json, empty=empty)


def list_outlets(
    carrier: Annotated[
        str | None, typer.Option(metavar="CODE", help="Only those of this carrier.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List the outlets by code, with why one enrolls nobody, how many attempts were refused, and
    what liveness checks brought in 90 days."""
    from engine.cases.outlets import with_reasons
    from serving.api.serializers import outlet_liveness
    from serving.wire.oversight import ListedOutlet

    with open_deployment(home) as deployment:
        store = deployment.store
        found = [one for one in store.all_outlets() if carrier in (None, one.carrier)]
        told = outlet_liveness(store, [one.code for one in found])
        outlets = [
            ListedOutlet(
                one.code,
                one.carrier,
                one.is_open,
                one.time_zone,
                one.restriction,
                one.restriction_case,
                one.restriction_reason,
                one.refused_attempts or 0,
                told[one.code],
            )
            for one in with_reasons(store, found)
        ]
    rows = [
        [
            escape(one.outlet),
            escape(one.carrier),
            one.restriction or ("open" if one.is_open else "closed"),
            one.time_zone or "-",
            escape(one.restriction_reason or "-"),
            f"{one.refused_attempts:,}" if one.restriction else "-",
            *(f"{count:,}" for count in (told[one.outlet].results, told[one.outlet].failed)),
            f"{told[one.outlet].absent:,}",
        ]
        for one in outlets
    ]
    head = ("outlet", "carrier", "state", "time zone", "why", "refused since")
    columns = (*head, "liveness results", "failed", "absent")
    of = "" if carrier is None else f" of {escape(carrier)}"
    empty = f"There is no outlet{of}: sosie outlet add makes one."
    print_list("outlets", outlets, columns, rows, as_json=as_json, empty=empty)
