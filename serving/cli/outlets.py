"""Who may use a deployment: `carrier`, `outlet`, with outlets that may enroll nobody, `exceptions`
that they asked for, `apikey` and `account`."""

from collections.abc import Collection
from datetime import UTC, datetime, time, timedelta
from functools import partial
from typing import Literal

import typer

from engine.cases.outlets import find_outlet, with_reasons
from engine.errors import RequestError
from engine.matching.documents import find_time_zone
from engine.registry.accounts import ApiKey, Carrier, Outlet
from engine.registry.database import utc_now
from engine.registry.queues import AttemptFilter
from engine.registry.store import PERSONAL_ROLES
from schema import frozen
from schema.actors import Restriction, Role
from schema.reasons import Decision
from serving.access.authentication import make_key
from serving.access.authorization import MIN_BURST
from serving.api import serializers
from serving.cli.cases import MOST_CASES, QueueOptions, State
from serving.cli.inputs import argument, option, read_date, require_code, require_words
from serving.cli.output import Answer, Call, Listing, columns, command, done, escape, next_page
from serving.wire.cases import ExceptionCounts, OutletExceptions, PastEnrollments
from serving.wire.fields import of_record, plain
from serving.wire.oversight import ListedAccount, ListedKey, ListedOutlet

CODE = argument(None, "CODE")

ZONE_OPTION = option(
    "IANA name, as Asia/Shanghai: by its date documents expire. Without it the carrier's, else "
    "[registrar] time_zone.",
    "NAME",
)
ZONE_ARGUMENT = argument("IANA name, as Asia/Shanghai; none: unset it.", "NAME")
CASE_OPTION = option("The case that says why; it keeps the history.", "ID", default=...)
REASON_OPTION = option("In words, without anybody's name.", "TEXT", default=...)


@command("carrier add")
def add_carrier(
    call: Call,
    code: str = CODE,
    name: str = option("The carrier's name.", default=...),
    line_limit: int = option(
        "Open lines that one holder may have with it.", default=5, min=1, max=1_000_000
    ),
    time_zone: str | None = ZONE_OPTION,
) -> Answer:
    """Add a carrier."""
    require_code(code)
    require_words("a name", name, 200)
    if time_zone is not None:
        find_time_zone(time_zone)
    new = Carrier(code, name, line_limit, time_zone)
    call.store.add_carrier(new, actor=call.actor)
    return done("Added", f"the carrier {code}", new)


@command("outlet add")
def add_outlet(
    call: Call,
    code: str = CODE,
    carrier: str = option("The carrier it belongs to.", "CODE", default=...),
    time_zone: str | None = ZONE_OPTION,
) -> Answer:
    """Add an outlet of a carrier."""
    require_code(code)
    require_code(carrier)
    call.store.add_outlet(code, carrier, actor=call.actor, time_zone=time_zone)
    (made,) = call.store.outlets([code]).values()
    listed = ListedOutlet(code, carrier, is_open=True, time_zone=made.time_zone)
    return done("Added", f"the outlet {code} of {carrier}", listed)


@command("carrier time-zone")
def set_carrier_zone(call: Call, code: str = CODE, time_zone: str = ZONE_ARGUMENT) -> Answer:
    """Set the time zone of a carrier's outlets that have none of their own.

    By its date documents expire there, from the next decision on.
    """
    zone = _read_time_zone(time_zone)
    call.store.set_carrier_time_zone(code, zone, actor=call.actor)
    return done("Set", f"the time zone of {code}", {"carrier": code, "time_zone": zone})


@command("outlet time-zone")
def set_outlet_zone(call: Call, code: str = CODE, time_zone: str = ZONE_ARGUMENT) -> Answer:
    """Set the time zone of an outlet: by its date documents expire there."""
    zone = _read_time_zone(time_zone)
    call.store.set_outlet_time_zone(code, zone, actor=call.actor)
    return done("Set", f"the time zone of {code}", {"outlet": code, "time_zone": zone})


def _read_time_zone(given: str) -> str | None:
    if given == "none":
        return None
    find_time_zone(given)
    return given


@command("outlet close")
def close_outlet(call: Call, code: str = CODE) -> Answer:
    """Close an outlet: it enrolls no one any more, and its keys are refused."""
    call.store.close_outlet(code, actor=call.actor)
    return done("Closed", f"the outlet {code}", {"outlet": code, "is_open": False})


