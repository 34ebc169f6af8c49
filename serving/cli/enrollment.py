"""Faces on record: `enroll` and `show` one, `search` the gallery, `erase` from it."""

import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from msgspec import structs

from engine.errors import RequestError, SosieError, advise_extra
from engine.matching import requests
from engine.matching.checks.order import ReplayedDecision
from engine.matching.checks.order import replay as decide_again
from engine.matching.checks.picture import fuse_frames, show_faces
from engine.matching.checks.signed_results import read_token
from engine.matching.documents import require_checkable
from engine.matching.holders import ErasureState, PendingErasure, list_pending, read_erasure
from engine.matching.requests import name_document
from engine.matching.verification import identify, note_identified
from engine.registry.database import utc_now
from schema import frozen
from schema.actors import Caller, Role
from schema.decisions import Comparison
from schema.documents import ErasureScope
from schema.people import Consent, ExceptionCause, GivenConsent, read_given
from schema.reasons import LivenessUse, PhotographKind, tell_kind
from serving.access.authorization import Principal
from serving.api import serializers
from serving.cli import inputs
from serving.cli.inputs import argument, option
from serving.cli.output import (
    Answer,
    Call,
    Facts,
    Listing,
    columns,
    command,
    confirm,
    escape,
    print_json,
)
from serving.deployment.deployment import Deployment
from serving.jobs.periodic import write_certificate
from serving.wire.enrollments import Enrollment, Erasure
from serving.wire.fields import of_record
from serving.wire.matching import Candidate, ItemIdentification

COLOURS = {"approved": "green", "review": "yellow", "rejected": "red"}


@frozen
class EnrollmentOptions:
    """One activation as the command line names it."""

    outlet: str = option("Where it happens.", "CODE", default=...)
    live: list[Path] | None = option(inputs.LIVE, "IMAGE")
    portrait: Path | None = option("The portrait on the document.", "IMAGE")
    portrait_kind: PhotographKind | None = inputs.KIND_OPTION
    live_point: tuple[float, float] | None = inputs.POINT_OPTION
    portrait_point: tuple[float, float] | None = inputs.POINT_OPTION
    document_type: str | None = inputs.TYPE_OPTION
    document_number: str | None = inputs.NUMBER_OPTION
    name: str | None = option("The holder's name, as it stands on the document.")
    msisdn: str | None = inputs.MSISDN_OPTION
    expires_on: str | None = option("The document's last day, as 2031-01-31.", "DAY")
    born_on: str | None = option("The holder's date of birth; it is not kept.", "DAY")
    document: str | None = inputs.DOCUMENT_OPTION
    carrier: str | None = option(None, "CODE", show_default="the outlet's carrier")
    idempotency_key: str | None = option(
        "The same key with the same request gives the stored answer.",
        "KEY",
        show_default="a fresh UUID",
    )
    consent_ref: str | None = option("Where the consent is on file.", "REF")
    consent_record: Path | None = option("Its record, as JSON.", "FILE")
    captured_at: str | None = option("When the photograph was taken: 2026-01-31T12:00:00Z.", "TIME")
    liveness: Path | None = option(
        "What the capture system signed of its liveness check: a compact JWS.", "FILE"
    )
    guardian: str | None = option(
        "Of a minor: the guardian's document, as --document takes it.", "FILE"
    )
    guardian_live: Path | None = option("The guardian's face, taken now.", "IMAGE")
    guardian_portrait: Path | None = option("The portrait on the guardian's document.", "IMAGE")
    exception: ExceptionCause | None = option(
        "Why a photograph is missing or unusable; two people decide.", "CAUSE"
    )
    proof: Path | None = option(
        "Another proof in place of the photographs, as it was signed: a compact JWS.", "FILE"
    )
    replaces: str | None = option(
        "JSON with type and number of the same person's document that this replaces.", "FILE"
    )


