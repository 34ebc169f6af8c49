"""Cases of the fraud team: `cases` lists them, `case` shows one and takes its steps."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import typer

from engine.cases import steps
from engine.cases.decided import DecisionReader
from engine.errors import NotFound, RegistryError, SosieError, SweepOver
from engine.formatting import percent, plural
from engine.registry.database import utc_now
from engine.registry.queues import CaseFilter
from schema import frozen
from schema.cases import CaseSort, CaseState, Outcome
from serving.api import people, serializers
from serving.cli.inputs import argument, option, read_moment, require_place, writing
from serving.cli.output import Answer, Call, Facts, Listing, columns, command, escape, next_page
from serving.deployment.deployment import Deployment
from serving.sweeps.sweep_views import SweepViews, describe_terms
from serving.wire.cases import CaseCounts, CaseFile, CaseProposal, ListedCase
from serving.wire.fields import plain
from serving.wire.sweeps import CaseOutcomes, PrecisionRate, ProposedThreshold

ME = "me"

CASE_ID = argument("The case's id.", "ID")
CASE_IDS = argument("The ids of cases.", "ID...")


@frozen
class EndingOptions:
    """What a case ends with."""

    outcome: Outcome = option("What was found.", default=...)
    seen_at: list[str] = option(
        "As `case show` has updated_at, once for each case; refused where it has changed since.",
        "MOMENT",
        default=...,
    )
    close_line: list[str] | None = option("A line to close, by its id; repeat it.", "LINE")
    keep_lines: bool = option(
        "Say that the lines which are not to be closed stay in use, as fraud must."
    )


@command("case show")
def show_case(call: Call, case_id: str = CASE_ID) -> Answer:
    """Show a case with its documents, their lines in use, and its history; audited.

    Numbers show their last digits.
    """
    case = serializers.case_file(call.store, case_id)
    call.note("case.read", case.case_id, {"documents": list(case.document_ids)})
    why = [] if call.as_json else _tell_why(call.deployment, case)
    listed = ("document_ids", "documents", "notes", "merged", "decided", "closed_lines")
    facts = {
        name.replace("_", " "): value
        for name, value in plain(case).items()
        if value not in ([], ()) and name not in ("case_id", "kind", *listed)
    }
    if case.proposal is not None:
        facts["proposal"] = _describe_proposed(case, case.proposal)
    return Answer(
        case,
        Facts(f"[bold]{escape(case.kind)}[/]  case {case.case_id}", facts),
        Listing(why, {"": escape}, title="Why it is here"),
        Listing(_list_lines(case), ("document", "", "line", "number", "status", "where")),
        Listing(
            case.closed_lines, "line_id number carrier outlet", title="Closed by its decisions"
        ),
        Listing(case.decided, "left right outcome score case_id", title="Decided before"),
        Listing(case.merged, "case_id kind origin enrollment_id score opened_at", title="Merged"),
        Listing(case.notes, "at actor kind text"),
    )


def _tell_why(deployment: Deployment, case: CaseFile) -> list[str]:
    """The terms of its group, where the sweep's files are still there."""
    if case.sweep_id is None or case.group_key is None:
        return []
    try:
        group = SweepViews.of(deployment).group(case.sweep_id, case.group_key)
    except (NotFound, RegistryError, SweepOver):
        return ["the sweep's files, which tell it, are no longer there"]
    return describe_terms(group)


def _describe_proposed(case: CaseFile, proposal: CaseProposal) -> str:
    """Describes what another person approves: how many numbers close by it, of all that it could
    close."""
    text = f"{proposal.outcome} by {proposal.by}"
    if case.outcome is not None:
        asker = proposal.reopen_by
        return text if asker is None else f"{text}; {asker} asks to open it again: case reopen"
    in_use = sum(len(document.lines) for document in case.documents)
    text += f": {len(proposal.close_lines)} of {in_use} numbers will be closed"
    return text + (", the others stay (--keep-lines)" if proposal.keep_lines else "")


def _list_lines(case: CaseFile) -> list[tuple[str, ...]]:
    closing = () if case.proposal is None else case.proposal.close_lines
    rows: list[tuple[str, ...]] = []
    for document in case.documents:
        due = document.erasure_due_at
        marks = ["suspect"] * document.is_suspect
        marks += [] if due is None else [f"erased by {due:%Y-%m-%d}"]
        what = document.document_id, ", ".join(marks)
        rows += [
            (
                *what,
                line.line_id,
                line.number or "-",
                line.status + (", will be closed" if line.line_id in closing else ""),
                escape(f"{line.carrier} {line.outlet}"),
            )
            for line in document.lines
        ] or [(*what, "none in use", "", "", "")]
    return rows


