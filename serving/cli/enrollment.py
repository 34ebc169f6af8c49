"""One activation and its record: `enroll`, `show`."""

from __future__ import annotations

import sys
import time
import uuid
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import RequestError, SosieError, advise_extra
from schema.reasons import PhotographKind
from serving.cli.inputs import (
    DOCUMENT_OPTION,
    KIND_OPTION,
    LIVE,
    MSISDN_OPTION,
    NUMBER_OPTION,
    TYPE_OPTION,
    argument,
    list_frames,
    option,
    read_details,
    read_moment,
    sample_photographs,
)
from serving.cli.output import Answer, Call, command, escape, print_facts, print_line, print_table

if TYPE_CHECKING:
    from engine.matching.checks.order import Replay
    from engine.matching.documents import AuthorityResult, DocumentRole
    from engine.matching.requests import EnrollmentRequest
    from engine.registry.enrollments import EnrollmentRecord
    from schema.people import ExceptionCause
    from serving.deployment.deployment import Deployment
    from serving.wire.enrollments import Enrollment

COLOURS = {"approved": "green", "review": "yellow", "rejected": "red"}


@command("enroll")
def enroll(
    call: Call,
    outlet: str = option("Where it happens.", "CODE", default=...),
    live: list[Path] | None = option(LIVE, "IMAGE"),
    portrait: Path | None = option("The portrait on the document.", "IMAGE"),
    portrait_kind: PhotographKind | None = KIND_OPTION,
    document_type: str | None = TYPE_OPTION,
    document_number: str | None = NUMBER_OPTION,
    name: str | None = option("The holder's name, as it stands on the document."),
    msisdn: str | None = MSISDN_OPTION,
    expires_on: str | None = option("The document's last day, as 2031-01-31.", "DAY"),
    born_on: str | None = option("The holder's date of birth; it is not kept.", "DAY"),
    document: str | None = DOCUMENT_OPTION,
    carrier: str | None = option(None, "CODE", show_default="the outlet's carrier"),
    idempotency_key: str | None = option(
        "The same key with the same request gives the stored answer.",
        "KEY",
        show_default="a fresh UUID",
    ),
    consent_ref: str | None = option("Where the consent is on file.", "REF"),
    captured_at: str | None = option(
        "When the photograph was taken: 2026-01-31T12:00:00Z.", "TIME"
    ),
    liveness: Path | None = option(
        "What the capture system signed of its liveness check: a compact JWS.", "FILE"
    ),
    guardian: str | None = option(
        "Of a minor: the guardian's document, as --document takes it.", "FILE"
    ),
    guardian_live: Path | None = option("The guardian's face, taken now.", "IMAGE"),
    guardian_portrait: Path | None = option("The portrait on the guardian's document.", "IMAGE"),
    exception: str | None = option(
        "Why a photograph is missing or unusable; two people decide.", "CAUSE"
    ),
    replaces: str | None = option(
        "JSON with type and number of the same person's document that this replaces.", "FILE"
    ),
) -> Answer:
    """Decide one activation, durably: two photographs and a document.

    Exit code 0 where it is approved, 1 where it is rejected or goes to review.
    """
    from engine.matching.checks.liveness import name_document, read_token
    from engine.matching.checks.picture import fuse_frames
    from engine.matching.documents import require_checkable
    from engine.matching.requests import (
        EnrollmentRequest,
        GuardianShown,
        normalise_msisdn,
        require_judgeable,
    )
    from engine.matching.samples import ABSENT
    from engine.registry.database import utc_now
    from schema.actors import Caller, Role
    from schema.reasons import LivenessUse
    from serving.access.authorization import Principal, show_decision
    from serving.api import serializers

    details = read_details(
        document,
        type=document_type,
        number=document_number,
        name=name,
        msisdn=msisdn,
        expires_on=expires_on,
        born_on=born_on,
    )
    frames = list_frames(live or ())
    given = [one for one in (portrait, guardian_live, guardian_portrait) if one is not None]
    if (not frames or portrait is None) and exception is None and guardian is None:
        raise RequestError("give --live and --portrait, or say why not with --exception")
    if (guardian is None) != (guardian_live is None):
        raise RequestError("a guardian comes with --guardian and --guardian-live: give both")
    presented, number = details.document(), details.require("msisdn", "--msisdn")
    taken_at = None if captured_at is None else read_moment(captured_at, "capture time")
    token = None if liveness is None else read_token(liveness)
    require_checkable(presented)
    normalise_msisdn(number)
    started = time.perf_counter()
    deployment = call.deployment
    keeps_crops = deployment.settings.crops.keep != "none"
    taken = sample_photographs(
        deployment,
        [*frames, *given],
        [None] * len(frames) + [portrait_kind if one is portrait else None for one in given],
        with_crops=keeps_crops,
        judged=[True] * len(frames) + [one is guardian_live for one in given],
    )
    samples, others = taken[: len(frames)], dict(zip(given, taken[len(frames) :], strict=True))
    carrier = carrier or _carrier_of(deployment, outlet)
    judged = frames if guardian_live is None else [*frames, guardian_live]
    files = [frame.read_bytes() for frame in judged]
    made_for = (LivenessUse.ENROLLMENT, name_document(presented), carrier, utc_now())
    request = EnrollmentRequest(
        idempotency_key=idempotency_key or str(uuid.uuid4()),
        carrier=carrier,
        outlet=outlet,
        document=presented,
        msisdn=number,
        live=fuse_frames(samples, deployment.thresholds.one_person) if samples else ABSENT,
        portrait=ABSENT if portrait is None else others[portrait],
        consent_ref=consent_ref,
        captured_at=taken_at,
        caller=Caller(call.actor),
        liveness=deployment.liveness.check(token, files, *made_for) if files else None,
        guardian=None
        if guardian is None or guardian_live is None
        else GuardianShown(
            document=read_details(guardian).document(),
            live=others[guardian_live],
            portrait=None if guardian_portrait is None else others[guardian_portrait],
        ),
        exception=None if exception is None else _read_cause(exception),
        replaces=None if replaces is None else read_details(replaces).known_document(),
    )
    require_judgeable(request)
    registrar = deployment.registrar
    if deployment.settings.authority.kind != "form":
        own, theirs = files[0] if frames else None, files[-1] if guardian_live else None
        said = _look_up(deployment, request, own, theirs)
        request = replace(request, authority=said)
    if idempotency_key is None:
        # Before the decision: who gets no answer can ask for it again under this key.
        sys.stderr.write(f"idempotency key {request.idempotency_key}\n")
        sys.stderr.flush()
    outcome = registrar.enroll([request])[0]
    spent_ms = (time.perf_counter() - started) * 1e3
    if isinstance(outcome, SosieError):
        raise outcome
    shown = serializers.enrollment(
        show_decision(Principal(call.actor, Role.OPERATOR), deployment.vault, outcome.body),
        request.idempotency_key,
        is_repeated=outcome.is_repeated,
    )
    show = partial(_print_answer, shown, spent_ms)
    return Answer(shown, show, is_no=not shown.is_approved)