@command("enroll")
def enroll(call: Call, chosen: EnrollmentOptions) -> Answer:
    """Decide one activation, durably: two photographs and a document.

    Exit code 0 where it is approved, 1 where it is rejected or goes to review.
    """
    frames = inputs.list_frames(chosen.live or ())
    asked = _read_request(chosen, frames, call.actor)
    token = None if chosen.liveness is None else read_token(chosen.liveness)
    started, deployment = time.perf_counter(), call.deployment
    if chosen.proof is not None:
        brought = (read_token(chosen.proof), asked.document, asked.msisdn, utc_now())
        asked = replace(asked, proof=deployment.proofs.check(*brought))
    request, files = _take_photographs(deployment, chosen, asked, frames, token)
    requests.require_judgeable(request)
    registrar = deployment.registrar
    if deployment.settings.authority.kind != "form":
        own = files[0] if frames else None
        theirs = files[-1] if chosen.guardian_live else None
        try:
            from serving.ingress.http_authority import look_up_once
        except ImportError:
            raise RequestError(f"the authority needs httpx: {advise_extra('serve')}") from None
        said = look_up_once(deployment, request, own, theirs)
        request = replace(request, authority=said)
    if chosen.idempotency_key is None:
        # Before the decision: who gets no answer can ask for it again under this key.
        sys.stderr.write(f"idempotency key {request.idempotency_key}\n")
        sys.stderr.flush()
    outcome = registrar.enroll([request])[0]
    spent_ms = (time.perf_counter() - started) * 1e3
    if isinstance(outcome, SosieError):
        raise outcome
    caller = Principal(call.actor, Role.OPERATOR)
    told = (request.idempotency_key, deployment.settings.thresholds.match_word)
    return _show_answer(serializers.enrollment(caller, outcome, *told), spent_ms)


def _read_request(
    chosen: EnrollmentOptions, frames: Sequence[Path], actor: str
) -> requests.EnrollmentRequest:
    """The request as far as it is checked before the deployment is opened: without photographs."""
    details = inputs.read_details(
        chosen.document,
        type=chosen.document_type,
        number=chosen.document_number,
        name=chosen.name,
        msisdn=chosen.msisdn,
        expires_on=chosen.expires_on,
        born_on=chosen.born_on,
    )
    is_explained = any((chosen.exception, chosen.guardian, chosen.proof))
    if (not frames or chosen.portrait is None) and not is_explained:
        raise RequestError("give --live and --portrait, or say why not with --exception")
    if (chosen.guardian is None) != (chosen.guardian_live is None):
        raise RequestError("a guardian comes with --guardian and --guardian-live: give both")
    moment, guardian, replaced = chosen.captured_at, chosen.guardian, chosen.replaces
    shown = None
    if guardian is not None:
        shown = requests.GuardianShown(document=inputs.read_details(guardian).document())
    request = requests.EnrollmentRequest(
        idempotency_key=chosen.idempotency_key or str(uuid.uuid4()),
        carrier=chosen.carrier or "",
        outlet=chosen.outlet,
        document=details.document(),
        msisdn=details.require("msisdn", "--msisdn"),
        consent=Consent(chosen.consent_ref, _read_consent(chosen.consent_record)),
        captured_at=None if moment is None else inputs.read_moment(moment, "capture time"),
        caller=Caller(actor),
        guardian=shown,
        exception=chosen.exception,
        replaces=None if replaced is None else inputs.read_details(replaced).known_document(),
    )
    require_checkable(request.document)
    requests.normalise_msisdn(request.msisdn)
    return request


def _read_consent(file: Path | None) -> GivenConsent | None:
    try:
        return None if file is None else read_given(file.read_bytes())
    except (OSError, ValueError):
        raise RequestError(f"{file} holds no consent: see docs/people.md") from None


def _take_photographs(
    deployment: Deployment,
    chosen: EnrollmentOptions,
    asked: requests.EnrollmentRequest,
    frames: Sequence[Path],
    token: str | None,
) -> tuple[requests.EnrollmentRequest, list[bytes]]:
    """The request with what its photographs show, and the files of all who were photographed."""
    alone = {
        "portrait": chosen.portrait,
        "guardian.live": chosen.guardian_live,
        "guardian.portrait": chosen.guardian_portrait,
    }
    given = [("live", one) for one in frames]
    given += [(name, one) for name, one in alone.items() if one is not None]
    names, paths = [name for name, _ in given], [path for _, path in given]
    judged = [name.endswith("live") for name in names]
    told = {
        "live": tell_kind(None, chosen.live_point),
        "portrait": tell_kind(chosen.portrait_kind, chosen.portrait_point),
    }
    taken = inputs.sample_photographs(
        deployment,
        paths,
        list(map(told.get, names)),
        with_crops=deployment.settings.crops.keeps_any,
        judged=judged,
    )
    faces = dict(zip(names, taken, strict=True))
    if frames:
        faces["live"] = fuse_frames(taken[: len(frames)], deployment.thresholds.one_person)
    # An unknown outlet is refused by the registrar, in the same words as one that is closed.
    known = deployment.store.outlets([asked.outlet]).get(asked.outlet)
    carrier = asked.carrier or (known.carrier if known else "")
    files = [path.read_bytes() for path, is_live in zip(paths, judged, strict=True) if is_live]
    whose = (name_document(asked.document), carrier, asked.outlet)
    made_for = (LivenessUse.ENROLLMENT, *whose, utc_now())
    is_pointed = chosen.live_point is not None
    request = replace(
        show_faces(asked, faces),
        carrier=carrier,
        liveness=deployment.liveness.check(token, files, is_pointed, *made_for) if files else None,
    )
    return request, files