@command("case assign")
def assign_cases(
    call: Call,
    case_ids: list[str] = CASE_IDS,
    to: str | None = option("As histories name people.", "PERSON", show_default=ME),
    back: bool = option("Give it back to the queue."),
) -> Answer:
    """Give cases to a person, or back to the queue; of several each is answered for itself."""
    if back and to is not None:
        raise typer.BadParameter("give --to or --back, not both")
    assignee = None if back else call.person.person if (to or ME) == ME else to
    return _step_each(case_ids, lambda one: _step(call, one, "assign", assignee))


@command("case note")
def note_case(
    call: Call,
    case_id: str = CASE_ID,
    text: str = argument("The remark; - reads standard input.", "TEXT"),
) -> Answer:
    """Add a remark to the history of a case; it is sealed in the registry."""
    remark = sys.stdin.read(64 * 1024).strip() if text == "-" else text
    return _step(call, case_id, "note", remark)


@command("case propose")
def propose_outcome(call: Call, ending: EndingOptions, case_ids: list[str] = CASE_IDS) -> Answer:
    """Propose an outcome, and the lines to be closed by it, for another person to decide.

    Fraud whose documents have numbers in use names those to close, or says --keep-lines. Of several
    cases each is proposed, or refused, for itself.
    """
    return _end(call, case_ids, "propose", ending)


@command("case withdraw")
def withdraw_proposal(call: Call, case_id: str = CASE_ID) -> Answer:
    """Take the proposal back."""
    return _step(call, case_id, "withdraw")


@command("case close")
def close_case(call: Call, ending: EndingOptions, case_ids: list[str] = CASE_IDS) -> Answer:
    """Close a case, or several, each for itself.

    It takes two people: another must have proposed the same outcome and lines; `case show` says how
    many of its numbers will be closed. One may say that a dispute is unfounded. Fraud puts the
    faces on the watch-list; twins and mistakes are exceptions for later sweeps; after an unfounded
    dispute its lines are active again, and an exception that is closed so is granted.
    """
    return _end(call, case_ids, "close", ending)


def _end(call: Call, case_ids: list[str], name: str, ending: EndingOptions) -> Answer:
    if len(case_ids) != len(ending.seen_at):
        raise typer.BadParameter("give --seen-at once for each case, in their order")
    moments = [read_moment(one, "--seen-at") for one in ending.seen_at]
    seen = dict(zip(case_ids, moments, strict=True))
    given, more = (ending.outcome, ending.close_line or ()), {"keep_lines": ending.keep_lines}
    return _step_each(
        case_ids, lambda one: _step(call, one, name, *given, seen_at=seen[one], **more)
    )


def _step_each(case_ids: list[str], take: Callable[[str], Answer]) -> Answer:
    """Takes the step of each case; of several a refusal is told, and the others go on."""
    if len(case_ids) == 1:
        return take(case_ids[0])
    answers, refused = [], 0
    for case_id in case_ids:
        try:
            answers.append(take(case_id))
        except SosieError as error:
            refused, told = refused + 1, {"case_id": case_id, "error": str(error)}
            answers.append(Answer(told, f"[red]Refused[/]: case {case_id}: {escape(str(error))}"))
    parts = [part for one in answers for part in one.parts]
    left = f"{refused} of {len(case_ids)} cases were refused: read them again." if refused else ""
    return Answer({"cases": [one.value for one in answers]}, *parts, left, is_no=bool(refused))


def _step(call: Call, case_id: str, name: str, *given: object, **more: object) -> Answer:
    """Takes the step of this name in `engine.cases.steps`."""
    take = getattr(steps, name)
    case = take(call.deployment.registrar, call.store, case_id, *given, call.person, **more)
    found = "" if case.outcome is None else f", {case.outcome.value}"
    whose = "" if case.assignee is None else f", {escape(case.assignee)}'s"
    text = f"[green]{case.state.value.capitalize()}[/]: case {case.id}{found}{whose}."
    if case.state is CaseState.CLOSED:
        text += _finish_erasures(call.deployment, call.actor)
    return Answer(people.case(case), text)


