"""Carriers and outlets: `carrier`, `outlet`, with those that may enroll nobody."""

from __future__ import annotations

from typing import Literal

import typer

from engine.cases.outlets import find_outlet, with_reasons
from engine.matching.documents import find_time_zone
from engine.registry.accounts import Carrier, Outlet
from engine.registry.database import utc_now
from engine.registry.queues import AttemptFilter, CaseFilter
from schema.actors import Restriction
from schema.reasons import Decision
from serving.api import serializers
from serving.api.serializers import outlet_liveness
from serving.cli.cases import ANY, ME, MOST_CASES, STATES, name_people
from serving.cli.inputs import argument, option, require_code, require_words
from serving.cli.output import Answer, Call, Listing, columns, command, escape, next_page
from serving.wire.fields import of_record
from serving.wire.outlets import PastEnrollments
from serving.wire.oversight import ListedOutlet

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
    require_words(name, "a name", 200)
    if time_zone is not None:
        find_time_zone(time_zone)
    new = Carrier(code, name, line_limit, time_zone)
    call.store.add_carrier(new, actor=call.actor)
    return Answer(new, f"[green]Added[/] the carrier {escape(code)}.")


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
    text = f"[green]Added[/] the outlet {escape(code)} of {escape(carrier)}."
    return Answer(ListedOutlet(code, carrier, is_open=True, time_zone=made.time_zone), text)


@command("carrier time-zone")
def set_carrier_zone(call: Call, code: str = CODE, time_zone: str = ZONE_ARGUMENT) -> Answer:
    """Set the time zone of a carrier's outlets that have none of their own.

    By its date documents expire there, from the next decision on.
    """
    zone = _read_time_zone(time_zone)
    call.store.set_carrier_time_zone(code, zone, actor=call.actor)
    text = f"[green]Set[/] the time zone of {escape(code)}."
    return Answer({"carrier": code, "time_zone": zone}, text)


@command("outlet time-zone")
def set_outlet_zone(call: Call, code: str = CODE, time_zone: str = ZONE_ARGUMENT) -> Answer:
    """Set the time zone of an outlet: by its date documents expire there."""
    zone = _read_time_zone(time_zone)
    call.store.set_outlet_time_zone(code, zone, actor=call.actor)
    text = f"[green]Set[/] the time zone of {escape(code)}."
    return Answer({"outlet": code, "time_zone": zone}, text)


def _read_time_zone(given: str) -> str | None:
    if given == "none":
        return None
    find_time_zone(given)
    return given


@command("outlet close")
def close_outlet(call: Call, code: str = CODE) -> Answer:
    """Close an outlet: it enrolls no one any more, and its keys are refused."""
    call.store.close_outlet(code, actor=call.actor)
    text = f"[green]Closed[/] the outlet {escape(code)}."
    return Answer({"outlet": code, "is_open": False}, text)


@command("carrier list")
def list_carriers(call: Call) -> Answer:
    """List the carriers by code."""
    carriers = call.store.carriers()
    shown = {"carrier": "code", **columns("name line_limit time_zone")}
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
    told = outlet_liveness(store, [one.code for one in found])
    outlets = [
        of_record(
            ListedOutlet,
            one,
            outlet=one.code,
            refused_attempts=one.refused_attempts or 0,
            liveness=told[one.code],
        )
        for one in with_reasons(store, found)
    ]
    shown = {
        **columns("outlet carrier"),
        "state": _name_state,
        "time zone": "time_zone",
        "why": "restriction_reason",
        "refused since": lambda one: f"{one.refused_attempts:,}" if one.restriction else "-",
        "liveness results": lambda one: f"{told[one.outlet].results:,}",
        "failed": lambda one: f"{told[one.outlet].failed:,}",
        "absent": lambda one: f"{told[one.outlet].absent:,}",
    }
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
    text = f"[green]{_name_state(found).capitalize()}[/]: the outlet {escape(code)}."
    return Answer(serializers.outlet(store, found), text)


def _name_state(outlet: Outlet | ListedOutlet) -> str:
    return outlet.restriction or ("open" if outlet.is_open else "closed")


@command("outlet enrollments")
def list_past(
    call: Call,
    code: str = CODE,
    decision: Decision | None = option("Only these."),
    state: str = option(
        f"Only with a case in this state: one of {', '.join(STATES)}.", default=ANY
    ),
    kind: str | None = option("Only with a case of this kind."),
    assignee: str | None = option(f"Of whose case; {ME}: yours.", "ACTOR"),
    id_end: str | None = option("Its id, or its document's, ends so.", "END", "--id"),
    overdue: bool = option("Only with a case that is overdue."),
    sort: Literal["newest", "oldest"] = option("What comes first.", default="newest"),
    limit: int = option("How many at most.", default=100, min=1, max=MOST_CASES),
    after: str | None = option("Go on below this enrollment.", "ID"),
) -> Answer:
    """List what was attempted at an outlet, for a look; audited.

    Names show their first letters, numbers their last digits. Imported subscribers have no attempt.
    """
    if state not in STATES:
        raise typer.BadParameter(f"{state} is none of {', '.join(STATES)}")
    of_case = CaseFilter(
        **serializers.read_state(None if state == ANY else state),
        kind=kind,
        assignees=name_people(call, assignee),
        overdue_at=utc_now() if overdue else None,
    )
    wanted = AttemptFilter(
        outlet=code, decision=decision, id_end=id_end, case=of_case, oldest_first=sort == "oldest"
    )
    store, due = call.store, call.deployment.settings.cases
    find_outlet(store, code)
    found = store.cases.attempts(wanted, due=due, limit=limit, after=after)
    shown = serializers.past_enrollments(store, found)
    call.note("enrollments.read", code, {"enrollments": [one.enrollment_id for one in shown]})
    following = shown[-1].enrollment_id if len(shown) == limit else None
    shown_columns = {
        "enrollment": "enrollment_id",
        "decided": "decided_at",
        **columns("decision reasons"),
        "who": lambda one: escape(" ".join(filter(None, (one.name, one.number))) or "-"),
        "case": lambda one: "-" if one.case is None else f"{one.case.case_id} {one.case.state}",
    }
    table = Listing(shown, shown_columns, "No such enrollment.")
    return Answer(PastEnrollments(shown, following), table, next_page(following))
