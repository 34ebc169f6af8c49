"""What is kept of people: `retention show`, `retention run`, one person's part of it, `subject
export`, `subject decision`, and what a regulator asks for, `statutory people`, `statutory outlets`,
`statutory enrollments` and `statutory papers`."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import structs

from engine.formatting import number, percent, plural, span
from engine.lifecycle.reverification import carry_out
from engine.matching.calibration import Rate
from engine.matching.documents import require_unnamed
from engine.matching.holders import find_holder
from engine.registry.audit import newest_of
from engine.registry.database import utc_now
from engine.registry.subjects import gather_subject
from engine.retention.job import (
    DirectRunner,
    RetentionCertificate,
    find_clock_fault,
    find_days,
    find_until,
    preview,
    run_retention,
)
from engine.retention.job import confirm_clock as confirm
from indexes.atomic_files import created, replacing
from schema.actors import Role
from schema.decisions import Comparison
from schema.phases import CropScope, Retained
from serving.access.authorization import Principal
from serving.api import serializers
from serving.cli import inputs
from serving.cli.inputs import argument, option
from serving.cli.output import (
    Answer,
    Call,
    Cell,
    Facts,
    Listing,
    columns,
    command,
    escape,
    print_json,
    print_line,
)
from serving.deployment.deployment import Deployment
from serving.deployment.models import embedder_card
from serving.jobs.periodic import (
    PERSONS_REACHED,
    ClockWatch,
    expire_faces,
    retire_sweeps,
    write_certificate,
)

WORDS = json.loads((Path(__file__).parents[1] / "templates" / "subject.json").read_text("utf-8"))[
    "en"
]


@command("retention show")
def show_due(call: Call) -> Answer:
    """Show how long each kind of data is kept, and how much is due now.

    Changes nothing, and runs beside a writer.
    """
    return _describe_due(call)


@command("retention run")
def run_now(
    call: Call,
    dry_run: bool = option("Only show what is due, as `show` does."),
    certificate: Path | None = inputs.CERTIFICATE_OPTION,
) -> Answer | None:
    """Delete data whose retention period is over, and do what is due of lines by their rules.

    It cannot be undone. It may be interrupted at any point: the next run goes on. A running
    service does this itself, daily; steps of lines within seconds.
    """
    inputs.require_place(certificate)
    if dry_run:
        return _describe_due(call)
    watch = ClockWatch.of(call.deployment)
    made = _run(call, now := watch.check())
    erased = call.deployment.finish_erasures(call.actor, watch.check)
    faces = expire_faces(call.deployment, call.actor, now)
    told = (len(erased), "documents that waited for cases"), (len(faces), WORDS["kept.faces"])
    for count, what in told:
        if count and not call.as_json:
            print_line(f"[green]Erased[/]: {count:,} {what}.")
    values = write_certificate(made)
    call.print(_tell_result(made, values))
    fallback = f"the certificate is entry {made.audit_number} of the audit chain"
    inputs.save_certificate(certificate, values, "done", fallback)
    return None


@command("retention confirm-clock")
def confirm_clock(
    call: Call, day: str = argument("Today's date (UTC), not read from this machine.", "DAY")
) -> Answer:
    """Put on record that this machine's clock is right, also while a service runs.

    Retention deletes nothing where nothing was recorded for more than 7 days, or where the clock
    was set: after a long pause of the whole service that is no fault.
    """
    confirm(call.store, inputs.read_date(day, "day"), utc_now(), call.actor)
    return Answer({"today": day}, "[green]Confirmed[/]: the clock is right.")


def _run(call: Call, now: datetime) -> RetentionCertificate:
    deployment = call.deployment
    schedule = deployment.settings.retention
    runner = DirectRunner(deployment.writer)
    lines = (runner, deployment.store, deployment.line_rules)
    steps = sum(iter(lambda: carry_out(*lines, now=now), 0))
    if steps and not call.as_json:
        print_line(f"[green]Done[/]: {steps:,} steps of lines that were due.")
    due = sum(one.rows for one in preview(deployment.store, schedule, now).values())
    with call.progress("leaving") as report:

        def count(left: int) -> None:
            report(left, max(left, due))

        made = run_retention(runner, schedule, call.actor, now=now, report=count)
    retire_sweeps(deployment, runner, call.actor, now)
    return made


def _tell_result(made: RetentionCertificate, values: Mapping[str, Any]) -> Answer:
    held = _list(made.held)
    facts = {name: values[name] for name in ("job_id", "ran_at", "audit_number")}
    return Answer(
        values,
        "[green]Left[/]: " + (_list(made.left) or "nothing") + ".",
        held and f"Held by open cases: {held}.",
        Facts("Certificate:", {**facts, "audit_hash": made.audit_hash}),
    )


def _describe_due(call: Call) -> Answer:
    now, deployment = utc_now(), call.deployment
    fault = find_clock_fault(deployment.store, now)
    schedule = deployment.settings.retention
    until = find_until(schedule, now)
    due = preview(deployment.store, schedule, now)
    crops = deployment.settings.crops
    step_at = deployment.store.life.next_step_at()
    answer = {
        "until": until,
        "due": {kind: one.rows for kind, one in due.items()},
        "held": {kind: one.held for kind, one in due.items()},
        "crops": {"keep": crops.keep, "days": crops.days, "hold_days": crops.hold_days},
        "daily_at": schedule.daily_at or None,
        "line_step_at": step_at,
        "clock_fault": fault,
    }
    kept = find_days(schedule) | {Retained.CROPS: crops.days}
    shown: dict[str, Cell] = {
        "what": lambda kind: WORDS[f"kept.{kind}"],
        "kept": lambda kind: f"{kept[kind]} days" if kind in kept else "for good",
        "due": lambda kind: f"{due[kind].rows:,}" if kind in due else "-",
        "held by cases": lambda kind: f"{due[kind].held:,}" if kind in due else "-",
    }
    steps_due = refused = ""
    if step_at is not None and step_at <= now:
        steps_due = f"Steps of lines are due since {step_at.isoformat(timespec='minutes')}."
    if fault is not None:
        refused = f"[red]Refused[/]: {escape(fault)}."
    return Answer(answer, Listing(tuple(Retained), shown), steps_due, refused)


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{rows:,} {WORDS[f'kept.{kind}']}" for kind, rows in counts.items() if rows)


FILE_ARGUMENT = argument("Where the list goes: .csv or .parquet.", "FILE")


@command("statutory people")
def list_people(
    call: Call,
    file: Path = FILE_ARGUMENT,
    layout: str = option("india, indonesia, philippines, or a TOML file.", "NAME", default=...),
    reveal: bool = option("Show names and numbers in full, not masked."),
) -> Answer:
    """List everybody with more lines than a person may have; audited.

    A person is a document's holder; documents that people found to be one person's count together.
    With --reveal up to 20 people count to the 100 that one person is shown a day; more take two:
    one asks for the list, another, with an account of their own, makes it by the same command
    within 7 days. No retention reaches the file: it is yours to delete.
    """
    return _write(call, file, layout, "people", is_revealed=reveal)


@command("statutory outlets")
def list_outlets(
    call: Call,
    file: Path = FILE_ARGUMENT,
    layout: str = option("outlets, or a TOML file.", "NAME", default="outlets"),
) -> Answer:
    """List outlets by the cases of confirmed fraud whose people opened lines there, or tried to."""
    return _write(call, file, layout, "outlets", is_revealed=False)


@command("statutory enrollments")
def report_enrollments(
    call: Call,
    since: str | None = option("From this moment on.", "MOMENT"),
    until: str | None = option("Before this moment.", "MOMENT"),
    groups: Path | None = option(
        "Groups to compare: a column `document_id` or `enrollment_id`, others of labels.",
        "FILE.csv",
    ),
    least: int = option("No smaller number of people is told.", default=10, min=5),
) -> Answer:
    """Report how many fail to enroll or try again, and how long it takes, by group; audited.

    Failure to enroll as ISO/IEC 19795-10 has it: nothing was approved or left to people, and a try
    was refused for a photograph, for liveness or because the two faces differ. Imported
    subscribers, and tries of no valid document, count nowhere.
    """
    from engine.statutory import failures

    first = datetime.min.replace(tzinfo=UTC) if since is None else inputs.read_moment(since)
    last = utc_now() if until is None else inputs.read_moment(until)
    labels = None if groups is None else failures.read_labels(groups)
    zone = call.deployment.settings.registrar.time_zone
    with call.progress("reading") as report:
        found = failures.report_failures(call.store, (first, last), zone, least, labels, report)
    call.note("list.made", "failures", {"rows": len(found.groups), "least": least})
    shown = columns("by group people", failed_to_enroll=lambda one: _rate(one.failed))
    shown["tried again"] = lambda one: _rate(one.tried_again)
    shown["seconds"] = lambda one: number(one.seconds)
    few = plural(found.withheld, "group")
    withheld = f"Withheld, of fewer than {least} people or telling of such: {few}."
    table = Listing(found.groups, shown, "" if found.withheld else "Nobody tried in this time.")
    return Answer(found, table, withheld if found.withheld else "")


def _rate(one: Rate | None) -> str:
    return "withheld" if one is None else f"{percent(one.value)} ({span(one.low, one.high)})"


def _write(call: Call, file: Path, name: str, kind: str, *, is_revealed: bool) -> Answer:
    inputs.require_place(file)
    with inputs.writing(file, "a list"):
        from engine.statutory.lists import issue_list

        terms = (name, kind, call.person)
        layout, found = issue_list(call.store, file, *terms, is_revealed=is_revealed)
    counts = {"rows": len(found.rows), "people": found.people}
    text = f"  {escape(str(file))}\n{escape(layout.title)}: {found.people:,} people"
    return Answer(
        {"file": str(file), "title": layout.title, **counts}, f"{text}, {len(found.rows):,} rows."
    )


Language = Literal["en", "ko", "zh"]
LANGUAGE = option("The page's.", default="en")


@command("statutory papers")
def write_papers(call: Call, language: Language = LANGUAGE) -> Answer:
    """Write a record of processing and an impact assessment of this deployment as it is; audited.

    Two pages, and a filing of persons stored, in a new folder under `papers` in the home: keep it
    three years. The audit chain has each file's SHA-256. What only you know is left to fill in. No
    legal advice.
    """
    from serving.case_report import write_page

    found = {"made_at": utc_now(), **gather_papers(call.deployment)}
    folder = call.deployment.home / "papers" / f"{found['made_at']:%Y-%m-%dT%H%M%S}"
    contents = {
        f"{paper}.html": write_page("papers.html", language, found=found, paper=paper)
        for paper in ("record", "assessment")
    }
    contents["filing.json"] = msgspec.json.encode(found)
    with inputs.writing(folder, "a folder of papers"):
        folder.mkdir(mode=0o700, parents=True)
        for name, content in contents.items():
            with created(folder / name) as file:
                file.write(content)
    digests = {name: sha256(content).hexdigest() for name, content in contents.items()}
    call.note("papers.made", call.store.vault.deployment_id, {"sha256": digests})
    text = f"  {escape(str(folder))}\n{found['persons']['stored']:,} persons are stored."
    return Answer({"folder": str(folder), "sha256": digests, "persons": found["persons"]}, text)


def gather_papers(deployment: Deployment) -> dict[str, Any]:
    """All that settings and registry say of how data about people is processed, by section."""
    settings, store, calibration = deployment.settings, deployment.store, deployment.calibration
    card, crops = embedder_card(settings), settings.crops
    kept: dict[Retained, int] = find_days(settings.retention)
    kept[Retained.CROPS] = 0 if crops.keep == CropScope.NONE else crops.days
    # Where a machine has its issuers' keys is nobody else's business.
    unsaid = {key: {"issuers": {"__all__": {"keys"}}} for key in ("liveness", "proofs")}
    chosen = {"people", "liveness", "proofs", "lines"}
    told = settings.model_dump(mode="json", include=chosen, exclude=unsaid)
    sinks = [*(one.sink for one in store.webhooks.find_all()), settings.authority.url]
    reached = newest_of(store, [PERSONS_REACHED])
    rated = dict.fromkeys(("same_document", "review", "certain"), Comparison.FUSED)
    thresholds = {}
    for name, kind in ({"verify": Comparison.ONE_TO_ONE} | rated).items():
        score = getattr(deployment.thresholds, name)
        thresholds[name] = {"score": score, "rate": calibration.fmr_at(score, kind)}
    return {
        "operator": {
            "deployment_id": store.vault.deployment_id,
            "version": version("sosie"),
            "contact": told["people"]["contact"] or None,
            "carriers": store.carrier_names(),
        },
        "persons": {
            "stored": store.counts()["live_references"],
            "filing_persons": deployment.line_rules.filing_persons,
            "reached_at": reached and reached.at,
        },
        "data": {kind: kept.get(kind) for kind in Retained},
        "recipients": sorted({host for sink in sinks if (host := urlsplit(sink).hostname)}),
        "countries": told["people"]["countries"],
        "ways": told,
        "model": {name: getattr(card, name) for name in ("name", "source", "licence", "sha256")}
        | {"calibration": calibration.source, "people": calibration.people},
        "thresholds": thresholds,
        "keys": [*store.vault.ring.fingerprints],
    }


@command("subject export")
def export_subject(
    call: Call,
    chosen: inputs.DocumentOptions,
    reason: str = option("Why it is read. It stays in the audit chain: no names.", default=...),
    page: Path | None = option("Where a page goes that its holder can read.", "FILE.html"),
    language: Language = LANGUAGE,
) -> Answer:
    """Show all that is kept about the holder of a document, as its holder may have it; audited.

    Every row, and who has looked at it, as JSON: scores by the thresholds that they reach,
    templates and pictures by that they are kept, other people masked. One person a call.

    Exit code 1 where a damaged row is left out.
    """
    inputs.require_words("a reason", reason, 500)
    inputs.require_place(page)
    document, today = chosen.read(), utc_now().date()
    record = find_holder(call.store, document, today)
    require_unnamed(reason, document, today)
    call.note("subject.read", record.id, {"reason": reason}, revealed=1)
    thresholds = structs.asdict(call.deployment.thresholds)
    found = gather_subject(call.store, record.id, thresholds)
    if page is not None:
        _write_page(page, "subject.html", language, found=found)
    shown = partial(print_json, found) if page is None else f"  {escape(str(page))}"
    return Answer(found, shown, is_no=bool(found["damaged"]))


@command("subject decision")
def explain_decision(
    call: Call,
    enrollment_id: str = argument("The enrollment's id.", "ID"),
    page: Path = argument("Where the page goes.", "FILE.html"),
    language: Language = LANGUAGE,
) -> Answer:
    """Write one decision as a page for whom it is about; audited.

    It names nobody: the reasons as their carrier is told them, what each means and what to do, who
    decided, and where to turn ([people] contact in sosie.toml).
    """
    inputs.require_place(page)
    record = call.store.enrollment(enrollment_id)
    call.note("enrollment.read", record.id)
    asked = call.store.people.exceptions([record.id]).get(record.id)
    reader = Principal(call.actor, Role.CARRIER, record.carrier)
    shown = serializers.enrollment_record(reader, record, asked)
    contact = call.deployment.people.of(record.carrier).contact
    _write_page(page, "decision.html", language, shown=shown, contact=contact)
    return Answer({"page": str(page), "decision": shown.decision}, f"  {escape(str(page))}")


def _write_page(page: Path, template: str, language: str, **shown: Any) -> None:
    from serving.case_report import write_page

    with inputs.writing(page, "a page"), replacing(page) as beside:
        beside.write_bytes(write_page(template, language, **shown))
