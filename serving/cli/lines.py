"""Lines, what happens to them, restrictions, and holders who are reported dead: `lines`, `line`,
`campaign`, `watch`, `block`, `unblock`, `blocked`, `death`."""

from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from engine.cases import deaths
from engine.cases.deaths import read_death
from engine.errors import RequestError
from engine.lifecycle import campaigns, reverification
from engine.lifecycle.campaigns import find_campaign
from engine.lifecycle.rules import Rule, RulesAbout, check_steps, load_rules
from engine.matching.checks.picture import FaceVector, fuse_frames
from engine.matching.holders import block_document as block
from engine.matching.holders import read_lines
from engine.matching.holders import watch_face as watch
from engine.matching.lines import close_line as close
from engine.matching.lines import read_line, unwatch
from engine.matching.lines import unblock_document as unblock
from engine.registry.campaigns import Campaign
from engine.registry.store import Reader
from schema.lines import CampaignLineState, LineEventKind, ReportedKind
from schema.people import DeathSource
from serving.api import people
from serving.cli import inputs
from serving.cli.inputs import DocumentOptions, argument, option
from serving.cli.output import Answer, Call, JsonFlag, Listing, columns, command, done, escape
from serving.wire.fields import of_record
from serving.wire.lines import ClosedLine
from serving.wire.oversight import BlockedDocument, WatchedEntry
from serving.wire.people import Death


@command("lines")
def list_lines(
    call: Call,
    holder: DocumentOptions,
    live: list[Path] = option(inputs.LIVE, "IMAGE", default=...),
    reveal: bool = option("Show the numbers whole, not their last digits."),
) -> Answer:
    """List the numbers under a document, to its holder's face.

    Exit code 1 where the face is not the holder's.
    """
    frames, target = inputs.list_frames(live), holder.read()
    deployment = call.deployment
    thresholds = deployment.thresholds
    samples = inputs.sample_photographs(deployment, frames)
    sample = fuse_frames(samples, thresholds.one_person)
    probe = FaceVector(inputs.require_probe(sample, frames[0]), sample.length)
    registrar = deployment.registrar
    found = read_lines(
        call.store,
        registrar.gallery,
        target,
        probe.vector,
        thresholds.of(probe.comparison).same_document,
        actor=call.actor,
        audit=registrar.audit,
    )
    answer = people.holder_lines(found, is_masked=not reveal)
    if not found.is_holder:
        shown = "no score" if answer.score is None else f"score {answer.score:.4f}"
        text = f"[red]Not the holder's face[/]: {shown}, threshold {answer.threshold:.4f}."
        return Answer(answer, text, is_no=True)
    return Answer(answer, Listing(answer.lines, "number status carrier outlet opened_at"))


@command("watch add")
def watch_face(
    call: Call,
    image: Path = argument(None, "IMAGE"),
    reason: str = option("Why: shown to those who review a hit.", default=...),
) -> Answer:
    """Put a face on the watch-list: an enrollment that meets it goes to review."""
    inputs.require_words("a reason", reason, 200)
    deployment = call.deployment
    (sample,) = inputs.sample_photographs(deployment, [image])
    probe = inputs.require_probe(sample, image)
    entry = watch(deployment.registrar, probe, reason, call.actor, sample.second)
    return done("Watching", f"this face, entry {entry}", {"watch_id": entry})


@command("watch list")
def list_watched(call: Call) -> Answer:
    """List the watch-list's entries."""
    entries = [
        of_record(
            WatchedEntry,
            entry,
            watch_id=entry.id,
            has_face=entry.template is not None,
            has_document=entry.document_lookup is not None,
        )
        for entry in call.store.watchlist()
    ]
    table = Listing(entries, "watch_id added_at reason", "The watch-list is empty.")
    return Answer({"entries": entries}, table)


@command("watch remove")
def remove_watched(
    call: Call, entry: int = argument("As `watch list` shows it.", "ID", min=1)
) -> Answer:
    """Take an entry off the watch-list; its template is deleted."""
    unwatch(call.deployment.registrar, call.store, entry, call.actor)
    removed = {"watch_id": entry, "is_watched": False}
    return done("Removed", f"entry {entry} from the watch-list", removed)


