"""What two people's decision on an exception does: the line that was asked for is opened, or its
number is forgotten. Whose document it is says the attempt that asked, and no other under it.

An exception is no way round the search: where its face could be used, that is searched again as the
gallery is now, and becomes the holder's reference.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np

from engine.errors import CaseMoved
from engine.matching.calibration import Thresholds
from engine.matching.checks.lines import LineOpenings
from engine.matching.documents import normalise_name
from engine.matching.registrar import Runner
from engine.matching.requests import name_look_up
from engine.registry.audit import AuditEntry
from engine.registry.cases import CaseRecord
from engine.registry.database import new_id
from engine.registry.documents import ActivatedDocument, DocumentRecord, Identity
from engine.registry.enrollments import EnrollmentRecord
from engine.registry.lines import LineRecord
from engine.registry.people import AskedLine, DecidedException, ExceptionRecord
from engine.registry.references import NewReference
from engine.registry.rows import Write
from engine.registry.store import Reader
from engine.registry.sweeps import EXCEPTIONS
from engine.registry.writer import Writer
from indexes.base import Floats, exact_scores
from indexes.gallery import Gallery
from schema.actors import Actor
from schema.cases import Outcome
from schema.decisions import Comparison, RecordedEvidence
from schema.documents import DocumentStatus, ErasureScope
from schema.people import Consent
from schema.reasons import Decision


def decide_exception(
    registrar: Runner,
    registry: Reader,
    case: CaseRecord,
    outcome: Outcome,
    actor: Actor,
    now: datetime,
    writer: Writer,
) -> list[Write]:
    """What follows from closing a case of an exception.

    `CaseMoved` where it cannot be granted any more: the number, the document or the face has come
    into other use meanwhile, or consent to the face was withdrawn.
    """
    asked = registry.people.exception_of_case(case.id)
    if asked is None or asked.decided_at is not None:
        return []
    if outcome is not Outcome.UNFOUNDED:
        return _finish(asked, actor, None)
    assert asked.line is not None, "what is asked for stays until it is decided"
    attempt = registry.enrollment(asked.id)
    record = _require_free(registry, asked, asked.line, attempt, now)
    line = LineRecord(
        id=new_id(),
        msisdn_lookup=registry.vault.look_up("msisdn", asked.line.msisdn),
        msisdn=asked.line.msisdn,
        document_id=record.id,
        carrier=asked.carrier,
        outlet=asked.outlet,
        enrollment_id=asked.id,
        opened_at=now,
    )
    writes: list[Write] = [line]
    face = _find_face(registry, registrar.gallery, attempt, record)
    is_kept = asked.carrier not in registrar.unkept
    if is_kept and _has_shown(attempt.evidence.inputs):
        writes += record.renew(asked.carrier, Consent(given=attempt.consent), actor.name)
    if is_kept and face is not None:
        reference = NewReference(
            id=writer.next_reference_id(),
            document_id=record.id,
            enrollment_id=asked.id,
            template=face,
            sequence=writer.sequence + 1,
        )
        writes.append(reference)
    if record.status is DocumentStatus.ATTEMPTED:
        writes.append(ActivatedDocument(_activate(registry, record, asked.line)))
    return [*writes, *_finish(asked, actor, line.id)]


def _finish(asked: ExceptionRecord, actor: Actor, line_id: str | None) -> list[Write]:
    done = "refused" if line_id is None else "granted"
    # Without the cause, which may be about somebody's health: the chain forgets nothing.
    detail = {"case": asked.case_id, "outlet": asked.outlet, "line": line_id}
    entry = AuditEntry(actor.name, f"exception.{done}", asked.id, detail)
    return [entry, DecidedException(asked.id, line_id)]


def _require_free(
    registry: Reader,
    asked: ExceptionRecord,
    line: AskedLine,
    attempt: EnrollmentRecord,
    now: datetime,
) -> DocumentRecord:
    """The document; `CaseMoved` where its line can no longer be opened."""
    if attempt.expired_at is not None:
        raise CaseMoved("what was found of the attempt has left: refuse the exception")
    record, inputs = registry.document(asked.document_id), attempt.evidence.inputs
    standing = registry.people.standing([record.id])
    is_usable = record.status in (DocumentStatus.ACTIVE, DocumentStatus.ATTEMPTED)
    has_face = _has_shown(inputs)
    # Of one that showed none nothing goes with the face alone.
    leaves = record.awaits_erasure and (has_face or record.erasure_scope is not ErasureScope.FACE)
    if not is_usable or leaves or record.id in standing.deceased or record.id in standing.replaced:
        raise CaseMoved("the document enrolls nobody any more: refuse the exception")
    if has_face and record.refuses_face(asked.carrier, Consent(given=attempt.consent)):
        raise CaseMoved("consent to the face was withdrawn meanwhile: refuse the exception")
    _require_name(registry, record, line)
    if inputs.get("authority_brings") == Decision.REJECTED:
        raise CaseMoved("an authority speaks against the document: refuse the exception")
    outlet = registry.outlets([asked.outlet]).get(asked.outlet)
    if outlet is None or not outlet.is_open or outlet.restriction is not None:
        raise CaseMoved("the outlet may enroll nobody: refuse the exception, or lift that first")
    lookup = registry.vault.look_up("msisdn", line.msisdn)
    if registry.lines_in_use([lookup]):
        raise CaseMoved("the number has come into use meanwhile: refuse the exception")
    counts = registry.open_line_counts([record.id])
    if counts[record.id, asked.carrier] >= outlet.line_limit:
        raise CaseMoved("the holder has all the lines that one may have: refuse the exception")
    limits = [int(inputs.get(f"{name}_limit", 0)) for name in ("person", "channel", "day")]
    limits.append(int(inputs.get("approval_h", 0)))
    if any(limits) and not registry.exemptions([record.id]):
        own = sorted(registry.people.same_person([record.id])[record.id])
        total = registry.open_line_counts(own).total()
        # An approval may have come, or its hours have passed, since the line was asked for.
        openings = LineOpenings(registry, own, now, limits[3])
        counted = (total, total, openings.count_lately(own).total())
        is_full = any(0 < most <= count for most, count in zip(limits, counted, strict=False))
        if is_full or (limits[3] and not openings.are_approved(own, limits[3])):
            raise CaseMoved(
                "the person has all the lines that one may have, or open now, over all carriers: "
                "refuse the exception, or wait, also for an approval over the first"
            )
    return record


def _require_name(registry: Reader, record: DocumentRecord, line: AskedLine) -> None:
    """`CaseMoved` where the document is somebody else's by name, or nobody knows whose."""
    if line.name is None:
        if record.status is DocumentStatus.ATTEMPTED:
            raise CaseMoved(
                "an earlier version kept no name with it: refuse the exception, and have it asked "
                "for again"
            )
    elif record.status is DocumentStatus.ACTIVE and record.name_lookup not in (
        None,
        _look_up_name(registry, record, line.name),
    ):
        raise CaseMoved("the document is enrolled under another name: refuse the exception")