def _finish_erasures(deployment: Deployment, actor: str) -> str:
    """Does the erasures that waited for a case; the case is closed whether or not they fail."""
    try:
        done = deployment.finish_erasures(actor)
    except SosieError as error:
        return f"\n[yellow]An erasure still waits[/]: {escape(str(error))}. See sosie erasures."
    return "".join(
        f"\n[green]Erased[/] the document {one.document_id}, which waited for it." for one in done
    )


@command("case reopen")
def reopen_case(
    call: Call,
    case_id: str = CASE_ID,
    reason: str = option("Why; the history of the case shows it.", "TEXT", default=...),
    seen_at: str = option(
        "The case's updated_at, as shown; refused where it has changed since.",
        "MOMENT",
        default=...,
    ),
) -> Answer:
    """Ask that a closed case be opened again; by another person than who has asked, open it.

    Exceptions of its decision end, and so do watched faces. Numbers that it closed stay closed:
    who needs one enrolls again. `sosie case withdraw` takes it back.
    """
    _step(call, case_id, "reopen", reason, seen_at=read_moment(seen_at, "--seen-at"))
    return show_case(call, case_id)


@command("case report")
def report_case(
    call: Call,
    case_id: str = CASE_ID,
    file: Path = argument("Where the page goes.", "FILE"),
    faces: bool = option("With the faces that are kept, side by side."),
    reveal: bool = option("Show names and numbers in full, not masked."),
    carrier: str | None = option("Leave out what this carrier may not see.", "CODE"),
) -> Answer:
    """Write a case as one HTML page for police or a regulator; audited.

    With its scores in words, its history and its entries of the audit chain, which `sosie audit
    verify --anchor FILE` compares. No retention reaches the file: it is yours to delete.
    """
    from indexes.atomic_files import replacing
    from serving.case_report import ReportTerms, gather_case, write_case

    require_place(file)
    terms = ReportTerms(has_faces=faces, is_revealed=reveal, carrier=carrier)
    found = gather_case(call.store, call.deployment.calibration, case_id, terms)
    call.note("case.reported", case_id, found.describe(), len(found.documents) if reveal else 0)
    report = write_case(found, call.store)
    with writing(file, "a report"), replacing(file) as beside:
        beside.write_bytes(report.html)
    counted = ("faces", "documents", "left_out", "audit_entries")
    answer = {"report": str(file), **{name: getattr(report, name) for name in counted}}
    no_room = f"There was no room for {report.left_out:,} documents of the case."
    no_face = "No face is kept of these people (\\[crops] keep in sosie.toml): it shows none."
    return Answer(
        answer,
        f"  {escape(str(file))}",
        no_room if report.left_out else "",
        no_face if faces and not report.faces else "",
    )


@command("precision")
def show_precision(
    call: Call,
    sweep: str | None = option("Of this sweep's pairs and cases alone.", "ID"),
    wanted: float = option(
        "The precision that a threshold is proposed for.", default=0.8, min=0.01, max=0.99
    ),
) -> Answer:
    """Show how often people found fraud: by threshold, kind and month; and what that proposes.

    The threshold for the next sweep is the lowest, at a hundredth, at which at least so much of the
    pairs were fraud, with 95 % confidence.
    """
    if sweep is not None:
        call.store.sweeps.get(sweep)
    found = serializers.sweep_precision(DecisionReader(call.store).read(), sweep, wanted)
    pairs = columns("judged cases", fraud=_rate)
    pairs = {"from score": lambda one: f"{one.threshold:.2f}", **pairs}
    counted = columns("cases fraud twins mistake unfounded", fraud_of_all=_rate)
    kinds = {"": lambda one: escape(one.name.replace("_", " ")), **counted}
    return Answer(
        found,
        Listing(found.thresholds, pairs, title="Pairs of sweeps"),
        Listing(found.kinds, kinds, title="Closed cases by kind"),
        Listing(found.months, kinds, title="by month"),
        _describe_proposal(found.proposal),
    )


def _rate(one: PrecisionRate | CaseOutcomes) -> str:
    if one.precision is None or one.low is None or one.high is None:
        return "-"
    return f"{percent(one.precision)} ({percent(one.low)} to {percent(one.high)})"


def _describe_proposal(proposal: ProposedThreshold) -> str:
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
State = Literal["alive", "all", "fraud_in_use", "open", "assigned", "proposed", "closed", "merged"]


