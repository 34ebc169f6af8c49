"""Outlets that may enroll nobody: `outlet suspend`, `outlet bar`, `outlet lift`, and what was
enrolled at one before, `outlet enrollments`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from schema.actors import Actor, Restriction
from schema.reasons import Decision
from serving.cli.cases import ANY, ME, MOST_CASES, STANDING, STATES, name_people
from serving.cli.inputs import HomeOption, name_actor, open_deployment
from serving.cli.output import JsonFlag, escape, print_answer, print_json, print_line, print_table

if TYPE_CHECKING:
    from engine.registry.accounts import Outlet

Code = Annotated[str, typer.Argument(metavar="CODE")]
CaseOption = Annotated[
    str, typer.Option("--case", metavar="ID", help="The case that says why; it keeps the history.")
]
ReasonOption = Annotated[
    str, typer.Option(metavar="TEXT", help="In words, without anybody's name.")
]


def suspend_outlet(
    code: Code,
    case: CaseOption,
    reason: ReasonOption,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Let an outlet enroll nobody, at once; one person may.

    Attempts are refused, audited and counted.
    """
    _step(home, as_json, "suspend", code, case, reason)


def bar_outlet(
    code: Code,
    case: CaseOption,
    reason: ReasonOption,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Bar an outlet that another person has suspended."""
    _step(home, as_json, "bar", code, case, reason)


def lift_restriction(
    code: Code,
    restriction: Annotated[
        Restriction, typer.Option(help="What `outlet list` says of it: nothing else is lifted.")
    ],
    reason: ReasonOption,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Let an outlet enroll again; its case keeps the history."""
    from schema.actors import Restriction

    _step(home, as_json, "lift", code, Restriction(restriction), reason)


def _step(
    home: Path | None, as_json: bool, name: str, code: str, given: object, reason: str
) -> None:
    """Takes the step of this name in `engine.cases.outlets`."""
    from engine.cases import outlets
    from serving.api import serializers

    account = name_actor()
    actor = Actor(account, account.removeprefix("cli:"))
    with open_deployment(home) as deployment:
        take = getattr(outlets, name)
        found = take(deployment.registrar, deployment.store, code, given, reason, actor)
        shown = serializers.outlet(deployment.store, found)
    text = f"[green]{_name_state(found).capitalize()}[/]: the outlet {escape(code)}."
    print_answer(shown, text, as_json=as_json)


def _name_state(outlet: Outlet) -> str:
    return outlet.restriction or ("open" if outlet.is_open else "closed")


def list_past(
    code: Code,
    decision: Annotated[Decision | None, typer.Option(help="Only these.")] = None,
    state: Annotated[
        str, typer.Option(help=f"Only with a case in this state: one of {', '.join(STATES)}.")
    ] = ANY,
    kind: Annotated[str | None, typer.Option(help="Only with a case of this kind.")] = None,
    assignee: Annotated[
        str | None, typer.Option(metavar="ACTOR", help=f"Of whose case; {ME}: yours.")
    ] = None,
    id_end: Annotated[
        str | None, typer.Option("--id", metavar="END", help="Its id, or its document's, ends so.")
    ] = None,
    overdue: Annotated[
        bool, typer.Option("--overdue", help="Only with a case that is overdue.")
    ] = False,
    sort: Annotated[Literal["newest", "oldest"], typer.Option(help="What comes first.")] = "newest",
    limit: Annotated[int, typer.Option(min=1, max=MOST_CASES, help="How many at most.")] = 100,
    after: Annotated[
        str | None, typer.Option(metavar="ID", help="Go on below this enrollment.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List what was attempted at an outlet, for a look; audited.

    Names show their first letters, numbers their last digits. Imported subscribers have no attempt.
    """
    from engine.cases.outlets import find_outlet
    from engine.registry.database import AuditEntry, utc_now
    from engine.registry.queues import AttemptFilter, CaseFilter
    from schema.cases import ALIVE, CaseState
    from serving.api import serializers
    from serving.wire.outlets import PastEnrollments

    if state not in STATES:
        raise typer.BadParameter(f"{state} is none of {', '.join(STATES)}")
    of_case = CaseFilter(
        state=None if state == ANY else ALIVE if state == STANDING else CaseState(state),
        kind=kind,
        assignees=name_people(assignee),
        overdue_at=utc_now() if overdue else None,
    )
    wanted = AttemptFilter(
        outlet=code, decision=decision, id_end=id_end, case=of_case, oldest_first=sort == "oldest"
    )
    with open_deployment(home) as deployment:
        store, due = deployment.store, deployment.settings.cases
        find_outlet(store, code)
        found = store.cases.attempts(wanted, due=due, limit=limit, after=after)
        shown = serializers.past_enrollments(store, found)
        detail = {"enrollments": [one.enrollment_id for one in shown]}
        store.note(AuditEntry(name_actor(), "enrollments.read", code, detail))
    following = shown[-1].enrollment_id if len(shown) == limit else None
    if as_json:
        print_json(PastEnrollments(shown, following))
        return
    if not shown:
        print_line("No such enrollment.")
        return
    rows = [
        [
            one.enrollment_id,
            one.decided_at.isoformat(timespec="minutes"),
            one.decision,
            ", ".join(one.reasons) or "-",
            escape(" ".join(filter(None, (one.name, one.number))) or "-"),
            "-" if one.case is None else f"{one.case.case_id} {one.case.state}",
        ]
        for one in shown
    ]
    print_table(None, ("enrollment", "decided", "decision", "reasons", "who", "case"), rows)
    if following is not None:
        print_line(f"[dim]Next: --after {following}[/]")