@command("show")
def show(
    call: Call,
    enrollment_id: str = argument("The enrollment's id.", "ID"),
    replay: bool = option("Decide it again from its recorded evidence."),
) -> Answer:
    """Show an enrollment with its evidence; audited.

    With --replay, exit code 1 where deciding it again gives another decision or other reasons.
    """
    enrollment = call.store.enrollment(enrollment_id)
    call.note("enrollment.read", enrollment.id)
    again = decide_again(enrollment) if replay else None
    record = serializers.enrollment_record(Principal(call.actor, Role.OPERATOR), enrollment)
    replayed = {} if again is None else {"replay": again}
    decision = enrollment.decision
    facts = {
        "reasons": ", ".join(enrollment.reasons) or "-",
        "document": enrollment.document_id or "-",
        "carrier": enrollment.carrier,
        "outlet": enrollment.outlet,
        "gallery sequence": enrollment.sequence,
        "decided at": enrollment.created_at.isoformat(),
    }
    return Answer(
        {**structs.asdict(record), "evidence": enrollment.evidence, **replayed},
        Facts(f"[bold {COLOURS[decision]}]{decision}[/]  enrollment {enrollment.id}", facts),
        partial(print_json, enrollment.evidence),
        "" if again is None else _describe_replay(again),
        is_no=again is not None and not again.agrees,
    )


def _show_answer(answer: Enrollment, spent_ms: float) -> Answer:
    decision, search, folio = answer.decision, answer.duplicate_search, answer.folio
    scores, thresholds = answer.scores, answer.thresholds
    compared = (
        ("live portrait", scores.live_portrait, thresholds.verify),
        ("holder", scores.holder, thresholds.same_document),
        ("best candidate", scores.best_candidate, thresholds.review),
    )
    rows = [
        (name, f"{score:.4f}", f"{threshold:.4f}")
        for name, score, threshold in compared
        if score is not None
    ]
    searched = "No duplicate search ran."
    if search.ran:
        count = len(search.candidates or ())
        searched = f"{search.searched:,} references searched, {count} candidates."
    repeated = ", a stored answer" if answer.is_repeated else ""
    return Answer(
        answer,
        f"[bold {COLOURS[decision]}]{decision}[/]  enrollment {answer.enrollment_id}",
        *(
            f"  {finding.reason}"
            + (f" ({finding.photograph})" if finding.photograph else "")
            + (f": {finding.advice['en']}" if finding.advice else "")
            for finding in answer.reasons
        ),
        *(
            f"  frame {place}: "
            + ("fused" if frame.is_fused else ", ".join(frame.problems) or "not fused")
            for place, frame in enumerate(answer.frames, start=1)
        ),
        Listing(rows, ("compared", "score", "threshold")),
        searched,
        *([] if folio is None else [f"Folio {folio.number}, for the holder: {folio.decided_at}"]),
        *(f"Case opened: {case.kind} {case.id}" for case in answer.cases),
        f"[dim]idempotency key {escape(answer.idempotency_key)}{repeated}; {spent_ms:.0f} ms[/]",
        is_no=not answer.is_approved,
    )


def _describe_replay(again: ReplayedDecision) -> str:
    if again.agrees:
        return "[green]Replayed[/]: the same decision, for the same reasons."
    reasons = ", ".join(again.replayed_reasons) or "no reason"
    return (
        f"[red]Replayed[/]: policy today decides {again.replayed} ({reasons}); it was "
        f"recorded under policy {again.recorded_policy}."
    )


