"""Cases of the fraud team: `cases` lists them, `case` shows one and takes its steps."""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.errors import RegistryError, SosieError
from schema.actors import Actor
from schema.cases import CaseSort, Outcome
from serving.cli.inputs import HomeOption, name_actor, open_deployment, require_place
from serving.cli.output import (
    REGISTRY,
    JsonFlag,
    add_group,
    escape,
    print_answer,
    print_facts,
    print_json,
    print_line,
    print_table,
)

if TYPE_CHECKING:
    from serving.deployment.deployment import Deployment
    from serving.wire.cases import CaseFile, CaseProposal, ListedCase
    from serving.wire.sweeps import CaseOutcomes, Precision, PrecisionRate, ProposedThreshold


MAX_NOTE_BYTES = 64 * 1024
ME = "me"

CaseId = Annotated[str, typer.Argument(metavar="ID", help="The case's id.")]
OutcomeOption = Annotated[Outcome, typer.Option(help="What was found.")]
LinesOption = Annotated[
    list[str] | None,
    typer.Option("--close-line", metavar="LINE", help="A line to close, by its id; repeat it."),
]
KeepFlag = Annotated[
    bool,
    typer.Option(
        "--keep-lines",
        help="Say that the lines which are not to be closed stay in use, as fraud must.",
    ),
]
SeenOption = Annotated[
    str,
    typer.Option(
        "--seen-at",
        metavar="MOMENT",
        help="The case's updated_at, as shown; refused where the case has changed since.",
    ),
]


def assign_cases(
    case_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The ids of cases.")],
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="PERSON", help="As histories name people.", show_default=ME),
    ] = None,
    back: Annotated[bool, typer.Option("--back", help="Give it back to the queue.")] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Give cases to a person, or back to the queue; with several, `--json` has a line for each."""
    if back and to is not None:
        raise typer.BadParameter("give --to or --back, not both")
    assignee = None if back else name_person(to or ME)
    with open_deployment(home) as deployment:
        for case_id in case_ids:
            _step_in(deployment, as_json, case_id, "assign", assignee)


def note_case(
    case_id: CaseId,
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="The remark; - reads standard input.")
    ],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Add a remark to the history of a case; it is sealed in the registry."""
    remark = sys.stdin.read(MAX_NOTE_BYTES).strip() if text == "-" else text
    _step(home, as_json, case_id, "note", remark)