@frozen
class QueueOptions:
    """The cases that are listed."""

    state: State = option("Only with a case in this state.", default="alive")
    kind: str | None = option("Only with a case of this kind.")
    assignee: str | None = option(f"Of whose case; {ME}: yours.", "PERSON")
    id_end: str | None = option("Its id, or one that it names, ends so.", "END", "--id")
    overdue: bool = option("Only with a case that is overdue.")
    to_approve: bool = option("Only with a case whose outcome another person has proposed.")

    def read(self, call: Call, **more: Any) -> CaseFilter:
        mine = _names(call)
        return CaseFilter(
            **serializers.read_state(None if self.state == "all" else self.state),
            kind=self.kind,
            assignees=mine if self.assignee == ME else (self.assignee,) if self.assignee else (),
            overdue_at=utc_now() if self.overdue else None,
            to_approve_by=mine if self.to_approve else (),
            **more,
        )


def _names(call: Call) -> tuple[str, str]:
    # Older cases name the account as the audit chain does.
    return call.person.person, call.actor


@command("cases")
def list_cases(
    call: Call,
    chosen: QueueOptions,
    carrier: list[str] | None = option("Only with lines of this carrier; repeat it."),
    outlet: list[str] | None = option("Only with lines of this outlet; repeat it."),
    sort: CaseSort = option("What comes first.", default=CaseSort.RISK),
    limit: int = option("How many to list at most.", default=100, min=1, max=MOST_CASES),
    after: str | None = option("Go on below this case.", "ID"),
) -> Answer:
    """List cases, those of the highest risk first; audited.

    Those that are not decided, if nothing else is asked. Names show their first letters, numbers
    their last digits.
    """
    wanted = chosen.read(call, carriers=carrier or (), outlets=outlet or (), id_end=chosen.id_end)
    terms = (wanted, sort, call.deployment.settings.cases, limit, after)
    page = serializers.queue_page(call.store, *terms, _names(call))
    call.note("cases.read", "queue", {"cases": [one.case_id for one in page.cases]})
    is_all = wanted == CaseFilter(**serializers.read_state("alive"))
    warning = ""
    if page.fraud_in_use and chosen.state != "fraud_in_use":
        warning = (
            "[yellow]Decided as fraud[/], with numbers in use: "
            f"{plural(page.fraud_in_use, 'case')}: sosie cases --state fraud_in_use"
        )
    now = utc_now()
    shown = columns(
        "case_id",
        risk=lambda one: f"{one.risk:.0f}",
        kind="kind",
        who=_name_holders,
        documents=lambda one: len(one.document_ids),
        lines=_count_lines,
        where="outlets",
        scores=_describe_scores,
        state=lambda one: one.state + (f", {escape(one.assignee)}" if one.assignee else ""),
        age=lambda one: f"{(now - one.opened_at).days} d",
        due=_describe_due,
    )
    table = Listing(page.cases, shown, "No case is open." if is_all else "No such case.")
    return Answer(page, warning, table, _describe_waiting(page.waiting), next_page(page.next))


def _describe_waiting(waiting: CaseCounts | None) -> str:
    """The queue in a line; nothing on later pages, or where nothing waits."""
    if waiting is None or not waiting.kinds:
        return ""
    kinds = ", ".join(f"{escape(kind)} {found:,}" for kind, found in sorted(waiting.kinds.items()))
    return (
        f"To be decided: {sum(waiting.kinds.values()):,} ({kinds}); {waiting.overdue:,} overdue, "
        f"{waiting.mine:,} yours, {waiting.to_approve:,} for you to approve."
    )


def _name_holders(one: ListedCase) -> str:
    who = [" ".join(part for part in (person.name, person.number) if part) for person in one.people]
    more = len(one.document_ids) - len(who)
    return escape("; ".join(who) + (f" + {more}" if more > 0 else ""))


def _describe_scores(one: ListedCase) -> str:
    scores = [f"{value:.3f}" for value in (one.score, one.weakest) if value is not None]
    return " to ".join(dict.fromkeys(scores)) or "-"


def _describe_due(one: ListedCase) -> str:
    due = "-" if one.due_at is None else one.due_at.date().isoformat()
    due = f"[red]{due} overdue[/]" if one.is_overdue else due
    if one.erasure_due_at is not None:
        due += f"; erased by {one.erasure_due_at.date().isoformat()}"
    return due


def _count_lines(one: ListedCase) -> str:
    if not one.fraud_lines:
        return str(one.lines)
    stays = ", said to stay" if one.proposal is not None and one.proposal.keep_lines else ""
    return f"{one.lines}, [red]{one.fraud_lines} of fraud[/]{stays}"
