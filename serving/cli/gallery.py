"""The gallery: `search` it, `erase` from it."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from engine.errors import RequestError
from engine.matching.holders import PendingErasure, list_pending, read_erasure
from engine.matching.verification import identify, note_identified
from schema.thresholds import Comparison
from serving.api import serializers
from serving.cli import inputs
from serving.cli.inputs import argument, option
from serving.cli.output import Answer, Call, Cell, Facts, Listing, command, exit_negative
from serving.deployment.deployment import Deployment
from serving.jobs.retention import write_certificate
from serving.wire.fields import of_record
from serving.wire.matching import Candidate, ItemIdentification


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

    rows = [
        (str(place), f"{one.score:.4f}", one.document_id, str(one.reference_id))
        for place, one in enumerate(listed, start=1)
    ]
    more = f" ({found.left_out} not listed)" if found.left_out else ""
    return Answer(
        answer,
        Listing(rows, ("", "score", "document", "reference")),
        f"{found.found or 'Nobody'} at or above {lowest:.4f}{more}; "
        f"{found.searched:,} references searched at sequence {found.gallery_sequence}.",
        f"Expected false candidates in one such search: {expected}.",
        is_no=not listed,
    )


@command("erase")
def erase(
    call: Call,
    document_type: str | None = inputs.TYPE_OPTION,
    document_number: str | None = inputs.NUMBER_OPTION,
    document: str | None = inputs.DOCUMENT_OPTION,
    certificate: Path | None = inputs.CERTIFICATE_OPTION,
    yes: bool = option("Do not ask."),
) -> Answer | None:
    """Erase a document's holder: references, name and numbers.

    It cannot be undone. While an open case needs the document the erasure waits, and is done when
    the case is closed, or at the moment that is shown: `sosie erasures` lists those that wait.

    Exit code 1 where it waits.
    """
    details = inputs.read_details(document, type=document_type, number=document_number)
    target = details.known_document()
    if certificate is not None:
        inputs.require_place(certificate)
    deployment = call.deployment
    if not yes:
        _confirm()
    made = deployment.erase(target, call.actor)
    if isinstance(made, PendingErasure):
        text = (
            f"[yellow]Waits[/]: open cases need the document {made.document_id} "
            f"({', '.join(made.cases)}). It is erased when they are closed, at the latest on "
            f"{made.due_at:%Y-%m-%d %H:%M} UTC. Until then nothing is enrolled under it."
        )
        return Answer(serializers.erasure_state(made), text, is_no=True)
    # Shown before anything else can fail: it cannot be had a second time.
    answer = write_certificate(made)
    facts = {name.replace("_", " "): value for name, value in answer.items()}
    call.print(Answer(answer, Facts("[green]Erased[/]. Certificate:", facts)))
    if certificate is not None:
        inputs.save_certificate(
            certificate, answer, "erased", "keep the certificate that was printed"
        )
    return None


@command("erasures")
def list_erasures(call: Call) -> Answer:
    """List the erasures that wait for open cases, what is due first."""
    store = call.store
    found = [read_erasure(store, one.document_id) for one in list_pending(store)]
    items = [serializers.erasure_state(one) for one in found]
    shown: dict[str, Cell] = {
        "document": "document_id",
        "asked": "asked_at",
        "at the latest": "due_at",
        "waits for cases": lambda one: ", ".join(one.cases) or "none: sosie retention run does it",
    }
    return Answer({"erasures": items}, Listing(items, shown, "No erasure waits."))


def _choose_threshold(deployment: Deployment, threshold: float | None, fmr: float | None) -> float:
    if threshold is not None:
        return threshold
    if fmr is not None:
        # A single photograph is searched among references of two.
        return deployment.calibration.threshold_at(fmr, Comparison.FUSED_TO_ONE)
    return deployment.thresholds.review


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise RequestError("erasing cannot be undone: say --yes where nobody can be asked")
    if not typer.confirm("Erase this holder? It cannot be undone.", err=True):
        raise exit_negative()