@command("search")
def search(
    call: Call,
    image: Path = argument(None, "IMAGE"),
    top: int = option("How many to list at most.", default=10, min=1, max=1000),
    threshold: float | None = option("The lowest score to list.", min=-1, max=1),
    fmr: float | None = option("The false match rate that chooses the threshold instead."),
) -> Answer:
    """Search the whole gallery for a face (1:N).

    Changes nothing, and runs beside a writer; audited, whoever is found. Lists references at or
    above the threshold, which is that of a possible duplicate where none is given.

    Exit code 1 where nobody is found.
    """
    if threshold is not None and fmr is not None:
        raise RequestError("two thresholds are given: use --threshold or --fmr")
    deployment = call.deployment
    lowest = _choose_threshold(deployment, threshold, fmr)
    probe = inputs.require_probe(inputs.sample_photographs(deployment, [image])[0], image)
    gallery = deployment.restored.gallery
    found = identify(probe[None], gallery, call.store, threshold=lowest, most=top)[0]
    expected = deployment.calibration.expected_false_candidates(
        found.searched, lowest, Comparison.FUSED_TO_ONE
    )
    # Before anything is shown.
    call.store.note(note_identified([found], call.actor))
    listed = found.candidates
    answer = of_record(
        ItemIdentification,
        found,
        candidates=tuple(of_record(Candidate, one, holder=None) for one in listed),
        threshold=lowest,
        expected_false_candidates=expected,
    )
    shown = columns("score document_id", reference=lambda one: one.reference_id)
    more = f" ({found.left_out} not listed)" if found.left_out else ""
    return Answer(
        answer,
        Listing(listed, shown),
        f"{found.found or 'Nobody'} at or above {lowest:.4f}{more}; "
        f"{found.searched:,} references searched at sequence {found.gallery_sequence}.",
        f"Expected false candidates in one such search: {expected}.",
        is_no=not listed,
    )


@command("erase")
def erase(
    call: Call,
    chosen: inputs.DocumentOptions,
    certificate: Path | None = inputs.CERTIFICATE_OPTION,
    yes: bool = option("Do not ask."),
) -> Answer | None:
    """Erase a document's holder: references, name and numbers.

    It cannot be undone. While an open case needs the document the erasure waits, and is done when
    the case is closed, or at the moment that is shown: `sosie erasures` lists those that wait.

    Exit code 1 where it waits.
    """
    return _erase(call, chosen, certificate, "holder", yes=yes)


def _erase(
    call: Call,
    chosen: inputs.DocumentOptions,
    certificate: Path | None,
    what: str,
    carrier: str | None = None,
    scope: ErasureScope = ErasureScope.HOLDER,
    *,
    yes: bool,
) -> Answer | None:
    target = chosen.read()
    inputs.require_place(certificate)
    deployment = call.deployment
    if not yes:
        confirm(f"Erase this {what}? It cannot be undone.", "erasing cannot be undone")
    made = deployment.erase(target, call.actor, carrier, scope=scope)
    if isinstance(made, ErasureState):
        text = "[yellow]Withdrawn[/]. The face stays for other carriers, whose consent holds."
        if isinstance(made, PendingErasure):
            text = (
                f"[yellow]Waits[/]: open cases need the document {made.document_id} "
                f"({', '.join(made.cases)}). It is erased when they are closed, at the latest on "
                f"{made.due_at:%Y-%m-%d %H:%M} UTC. Until then nothing is enrolled under it."
            )
        return Answer(of_record(Erasure, made), text, is_no=True)
    # Shown before anything else can fail: it cannot be had a second time.
    answer = write_certificate(made)
    facts = {name.replace("_", " "): value for name, value in answer.items()}
    call.print(Answer(answer, Facts("[green]Erased[/]. Certificate:", facts)))
    fallback = "keep the certificate that was printed"
    inputs.save_certificate(certificate, answer, "erased", fallback)
    return None


@command("withdraw")
def withdraw(
    call: Call,
    chosen: inputs.DocumentOptions,
    carrier: str | None = option("From this carrier alone.", "CODE", show_default="from all"),
    certificate: Path | None = inputs.CERTIFICATE_OPTION,
    yes: bool = option("Do not ask."),
) -> Answer | None:
    """Withdraw a holder's consent to the face: it is erased, the document and its lines stay.

    Without a consent given since it is not taken again. It waits for open cases as `sosie erase`
    does. Exit code 1 where it waits, or stays for other carriers.
    """
    return _erase(call, chosen, certificate, "face", carrier, ErasureScope.FACE, yes=yes)


@command("erasures")
def list_erasures(call: Call) -> Answer:
    """List the erasures that wait for open cases, what is due first."""
    store = call.store
    found = [read_erasure(store, one.document_id) for one in list_pending(store)]
    items = [of_record(Erasure, one) for one in found]
    shown = columns(
        "document_id asked_at",
        at_the_latest="due_at",
        waits_for_cases=lambda one: ", ".join(one.cases) or "none: sosie retention run does it",
    )
    return Answer({"erasures": items}, Listing(items, shown, "No erasure waits."))


def _choose_threshold(deployment: Deployment, threshold: float | None, fmr: float | None) -> float:
    if threshold is not None:
        return threshold
    if fmr is not None:
        # A single photograph is searched among references of two.
        return deployment.calibration.threshold_at(fmr, Comparison.FUSED_TO_ONE)
    return deployment.thresholds.review
