"""What happens to lines, and campaigns: `line report`, `line show`, `line rules`, `campaign`."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path

from engine.errors import RequestError
from engine.lifecycle import campaigns, reverification
from engine.lifecycle.campaigns import find_campaign
from engine.lifecycle.rules import check_steps, load_rules
from engine.matching.lines import close_line as close
from engine.matching.lines import read_line
from engine.registry.campaigns import Campaign
from engine.registry.store import Reader
from schema.lines import CampaignLineState, LineEventKind, ReportedKind
from serving.api import serializers
from serving.cli import inputs
from serving.cli.inputs import argument, option
from serving.cli.output import Answer, Call, Cell, JsonFlag, Listing, command, escape
from serving.wire.lines import ClosedLine

LINE_ARGUMENT = argument("Its number, or its id.", "LINE")
MOST_BYTES = 64 * 2**20


@command("line close")
def close_line(
    call: Call,
    msisdn: str | None = inputs.MSISDN_OPTION,
    document: str | None = inputs.DOCUMENT_OPTION,
) -> Answer:
    """Close the line that a number is on: the number may be given to another person."""
    number = inputs.read_details(document, msisdn=msisdn).require("msisdn", "--msisdn")
    line_id = close(call.deployment.registrar, call.store, number, call.actor)
    return Answer(ClosedLine(line_id, "closed"), f"[green]Closed[/] the line {line_id}.")


@command("line report")
def report_event(
    call: Call,
    kind: str = argument(
        "sim_swap, device_change, port_in, port_out, transfer or esim_download; port_out and "
        "transfer close the line.",
        "KIND",
    ),
    line: str = LINE_ARGUMENT,
    at: str = option("When, as 2026-07-01T09:30:00+07:00.", "TIME", default=...),
) -> Answer:
    """Report what happened to a line in use; what the carrier's rules say to it is done."""
    if kind not in list(ReportedKind):
        raise RequestError(f"{kind[:40]} is not reported: take {', '.join(ReportedKind)}")
    moment = inputs.read_moment(at)
    made = reverification.report_event(
        call.deployment.registrar,
        call.store,
        call.deployment.line_rules,
        line_text=line,
        kind=LineEventKind(kind),
        at=moment,
        actor=call.actor,
    )
    text = f"[green]Noted[/] {kind} of the line {made.line_id}."
    return Answer(serializers.line_event(made, is_tenant=False), text)


@command("line show")
def show_line(call: Call, line: str = LINE_ARGUMENT) -> Answer:
    """Show what happened to a line, and what it waits for; audited."""
    found = read_line(call.store, line)
    shown = serializers.line_history(call.store, found, is_tenant=False)
    call.note("line.read", found.id)
    waiting = [
        f"waits for its holder ({escape(one.rule)})"
        + ("" if one.next_step_at is None else f", {one.next_state} at {one.next_step_at}")
        for one in shown.waiting
    ]
    events: dict[str, Cell] = {
        "at": lambda one: one.at.isoformat(),
        "event": "kind",
        "cause": lambda one: escape(one.cause or ""),
        "by": lambda one: one.by,
    }
    table = Listing(shown.events, events)
    return Answer(shown, f"{shown.line_id}: [bold]{shown.status}[/]", *waiting, table)


@command("line rules")
def check_rules(
    name: str = argument("A built-in set, or a TOML file.", "NAME"), as_json: JsonFlag = False
) -> None:
    """Check rules of lines, and show what they do. Without a fault the exit code is 0."""
    found = load_rules(name)
    answer = {
        "title": found.title,
        "source": found.source,
        "note": found.note,
        "person_limit": found.person_limit,
        "rules": [
            {
                "name": rule.name,
                "on": rule.on.value,
                "at_once": rule.at_once,
                "steps": [{"after_s": seconds, "state": state} for seconds, state in rule.steps],
            }
            for rule in found.rules.values()
        ],
    }

    rows = [
        (
            escape(rule.name),
            rule.on.value,
            ", then ".join(
                [
                    *([] if rule.at_once is None else [f"at once: {rule.at_once}"]),
                    *(f"{_write(seconds)}: {state}" for seconds, state in rule.steps),
                ]
            ),
        )
        for rule in found.rules.values()
    ]
    Answer(
        answer,
        f"[bold]{escape(found.title)}[/]: {found.person_limit or 'any number of'} lines a person",
        found.source and f"Source: {escape(found.source)}",
        found.note and f"Note: {escape(found.note)}",
        Listing(rows, ("rule", "on", "steps")),
    ).print(as_json=as_json)