@command("block")
def block_document(call: Call, chosen: DocumentOptions) -> Answer:
    """Block a document: every attempt under it is refused."""
    document_id = block(call.deployment.registrar, call.store, chosen.read(), call.actor)
    blocked = {"document_id": document_id, "is_blocked": True}
    return done("Blocked", f"the document {document_id}", blocked)


@command("unblock")
def unblock_document(call: Call, chosen: DocumentOptions) -> Answer:
    """Lift the block of a document."""
    document_id = unblock(call.deployment.registrar, call.store, chosen.read(), call.actor)
    lifted = {"document_id": document_id, "is_blocked": False}
    return done("Unblocked", f"the document {document_id}", lifted)


@command("blocked")
def list_blocked(call: Call) -> Answer:
    """List the blocked documents."""
    blocked = [
        of_record(BlockedDocument, one, document_id=one.id, type=one.kind)
        for one in call.store.blocked_documents()
        if one.blocked_at is not None
    ]
    shown = columns("document_id type blocked_at")
    shown[""] = lambda one: "erased" if one.is_erased else ""
    return Answer({"documents": blocked}, Listing(blocked, shown, "No document is blocked."))


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
    return done("Closed", f"the line {line_id}", ClosedLine(line_id, "closed"))


@command("line report")
def report_event(
    call: Call,
    kind: ReportedKind = argument("What happened: port_out and transfer close the line."),
    line: str = LINE_ARGUMENT,
    at: str = option("When, as 2026-07-01T09:30:00+07:00.", "TIME", default=...),
) -> Answer:
    """Report what happened to a line in use; what the carrier's rules say to it is done."""
    made = reverification.report_event(
        call.deployment.registrar,
        call.store,
        call.deployment.line_rules,
        line_text=line,
        kind=LineEventKind(kind),
        at=inputs.read_moment(at),
        actor=call.actor,
    )
    noted = people.line_event(made, is_tenant=False)
    return done("Noted", f"{kind} of the line {made.line_id}", noted)


@command("line show")
def show_line(call: Call, line: str = LINE_ARGUMENT) -> Answer:
    """Show what happened to a line, and what it waits for; audited."""
    found = read_line(call.store, line)
    shown = people.line_history(call.store, found, is_tenant=False)
    call.note("line.read", found.id)
    waiting = [
        f"waits for its holder ({escape(one.rule)})"
        + ("" if one.next_step_at is None else f", {one.next_state} at {one.next_step_at}")
        for one in shown.waiting
    ]
    table = Listing(shown.events, "at kind cause by")
    return Answer(shown, f"{shown.line_id}: [bold]{shown.status}[/]", *waiting, table)


@command("line rules")
def check_rules(
    name: str = argument("A built-in set, or a TOML file.", "NAME"), as_json: JsonFlag = False
) -> None:
    """Check rules of lines, and show what they do. Without a fault the exit code is 0."""
    found = load_rules(name)
    rules = tuple(found.rules.values())
    answer = {
        **{name: getattr(found, name) for name in RulesAbout.__struct_fields__},
        "rules": [
            {
                "name": rule.name,
                "on": rule.on.value,
                "at_once": rule.at_once,
                "unless_proof": rule.unless_proof,
                "steps": [{"after_s": seconds, "state": state} for seconds, state in rule.steps],
            }
            for rule in rules
        ],
    }
    Answer(
        answer,
        f"[bold]{escape(found.title)}[/]: {found.tell_limits(found.person_limit)}",
        "Nothing of a face is kept" if found.keep_faces == "none" else "",
        f"Other ways: {', '.join(found.proofs)}" if found.proofs else "",
        f"Tries of a face: {found.face_tries}" if found.face_tries else "",
        found.source and f"Source: {escape(found.source)}",
        f"Read on {found.checked_on}" if found.checked_on else "",
        found.note and f"Note: {escape(found.note)}",
        Listing(rules, {"rule": "name", "on": "on", "steps": _tell_steps}),
    ).print(as_json=as_json)