def _look_up_name(registry: Reader, record: DocumentRecord, name: str) -> bytes:
    assert record.lookup is not None, "it is not erased"
    return name_look_up(registry.vault, record.lookup, normalise_name(name))


def _has_shown(inputs: Mapping[str, Any]) -> bool:
    """True where the attempt has shown a face that was compared."""
    return bool(inputs.get("is_search_refused")) or inputs["searched"] is not None


def _find_face(
    registry: Reader, gallery: Gallery, attempt: EnrollmentRecord, record: DocumentRecord
) -> Floats | None:
    """The face that was shown, to become the reference of a holder without one; None for none.

    `CaseMoved` where it has been enrolled under another document since, or the document is held by
    another face, then or by now; also where it is gone, and so cannot be compared.
    """
    evidence, inputs = attempt.evidence, attempt.evidence.inputs
    thresholds, held_score = Thresholds(**inputs["thresholds"]), inputs.get("holder_score")
    if held_score is not None and not held_score >= thresholds.same_document:
        raise CaseMoved("the document is held by another face: refuse the exception")
    shown = registry.attempt_templates([attempt.id]).get(record.id)
    if shown is None:
        # It is deleted when the document is enrolled, and when the model changes.
        is_needed = evidence.is_face_kept or bool(record.reference_ids)
        if is_needed and _has_shown(inputs) and held_score is None:
            raise CaseMoved(
                "the face that was shown was not kept, or is gone, for the document was enrolled "
                "or the model changed meanwhile: refuse the exception, and have it asked for again"
            )
        return None
    own = thresholds.of(_kind_of(evidence, thresholds))
    if record.reference_ids:
        held = gallery.vectors(np.array(record.reference_ids))
        rows = np.arange(len(held))
        score = exact_scores(shown[:1], held, np.zeros_like(rows), rows).max()
        if not score >= own.same_document:
            raise CaseMoved(
                "the document was enrolled with another face meanwhile: refuse the exception"
            )
        return None
    ids, _ = gallery.range_search(shown, own.review).hits.of(0)
    owners = set(registry.documents_of(ids.tolist()).values()) - {record.id}
    judged = registry.judged_between(sorted({record.id, *owners})) if owners else []
    for pair in judged:
        if record.id in (pair.left_document, pair.right_document) and pair.outcome in EXCEPTIONS:
            owners -= {pair.left_document, pair.right_document}
    if owners:
        raise CaseMoved(
            "the face was enrolled under another document meanwhile: refuse the exception"
        )
    face: Floats = shown[0]
    return face


def _kind_of(evidence: RecordedEvidence, thresholds: Thresholds) -> Comparison:
    """Which comparisons the face that was kept makes: the mean of both photographs where they show
    one person, else the live face alone, of one photograph or of several frames."""
    inputs = evidence.inputs
    score = inputs.get("live_portrait_score")
    is_both = not inputs["live_problems"] and not inputs["portrait_problems"]
    is_mean = is_both and score is not None and score >= thresholds.verify
    frames = sum(one.is_fused for one in evidence.frames)
    return Comparison.FUSED if is_mean or frames > 1 else Comparison.FUSED_TO_ONE


def _activate(registry: Reader, record: DocumentRecord, line: AskedLine) -> DocumentRecord:
    """The document with the name and the expiry of the attempt that asked: the row has those of
    whoever tried the document first."""
    assert line.name is not None, "one without is refused"
    return replace(
        record,
        name_lookup=_look_up_name(registry, record, line.name),
        expires_on=line.expires_on,
        identity=Identity(registry.identity(record.id).number, line.name),
    )