@command("carrier list")
def list_carriers(call: Call) -> Answer:
    """List the carriers by code."""
    carriers = call.store.carriers()
    shown = {"carrier": "code"} | columns("name line_limit time_zone")
    empty = "There is no carrier: sosie carrier add makes one."
    return Answer({"carriers": carriers}, Listing(carriers, shown, empty))


@command("outlet list")
def list_outlets(
    call: Call, carrier: str | None = option("Only those of this carrier.", "CODE")
) -> Answer:
    """List the outlets by code, with why one enrolls nobody, how many attempts were refused, and
    what liveness checks brought in 90 days."""
    store = call.store
    found = [one for one in store.all_outlets() if carrier in (None, one.carrier)]
    outlets = serializers.outlets(store, with_reasons(store, found), ListedOutlet)
    shown = columns(
        "outlet carrier",
        state=_name_state,
        time_zone="time_zone",
        why="restriction_reason",
        refused_since=lambda one: f"{one.refused_attempts:,}" if one.restriction else "-",
        liveness_results="liveness.results",
        failed="liveness.failed",
        absent="liveness.absent",
        proofs="liveness.proofs",
    )
    of = "" if carrier is None else f" of {escape(carrier)}"
    empty = f"There is no outlet{of}: sosie outlet add makes one."
    return Answer({"outlets": outlets}, Listing(outlets, shown, empty))


@command("outlet suspend")
def suspend_outlet(
    call: Call, code: str = CODE, case: str = CASE_OPTION, reason: str = REASON_OPTION
) -> Answer:
    """Let an outlet enroll nobody, at once; one person may.

    Attempts are refused, audited and counted.
    """
    return _step(call, "suspend", code, case, reason)


@command("outlet bar")
def bar_outlet(
    call: Call, code: str = CODE, case: str = CASE_OPTION, reason: str = REASON_OPTION
) -> Answer:
    """Bar an outlet that another person has suspended."""
    return _step(call, "bar", code, case, reason)


@command("outlet lift")
def lift_restriction(
    call: Call,
    code: str = CODE,
    restriction: Restriction = option(
        "What `outlet list` says of it: nothing else is lifted.", default=...
    ),
    reason: str = REASON_OPTION,
) -> Answer:
    """Let an outlet enroll again; its case keeps the history."""
    return _step(call, "lift", code, restriction, reason)


def _step(call: Call, name: str, code: str, given: object, reason: str) -> Answer:
    """Takes the step of this name in `engine.cases.outlets`."""
    from engine.cases import outlets

    take, store = getattr(outlets, name), call.store
    found = take(call.deployment.registrar, store, code, given, reason, call.person)
    shown = serializers.outlet(store, found)
    return done(_name_state(found).capitalize(), f"the outlet {code}", shown)


def _name_state(outlet: Outlet | ListedOutlet) -> str:
    return outlet.restriction or ("open" if outlet.is_open else "closed")


@frozen
class PastOptions(QueueOptions):
    """The attempts that are listed, by their cases."""

    state: State = option("Only with a case in this state.", default="all")