def _write(seconds: int) -> str:
    days, rest = divmod(seconds, 86_400)
    return f"{seconds / 3600:g} h" if rest else f"{days} d"


@command("campaign start")
def start_campaign(
    call: Call,
    name: str = argument("For people.", "NAME"),
    carrier: str = option("Whose lines.", default=...),
    deadline: str = option("At least an hour away.", "TIME", default=...),
    file: Path | None = option("Numbers or ids of lines, one a line.", "FILE"),
    outlet: str | None = option("Instead: lines opened there."),
    opened_before: str | None = option("Instead: lines opened before.", "TIME"),
    then: str | None = option("What the overdue are, if anything.", "STATE"),
) -> Answer:
    """Start a campaign over the lines of a file, or of an outlet, or all of a carrier.

    What is no line in use of the carrier is counted, and the others are added.
    """
    if file is not None and (outlet or opened_before):
        raise RequestError("give a file, or what the lines have in common, not both")
    lines = [] if file is None else _read_lines(file)
    chosen = None
    if file is None:
        chosen = {} if outlet is None else {"outlet": outlet}
        if opened_before is not None:
            chosen["opened_before"] = inputs.read_moment(opened_before).isoformat()
    steps = () if then is None else check_steps([(0, then)], "the campaign")
    store, rules = call.store, call.deployment.line_rules
    runner = call.deployment.registrar
    made = campaigns.start_campaign(
        runner,
        store,
        carrier=carrier,
        name=name,
        deadline=inputs.read_moment(deadline),
        steps=steps,
        chosen=chosen,
        actor=call.actor,
    )
    unknown = 0
    for start in range(0, len(lines), campaigns.MOST_NAMED):
        part = lines[start : start + campaigns.MOST_NAMED]
        _, missing = campaigns.add_lines(runner, store, rules, made.id, part, call.actor)
        unknown += len(missing)
    while campaigns.fill_campaigns(runner, store, rules):
        pass
    answer = _describe(store, made) | {"unknown": unknown}
    text = f"[green]Started[/] {made.id}: {answer['asked']:,} lines, {unknown:,} unknown."
    return Answer(answer, text)


def _read_lines(file: Path) -> list[str]:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise RequestError(f"{file} is larger than 64 MiB: split it")
        texts = [line.strip() for line in file.read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        raise RequestError(f"{file} cannot be read as text in UTF-8") from None
    found = [text for text in texts if text]
    if not found:
        raise RequestError(f"{file} has no lines")
    return found


def _describe(store: Reader, campaign: Campaign) -> dict[str, object]:
    counts = {state.value: lines for state, lines in store.life.count_lines(campaign.id).items()}
    return {
        "campaign_id": campaign.id,
        "name": campaign.name,
        "carrier": campaign.carrier,
        "deadline": campaign.deadline.isoformat(),
        **counts,
        "state": campaign.state.value,
    }


@command("campaign end")
def end_campaign(
    call: Call, campaign: str = argument("As `campaign list` shows it.", "ID")
) -> Answer:
    """End a campaign before its deadline: nobody else is asked for, and who was stays so."""
    registrar = call.deployment.registrar
    ended = campaigns.end_campaign(registrar, call.store, campaign, call.actor)
    answer = _describe(call.store, ended)
    text = f"[green]Ended[/] {ended.id}: {answer['asked']:,} lines stay asked for."
    return Answer(answer, text)


@command("campaign list")
def list_campaigns(call: Call) -> Answer:
    """List the newest campaigns, and how far they are."""
    found = [_describe(call.store, one) for one in call.store.life.campaigns(None)]
    names = "campaign_id name carrier deadline asked verified overdue left state"
    shown: dict[str, Cell] = {name.removesuffix("_id"): itemgetter(name) for name in names.split()}
    return Answer({"campaigns": found}, Listing(found, shown, "There is no campaign."))


@command("campaign overdue")
def list_overdue(
    call: Call, campaign: str = argument("As `campaign list` shows it.", "ID")
) -> Answer:
    """List the lines of a campaign whose holders did not come in time, by id."""
    found: list[str] = []
    life = call.store.life
    known = find_campaign(call.store, campaign, None)
    after = ""
    while page := life.list_lines(known.id, CampaignLineState.OVERDUE, after, 1_000):
        found += [row.line_id for row in page]
        after = found[-1]
    return Answer({"lines": found}, Listing(found, {"line": str}, "No line is overdue."))