def _read_cause(text: str) -> ExceptionCause:
    from schema.people import ExceptionCause

    try:
        return ExceptionCause(text)
    except ValueError:
        known = ", ".join(ExceptionCause)
        raise RequestError(f"no such cause of an exception: give one of {known}") from None


@command("show")
def show(
    call: Call,
    enrollment_id: str = argument("The enrollment's id.", "ID"),
    replay: bool = option("Decide it again from its recorded evidence."),
) -> Answer:
    """Show an enrollment with its evidence.

    With --replay, exit code 1 where deciding it again gives another decision or other reasons.
    """
    from engine.matching.checks.order import replay as decide_again
    from schema.actors import Role
    from serving.access.authorization import Principal, show_decision
    from serving.api import serializers
    from serving.wire import oversight as wire
    from serving.wire.fields import of_record

    enrollment = call.store.enrollment(enrollment_id)
    again = decide_again(enrollment) if replay else None
    caller = Principal(call.actor, Role.OPERATOR)
    record = serializers.enrollment_record(enrollment)
    answer = show_decision(caller, call.deployment.vault, record)
    replayed = {} if again is None else {"replay": of_record(wire.ReplayedDecision, again)}
    return Answer(
        {**answer, "evidence": enrollment.evidence, **replayed},
        partial(_print_enrollment, enrollment, again),
        is_no=again is not None and not again.agrees,
    )