def _tell_steps(rule: Rule) -> str:
    steps = [f"not by a {rule.unless_proof} proof"] if rule.unless_proof else []
    steps += [] if rule.at_once is None else [f"at once: {rule.at_once}"]
    for seconds, state in rule.steps:
        days, rest = divmod(seconds, 86_400)
        steps.append(f"{f'{seconds / 3600:g} h' if rest else f'{days} d'}: {state}")
    return ", then ".join(steps)


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
    opened = opened_before and inputs.read_moment(opened_before).isoformat()
    given = {"outlet": outlet, "opened_before": opened}
    store, rules = call.store, call.deployment.line_rules
    runner = call.deployment.registrar
    terms = campaigns.CampaignTerms(
        carrier=carrier,
        name=name,
        deadline=inputs.read_moment(deadline),
        steps=() if then is None else check_steps([(0, then)], "the campaign"),
        chosen=None if file else {key: value for key, value in given.items() if value is not None},
    )
    made = campaigns.start_campaign(runner, store, terms, call.actor)
    unknown = 0
    for start in range(0, len(lines), campaigns.MOST_NAMED):
        part = lines[start : start + campaigns.MOST_NAMED]
        _, missing = campaigns.add_lines(runner, store, rules, made.id, part, call.actor)
        unknown += len(missing)
    while campaigns.fill_campaigns(runner, store, rules):
        pass
    answer = _describe(store, made) | {"unknown": unknown}
    text = f"{made.id}: {answer['asked']:,} lines, {unknown:,} unknown"
    return done("Started", text, answer)


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


def _describe(store: Reader, campaign: Campaign) -> dict[str, Any]:
    shown = asdict(people.campaign(store, campaign))
    return shown | asdict(shown.pop("progress"))


@command("campaign end")
def end_campaign(
    call: Call, campaign: str = argument("As `campaign list` shows it.", "ID")
) -> Answer:
    """End a campaign before its deadline: nobody else is asked for, and who was stays so."""
    registrar = call.deployment.registrar
    ended = campaigns.end_campaign(registrar, call.store, campaign, call.actor)
    answer = _describe(call.store, ended)
    return done("Ended", f"{ended.id}: {answer['asked']:,} lines stay asked for", answer)


@command("campaign list")
def list_campaigns(call: Call) -> Answer:
    """List the newest campaigns, and how far they are."""
    found = [_describe(call.store, one) for one in call.store.life.campaigns(None)]
    names = "campaign_id name carrier deadline asked verified overdue left state"
    return Answer({"campaigns": found}, Listing(found, names, "There is no campaign."))


@command("campaign overdue")
def list_overdue(
    call: Call, campaign: str = argument("As `campaign list` shows it.", "ID")
) -> Answer:
    """List the lines of a campaign whose holders did not come in time, by id."""
    found: list[str] = []
    known = find_campaign(call.store, campaign, None)
    overdue = partial(call.store.life.list_lines, known.id, CampaignLineState.OVERDUE)
    while page := overdue(found[-1] if found else "", 1_000):
        found += [row.line_id for row in page]
    return Answer({"lines": found}, Listing(found, {"line": str}, "No line is overdue."))


DOCUMENT_ID = argument("The document's id.", "DOCUMENT")


@command("death show")
def show_death(call: Call, document: str = DOCUMENT_ID) -> Answer:
    """Show what is reported of a document's holder."""
    found = read_death(call.store, document)
    since = f"{found.state.capitalize()} since {found.reported_at.isoformat(timespec='minutes')}."
    return Answer(of_record(Death, found), since)


@command("death report")
def report_death(
    call: Call,
    document: str = DOCUMENT_ID,
    source: DeathSource = option("Where it comes from.", default=...),
) -> Answer:
    """Report a document's holder dead, at once; one person may.

    The document enrolls nobody any more, its lines are disputed, its face is still searched.
    """
    return _step_death(call, "report", document, source)


@command("death confirm")
def confirm_death(call: Call, document: str = DOCUMENT_ID) -> Answer:
    """Confirm what another person has reported: the lines are closed."""
    return _step_death(call, "confirm", document)


@command("death contest")
def contest_death(call: Call, document: str = DOCUMENT_ID) -> Answer:
    """Say that a report is wrong; it holds until another person lifts it."""
    return _step_death(call, "contest", document)


@command("death lift")
def lift_death(call: Call, document: str = DOCUMENT_ID) -> Answer:
    """Lift a report that another person has contested: its disputed lines are active again."""
    return _step_death(call, "lift", document)


def _step_death(call: Call, name: str, document: str, *given: object) -> Answer:
    """Takes the step of this name in `engine.cases.deaths`."""
    take = getattr(deaths, name)
    found = take(call.deployment.registrar, call.store, document, *given, call.person)
    text = f"[green]{found.state.capitalize()}[/]: the holder of {escape(document)}."
    return Answer(of_record(Death, found), text)