@command("outlet enrollments")
def list_past(
    call: Call,
    chosen: PastOptions,
    code: str = CODE,
    decision: Decision | None = option("Only these."),
    sort: Literal["newest", "oldest"] = option("What comes first.", default="newest"),
    limit: int = option("How many at most.", default=100, min=1, max=MOST_CASES),
    after: str | None = option("Go on below this enrollment.", "ID"),
) -> Answer:
    """List what was attempted at an outlet, for a look; audited.

    Names show their first letters, numbers their last digits. Imported subscribers have no attempt.
    """
    wanted = AttemptFilter(
        outlet=code,
        decision=decision,
        id_end=chosen.id_end,
        case=chosen.read(call),
        oldest_first=sort == "oldest",
    )
    store, due = call.store, call.deployment.settings.cases
    find_outlet(store, code)
    found = store.cases.attempts(wanted, due=due, limit=limit, after=after)
    shown = serializers.past_enrollments(store, found)
    call.note("enrollments.read", code, {"enrollments": [one.enrollment_id for one in shown]})
    following = shown[-1].enrollment_id if len(shown) == limit else None
    shown_columns = columns(
        "enrollment_id decided_at decision reasons",
        who=lambda one: escape(" ".join(filter(None, (one.name, one.number))) or "-"),
        case=lambda one: "-" if one.case is None else f"{one.case.case_id} {one.case.state}",
    )
    table = Listing(shown, shown_columns, "No such enrollment.")
    return Answer(PastEnrollments(shown, following), table, next_page(following))


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
    _require_bounds(role, carrier, outlet, person)
    if label:
        require_words("a label", label, MAX_LABEL_LENGTH)
    if rate_limit is not None and not 0 < rate_limit <= FASTEST:
        raise RequestError(f"--rate-limit is above 0 and at most {FASTEST} items a second")
    expires_at = None if expires_on is None else _read_expiry(expires_on, now)
    made = make_key(call.deployment.vault)
    key = ApiKey(
        *(made.id, made.digest, role.value, carrier, outlet, now),
        label=label,
        rate_limit=rate_limit,
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
    shown = columns(
        "key_id role carrier outlet person",
        rate=lambda one: "-" if one.rate_limit is None else f"{one.rate_limit:g}/s",
        state="state",
        last_day=_name_last_day,
        label="label",
    )
    empty = "There is no key: add one with `sosie apikey add`."
    return Answer({"keys": items}, Listing(items, shown, empty))


@command("apikey revoke")
def revoke_key(
    call: Call, key_id: str = argument("As `sosie apikey list` shows it.", "ID")
) -> Answer:
    """Revoke a key: the service refuses it within the setting serve.key_cache_s."""
    require_code(key_id)
    call.store.revoke_api_key(key_id, actor=call.actor)
    return done("Revoked", f"the key {key_id}", {"key_id": key_id, "state": "revoked"})


def _require_bounds(
    role: Role, carrier: str | None, outlet: str | None, person: str | None
) -> None:
    needed = {Role.OUTLET: (True, True), Role.CARRIER: (True, False)}.get(role, (False, False))
    bounds = zip(("--carrier", "--outlet"), (carrier, outlet), needed, strict=True)
    for name, value, is_needed in bounds:
        if is_needed and value is None:
            raise RequestError(f"a key of role {role.value} is bound: give {name} too")
        if not is_needed and value is not None:
            raise RequestError(f"a key of role {role.value} is not bound by {name}: leave it out")
        if value is not None:
            require_code(value)
    if person is not None:
        require_words("a person's name", person, MAX_LABEL_LENGTH)
    elif role.value in PERSONAL_ROLES:
        raise RequestError(f"a key of role {role.value} is a person's: give --person too")


def _read_expiry(text: str, now: datetime) -> datetime:
    """The end of that day."""
    day = read_date(text)
    if day < now.date():
        raise RequestError("the day of expiry is over: give a later one")
    try:
        return datetime.combine(day + timedelta(days=1), time(), UTC)
    except OverflowError:
        raise RequestError("the day of expiry is too late: give an earlier one") from None


def _name_last_day(key: ListedKey) -> str:
    end = key.expires_at
    return "-" if end is None else (end - timedelta(microseconds=1)).date().isoformat()


def _list_key(key: ApiKey, now: datetime, closed: Collection[str] = ()) -> ListedKey:
    state = "outlet closed" if key.outlet in closed else "in force"
    if key.revoked_at is not None:
        state = "revoked"
    elif key.expires_at is not None and key.expires_at <= now:
        state = "expired"
    return of_record(ListedKey, key, key_id=key.id, state=state)


PERSON_NAME = argument("As `sosie account list` shows it.", "NAME")


@command("account list")
def list_accounts(call: Call) -> Answer:
    """List who has signed in by the identity provider, by name."""
    found = call.store.accounts.everyone(datetime.now(UTC))
    items = [of_record(ListedAccount, one) for one in found]
    empty = escape("Nobody has signed in: [sign_in] names the provider.")
    return Answer({"accounts": items}, Listing(items, "person sessions seen_at since", empty))


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
    require_words("a person's name", person, MAX_LABEL_LENGTH)
    ended = call.store.accounts.sign_out_person(person, actor=call.actor, forgets=forgets)
    verb = "Forgot" if forgets else "Signed out"
    return done(verb, f"{person}: {ended} sessions ended", {"person": person, "sessions": ended})


@command("exceptions")
def list_exceptions(
    call: Call, days: int = option("Since how many days.", default=30, min=1, max=366)
) -> Answer:
    """List the outlets that have asked for exceptions, those with most first."""
    found = call.store.people.count_by_outlet(utc_now() - timedelta(days=days))
    shown = tuple(of_record(OutletExceptions, one) for one in found)
    names = "outlet carrier asked granted"
    counts = columns(names, undecided=lambda one: one.asked - one.decided, last="last_at")
    empty = "No outlet has asked for an exception."
    return Answer(ExceptionCounts(shown), Listing(shown, counts, empty))