def _look_up(
    deployment: Deployment,
    request: EnrollmentRequest,
    live: bytes | None,
    guardian_live: bytes | None,
) -> dict[DocumentRole, AuthorityResult]:
    """Looks the documents up with the authority; nothing of a request that is answered already."""
    import asyncio

    from engine.matching.people import ask_of
    from engine.matching.requests import Attempt
    from engine.registry.database import utc_now

    try:
        from serving.ingress.http_authority import open_authority
    except ImportError:
        raise RequestError(f"the authority needs httpx: {advise_extra('serve')}") from None
    found = deployment.judge.intake().sort([request], utc_now())[0]
    if not isinstance(found, Attempt):
        return {}

    async def ask() -> dict[DocumentRole, AuthorityResult]:
        settings = deployment.settings.authority
        authority = open_authority(settings, deployment.vault, deployment.home)
        terms = (deployment.liveness.terms, deployment.judge.people)
        questions = ask_of(found, live, guardian_live, *terms)
        assert authority is not None, "its kind is not form"
        try:
            answers = await asyncio.gather(*map(authority.look_up, questions.values()))
            return dict(zip(questions, answers, strict=True))
        finally:
            await authority.close()

    return asyncio.run(ask())


def _carrier_of(deployment: Deployment, outlet: str) -> str:
    # An unknown outlet is refused by the registrar, in the same words as one that is closed.
    known = deployment.store.outlets([outlet]).get(outlet)
    return "" if known is None else known.carrier


def _print_answer(answer: Enrollment, spent_ms: float) -> None:
    decision = answer.decision
    print_line(f"[bold {COLOURS[decision]}]{decision}[/]  enrollment {answer.enrollment_id}")
    for finding in answer.reasons:
        where = f" ({finding.photograph})" if finding.photograph else ""
        print_line(f"  {finding.reason}{where}")
    for place, frame in enumerate(answer.frames, start=1):
        left_out = ", ".join(frame.problems) or "not fused"
        print_line(f"  frame {place}: {'fused' if frame.is_fused else left_out}")
    scores, thresholds = answer.scores, answer.thresholds
    compared = (
        ("live portrait", scores.live_portrait, thresholds.verify),
        ("holder", scores.holder, thresholds.same_document),
        ("best candidate", scores.best_candidate, thresholds.review),
    )
    rows = [
        [name, f"{score:.4f}", f"{threshold:.4f}"]
        for name, score, threshold in compared
        if score is not None
    ]
    if rows:
        print_table(None, ("compared", "score", "threshold"), rows)
    search = answer.duplicate_search
    if search.ran:
        count = len(search.candidates or ())
        print_line(f"{search.searched:,} references searched, {count} candidates.")
    else:
        print_line("No duplicate search ran.")
    for case in answer.cases:
        print_line(f"Case opened: {case.kind} {case.id}")
    repeated = ", a stored answer" if answer.is_repeated else ""
    key = escape(answer.idempotency_key)
    print_line(f"[dim]idempotency key {key}{repeated}; {spent_ms:.0f} ms[/]")


def _print_enrollment(enrollment: EnrollmentRecord, again: Replay | None) -> None:
    import json

    from rich.console import Console

    decision = enrollment.decision
    facts = {
        "reasons": ", ".join(enrollment.reasons) or "-",
        "document": enrollment.document_id or "-",
        "carrier": enrollment.carrier,
        "outlet": enrollment.outlet,
        "gallery sequence": str(enrollment.sequence),
        "decided at": enrollment.created_at.isoformat(),
    }
    title = f"[bold {COLOURS[decision]}]{decision}[/]  enrollment {enrollment.id}"
    print_facts(title, facts)
    Console(highlight=False, soft_wrap=True).print_json(json.dumps(dict(enrollment.evidence)))
    if again is not None and again.agrees:
        print_line("[green]Replayed[/]: the same decision, for the same reasons.")
    elif again is not None:
        reasons = ", ".join(again.replayed_reasons) or "no reason"
        print_line(
            f"[red]Replayed[/]: policy today decides {again.replayed} ({reasons}); it was "
            f"recorded under policy {again.recorded_policy}."
        )