def propose_outcome(
    case_id: CaseId,
    outcome: OutcomeOption,
    seen_at: SeenOption,
    close_line: LinesOption = None,
    keep_lines: KeepFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Propose an outcome, and the lines to be closed by it, for another person to decide.

    Fraud whose documents have numbers in use names those to close, or says --keep-lines.
    """
    _end(home, as_json, case_id, "propose", outcome, close_line, seen_at, keep_lines=keep_lines)


def withdraw_proposal(case_id: CaseId, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Take the proposal back."""
    _step(home, as_json, case_id, "withdraw")


def close_case(
    case_id: CaseId,
    outcome: OutcomeOption,
    seen_at: SeenOption,
    close_line: LinesOption = None,
    keep_lines: KeepFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Close a case.

    It takes two people: another must have proposed the same outcome and lines; `case show` says how
    many of its numbers will be closed. One may say that a
    dispute is unfounded. Fraud puts the faces on the watch-list; twins and mistakes are exceptions
    for later sweeps; after an unfounded dispute its lines are active again, and an exception
    that is closed so is granted: its line is opened.
    """
    _end(home, as_json, case_id, "close", outcome, close_line, seen_at, keep_lines=keep_lines)


def name_person(name: str | None) -> str | None:
    """A person as histories name them."""
    return _myself() if name == ME else name


def name_people(name: str | None) -> tuple[str, ...]:
    # Older cases name the account as the audit chain does.
    if name == ME:
        return _myself(), name_actor()
    return () if name is None else (name,)


def _myself() -> str:
    return name_actor().removeprefix("cli:")


def _read_seen_at(text: str) -> datetime:
    moment: datetime | None = None
    with suppress(ValueError):
        moment = datetime.fromisoformat(text)
    if moment is None or moment.tzinfo is None:
        raise typer.BadParameter("--seen-at is no moment with its zone: take it from case show")
    return moment


def _end(
    home: Path | None,
    as_json: bool,
    case_id: str,
    name: str,
    outcome: Outcome,
    lines: list[str] | None,
    seen_at: str,
    *,
    keep_lines: bool,
) -> None:
    seen, closed = _read_seen_at(seen_at), tuple(lines or ())
    _step(home, as_json, case_id, name, outcome, closed, seen_at=seen, keep_lines=keep_lines)


def _step(
    home: Path | None, as_json: bool, case_id: str, name: str, *given: object, **more: object
) -> None:
    """Takes the step of this name in `engine.cases.steps`."""
    with open_deployment(home) as deployment:
        _step_in(deployment, as_json, case_id, name, *given, **more)


def _step_in(
    deployment: Deployment, as_json: bool, case_id: str, name: str, *given: object, **more: object
) -> None:
    from engine.cases import steps
    from schema.cases import CaseState
    from serving.api import serializers

    actor = Actor(name_actor(), _myself())
    case = getattr(steps, name)(
        deployment.registrar, deployment.store, case_id, *given, actor, **more
    )
    found = "" if case.outcome is None else f", {case.outcome.value}"
    whose = "" if case.assignee is None else f", {escape(case.assignee)}'s"
    text = f"[green]{case.state.value.capitalize()}[/]: case {case.id}{found}{whose}."
    if case.state is CaseState.CLOSED:
        text += _finish_erasures(deployment, actor.name)
    print_answer(serializers.case(case), text, as_json=as_json)


def _finish_erasures(deployment: Deployment, actor: str) -> str:
    """Does the erasures that waited for a case; the case is closed whether or not they fail."""
    try:
        done = deployment.finish_erasures(actor)
    except SosieError as error:
        return f"\n[yellow]An erasure still waits[/]: {escape(str(error))}. See sosie erasures."
    return "".join(
        f"\n[green]Erased[/] the document {one.document_id}, which waited for it." for one in done
    )


def report_case(
    case_id: CaseId,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the page goes.")],
    faces: Annotated[
        bool, typer.Option("--faces", help="With the faces that are kept, side by side.")
    ] = False,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Show names and numbers in full, not masked.")
    ] = False,
    carrier: Annotated[
        str | None, typer.Option(metavar="CODE", help="Leave out what this carrier may not see.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a case as one HTML page for police or a regulator; audited.

    With its scores in words, its history and its entries of the audit chain, which `sosie audit
    verify --anchor FILE` compares. No retention reaches the file: it is yours to delete.
    """
    from engine.atomic_files import replacing
    from engine.registry.database import AuditEntry
    from serving.case_report import ReportTerms, gather_case, write_case

    require_place(file)
    terms = ReportTerms(has_faces=faces, is_revealed=reveal, carrier=carrier)
    with open_deployment(home) as deployment:
        store = deployment.store
        found = gather_case(store, deployment.calibration, case_id, terms)
        store.note(AuditEntry(name_actor(), "case.reported", case_id, found.describe()))
        report = write_case(found, store)
    try:
        with replacing(file) as beside:
            beside.write_bytes(report.html)
    except OSError as error:
        raise RegistryError(f"{file} cannot be written: {error.strerror}") from None
    answer = {
        "report": str(file),
        "faces": report.faces,
        "documents": report.documents,
        "left_out": report.left_out,
        "audit_entries": report.audit_entries,
    }
    text = f"  {escape(str(file))}"
    if report.left_out:
        text += f"\nThere was no room for {report.left_out:,} documents of the case."
    if faces and not report.faces:
        text += "\nNo face is kept of these people (\\[crops] keep in sosie.toml): it shows none."
    print_answer(answer, text, as_json=as_json)


def show_precision(
    sweep: Annotated[
        str | None, typer.Option(metavar="ID", help="Of this sweep's pairs and cases alone.")
    ] = None,
    wanted: Annotated[
        float,
        typer.Option(min=0.01, max=0.99, help="The precision that a threshold is proposed for."),
    ] = 0.8,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show how often people found fraud: by threshold, kind and month; and what that proposes.

    The threshold for the next sweep is the lowest, at a hundredth, at which at least so much of the
    pairs were fraud, with 95 % confidence.
    """
    from engine.cases.precision import DecisionReader
    from serving.api import serializers

    with open_deployment(home) as deployment:
        if sweep is not None:
            deployment.store.sweeps.get(sweep)
        decisions = DecisionReader(deployment.store).read()
    found = serializers.sweep_precision(decisions, sweep, wanted)
    print_answer(found, lambda: _print_precision(found), as_json=as_json)


def _print_precision(found: Precision) -> None:
    from engine.formatting import percent

    def interval(one: PrecisionRate | CaseOutcomes) -> str:
        if one.precision is None or one.low is None or one.high is None:
            return "-"
        return f"{percent(one.precision)} ({percent(one.low)} to {percent(one.high)})"

    if found.thresholds:
        rows = [
            [f"{one.threshold:.2f}", f"{one.judged:,}", f"{one.cases:,}", interval(one)]
            for one in found.thresholds
        ]
        print_table("Pairs of sweeps", ("from score", "judged", "in cases", "fraud"), rows)
    for title, some in (("Closed cases by kind", found.kinds), ("by month", found.months)):
        rows = [
            [
                escape(one.name.replace("_", " ")),
                *(f"{n:,}" for n in (one.cases, one.fraud, one.twins, one.mistake, one.unfounded)),
                interval(one),
            ]
            for one in some
        ]
        if rows:
            heads = ("", "cases", "fraud", "twins", "mistake", "unfounded", "fraud of all")
            print_table(title, heads, rows)
    print_line(_describe_proposal(found.proposal))


def _describe_proposal(proposal: ProposedThreshold) -> str:
    from engine.formatting import percent

    wanted = percent(proposal.wanted)
    if proposal.threshold is not None:
        return (
            f"The decisions propose a threshold of {proposal.threshold:.2f}: of the pairs there, "
            f"at least {wanted} were fraud, with 95 % confidence: "
            f"sosie sweep --threshold {proposal.threshold:.2f}"
        )
    if proposal.ground == "too_few":
        return (
            f"Too few decisions for a threshold: {proposal.cases:,} cases of sweeps count as "
            f"{proposal.effective_cases:.1f}, and it takes {proposal.least_cases}."
        )
    return f"No threshold is known at which at least {wanted} of the pairs were fraud."


MOST_CASES = 10_000
ANY, STANDING, FRAUD_IN_USE = "all", "alive", "fraud_in_use"
STATES = (STANDING, ANY, FRAUD_IN_USE, "open", "assigned", "proposed", "closed", "merged")


def register(app: typer.Typer) -> None:
    app.command("cases", rich_help_panel=REGISTRY)(list_cases)
    app.command("precision", rich_help_panel=REGISTRY)(show_precision)
    commands = {
        "show": show_case,
        "assign": assign_cases,
        "note": note_case,
        "propose": propose_outcome,
        "withdraw": withdraw_proposal,
        "close": close_case,
        "report": report_case,
    }
    add_group(app, "case", "Show a case, and take its steps.", REGISTRY, **commands)


def _require_state(name: str) -> str:
    if name not in STATES:
        raise typer.BadParameter(f"{name} is none of {', '.join(STATES)}")
    return name


def list_cases(
    state: Annotated[
        str, typer.Option(callback=_require_state, help=f"One of {', '.join(STATES)}.")
    ] = STANDING,
    kind: Annotated[str | None, typer.Option(help="Only this kind.")] = None,
    assignee: Annotated[
        str | None, typer.Option(metavar="PERSON", help=f"Only this person's; {ME}: yours.")
    ] = None,
    carrier: Annotated[str | None, typer.Option(help="Only with lines of this carrier.")] = None,
    outlet: Annotated[str | None, typer.Option(help="Only with lines of this outlet.")] = None,
    id_end: Annotated[
        str | None,
        typer.Option("--id", metavar="END", help="Its id, or one that it names, ends so."),
    ] = None,
    overdue: Annotated[bool, typer.Option("--overdue", help="Only what is overdue.")] = False,
    sort: Annotated[CaseSort, typer.Option(help="What comes first.")] = CaseSort.RISK,
    limit: Annotated[
        int, typer.Option(min=1, max=MOST_CASES, help="How many to list at most.")
    ] = 100,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Go on below this case.")] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """List cases, those of the highest risk first; audited.

    Those that are not decided, if nothing else is asked. Names show their first letters, numbers
    their last digits.
    """
    from engine.formatting import plural
    from engine.registry.database import AuditEntry, utc_now
    from engine.registry.queues import CaseFilter
    from serving.api import serializers
    from serving.wire.cases import CasePage

    now = utc_now()
    wanted = CaseFilter(
        **serializers.read_state(None if state == ANY else state),
        kind=kind,
        assignees=name_people(assignee),
        carrier=carrier,
        outlet=outlet,
        id_end=id_end,
        overdue_at=now if overdue else None,
    )
    with open_deployment(home) as deployment:
        store, due = deployment.store, deployment.settings.cases
        found = store.cases.queue(wanted, sort, due=due, limit=limit, after=after)
        shown = serializers.case_page(store, found, due, now)
        detail = {"cases": [one.case_id for one in shown]}
        store.note(AuditEntry(name_actor(), "cases.read", "queue", detail))
        in_use = store.cases.count_fraud()
    following = shown[-1].case_id if len(shown) == limit else None
    if as_json:
        print_json(CasePage(shown, following, in_use))
        return
    if in_use and state != FRAUD_IN_USE:
        print_line(
            f"[yellow]Decided as fraud[/], with numbers in use: {plural(in_use, 'case')}: "
            f"sosie cases --state {FRAUD_IN_USE}"
        )
    if not shown:
        is_all = wanted == CaseFilter(**serializers.read_state(STANDING))
        print_line("No case is open." if is_all else "No such case.")
        return
    print_table(None, _COLUMNS, [_row_of(one, now) for one in shown])
    if following is not None:
        print_line(f"[dim]Next: --after {following}[/]")


_COLUMNS = (
    "case",
    "risk",
    "kind",
    "who",
    "documents",
    "lines",
    "where",
    "scores",
    "state",
    "age",
    "due",
)


def _row_of(one: ListedCase, now: datetime) -> list[str]:
    who = [" ".join(part for part in (person.name, person.number) if part) for person in one.people]
    more = len(one.document_ids) - len(who)
    scores = [f"{value:.3f}" for value in (one.score, one.weakest) if value is not None]
    due = "-" if one.due_at is None else one.due_at.date().isoformat()
    due = f"[red]{due} overdue[/]" if one.is_overdue else due
    if one.erasure_due_at is not None:
        due += f"; erased by {one.erasure_due_at.date().isoformat()}"
    return [
        one.case_id,
        f"{one.risk:.0f}",
        escape(one.kind),
        escape("; ".join(who) + (f" + {more}" if more > 0 else "")),
        str(len(one.document_ids)),
        _count_lines(one),
        escape(", ".join(one.outlets) or "-"),
        " to ".join(dict.fromkeys(scores)) or "-",
        one.state + (f", {escape(one.assignee)}" if one.assignee else ""),
        f"{(now - one.opened_at).days} d",
        due,
    ]


def _count_lines(one: ListedCase) -> str:
    if not one.fraud_lines:
        return str(one.lines)
    stays = ", said to stay" if one.proposal is not None and one.proposal.keep_lines else ""
    return f"{one.lines}, [red]{one.fraud_lines} of fraud[/]{stays}"


def show_case(case_id: CaseId, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Show a case with its documents, their lines in use, and its history; audited.

    Numbers show their last digits.
    """
    from engine.registry.database import AuditEntry
    from serving.api import serializers

    with open_deployment(home) as deployment:
        case = serializers.case_file(deployment.store, case_id)
        detail = {"documents": list(case.document_ids)}
        deployment.store.note(AuditEntry(name_actor(), "case.read", case.case_id, detail))
        why = [] if as_json else _tell_why(deployment, case)
    print_answer(case, lambda: _print_case(case, why), as_json=as_json)


def _tell_why(deployment: Deployment, case: CaseFile) -> list[str]:
    """The terms of its group, where the sweep's files are still there."""
    from engine.errors import NotFound, RegistryError, SweepOver
    from serving.sweeps.sweep_views import SweepReader, describe_terms

    if case.sweep_id is None or case.group_key is None:
        return []
    try:
        reader = SweepReader(deployment.store, deployment.sweep_folder)
        group = reader.group(case.sweep_id, case.group_key)
    except (NotFound, RegistryError, SweepOver):
        return ["the sweep's files, which tell it, are no longer there"]
    return describe_terms(group)


def _describe_proposed(case: CaseFile, proposal: CaseProposal) -> str:
    """What another person approves: how many numbers close by it, of all that it could close."""
    in_use = sum(len(document.lines) for document in case.documents)
    text = f"{proposal.outcome} by {proposal.by}: "
    text += f"{len(proposal.close_lines)} of {in_use} numbers will be closed"
    return text + (", the others stay (--keep-lines)" if proposal.keep_lines else "")


def _print_case(case: CaseFile, why: list[str]) -> None:
    from serving.wire.fields import plain

    listed_below = ("case_id", "document_ids", "documents", "notes", "merged")
    facts = {
        name.replace("_", " "): str(value)
        for name, value in plain(case).items()
        if value not in (None, []) and name not in listed_below
    }
    if case.proposal is not None and case.outcome is None:
        facts["proposal"] = _describe_proposed(case, case.proposal)
    print_facts(f"[bold]{escape(case.kind)}[/]  case {case.case_id}", facts)
    if why:
        print_table("Why it is here", ("",), [[escape(one)] for one in why])
    closing = () if case.proposal is None else case.proposal.close_lines
    rows = []
    for document in case.documents:
        due = document.erasure_due_at
        marks = [
            "suspect" if document.is_suspect else "",
            "" if due is None else f"erased by {due:%Y-%m-%d}",
        ]
        what = [document.document_id, ", ".join(filter(None, marks))]
        rows += [
            [
                *what,
                line.line_id,
                line.number or "-",
                line.status + (", will be closed" if line.line_id in closing else ""),
                escape(f"{line.carrier} {line.outlet}"),
            ]
            for line in document.lines
        ] or [[*what, "none in use", "", "", ""]]
    if rows:
        print_table(None, ("document", "", "line", "number", "status", "where"), rows)
    history = [
        [note.at.isoformat(timespec="seconds"), escape(note.actor), note.kind, escape(note.text)]
        for note in case.notes
    ]
    if history:
        print_table(None, ("at", "who", "what", ""), history)
