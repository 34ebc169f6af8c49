"""Lines: closing and disputing them; also the end of a watch, a block, or consent to a face."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np

from engine.cases.opening import CaseBatch, NewCase
from engine.errors import ConsentWithdrawn, HolderMismatch, NotFound, SosieError
from engine.matching.checks.limits import Guard
from engine.matching.comparison import score_best
from engine.matching.holders import (
    NOBODY,
    UNHELD,
    ErasureState,
    erase_record,
    find_counted,
    find_document,
    find_guarded,
    find_holder,
    find_holding,
    find_target,
    find_tenants,
    tell_cases,
)
from engine.matching.registrar import Runner
from engine.matching.requests import normalise_msisdn
from engine.registry.audit import AuditEntry
from engine.registry.cases import CaseRecord
from engine.registry.database import is_id, utc_now
from engine.registry.documents import (
    CONSENT_WITHDRAWN,
    AskedErasure,
    ConsentChange,
    DocumentRecord,
    EndedBlock,
)
from engine.registry.enrollments import Tally
from engine.registry.lines import LineChange, LineRecord
from engine.registry.people import FaceErasure
from engine.registry.retention import Hold, Until, find_due
from engine.registry.rows import Write
from engine.registry.store import Reader, WriterCall, on_writer
from engine.registry.watchlist import RemovedWatchEntry
from engine.registry.writer import Writer
from indexes.base import Floats, check_vectors
from schema import frozen
from schema.actors import person_of
from schema.cases import CaseKind, CaseNote, CaseOrigin, NoteKind
from schema.documents import Document, ErasureCertificate, ErasureScope
from schema.lines import LineEventKind, LineStatus
from schema.phases import Retained

LINE_UNKNOWN = "no line in use has this number or id: check each digit"
"""The same for a line unknown and for one that the caller may not see."""


def unwatch(registrar: Runner, registry: Reader, entry_id: int, actor: str) -> None:
    """Takes an entry off the watch-list, its template with it; `NotFound` where there is none."""

    def perform(writer: Writer, _: datetime) -> None:
        if all(entry.id != entry_id for entry in registry.watchlist()):
            raise NotFound("the watch-list has no such entry: see `sosie watch list`")
        audited = AuditEntry(actor, "watchlist.removed", str(entry_id))
        writer.commit([audited, RemovedWatchEntry(entry_id)])
        registrar.watchlist.remove(entry_id)

    registrar.run(perform)


@on_writer
def unblock_document(call: WriterCall, document: Document, actor: str) -> str:
    """Lifts the block of a document and returns its id; `NotFound` where it is not blocked."""
    record = find_document(call.registry, document, call.now.date())
    if record.blocked_at is None:
        raise NotFound("this document is not blocked: see `sosie blocked`")
    call.commit(AuditEntry(actor, "document.unblocked", record.id), EndedBlock(record.id))
    return record.id


@on_writer
def withdraw_consent(
    call: WriterCall,
    target: Document | str,
    actor: str,
    carrier: str | None = None,
    hold: timedelta = timedelta(),
    *,
    is_earlier: bool = False,
) -> ErasureState:
    """Notes that a holder's consent to the face is withdrawn from a carrier, or from all that have
    the holder: no call of theirs takes it from now on. Where no other carrier has a line in use
    the erasure of the face is asked for, which may wait for open cases; else what is the carrier's
    own goes at once, and the rest stays for the others (`is_shared`). Of a document that was
    replaced it is its successor's, which has lines and face, unless that was done (`is_earlier`).

    `NotFound` as in `find_erasable`.
    """
    registry, now = call.registry, call.now
    asked_of = find_target(registry, target, now.date())
    standing = registry.people.standing([asked_of.id])
    newest = asked_of.id if is_earlier else standing.newest(asked_of.id)
    record = asked_of if newest == asked_of.id else registry.document(newest)
    tenants = find_tenants(registry, asked_of) | find_tenants(registry, record)
    if carrier is not None and carrier not in tenants:
        raise NotFound(NOBODY)
    carriers = sorted({*tenants, ""}) if carrier is None else [carrier]
    entry = AuditEntry(actor, CONSENT_WITHDRAWN, record.id, {"carriers": carriers})
    writes: list[Write] = [entry, ConsentChange(record.id, carriers, is_withdrawn=True)]
    if record.awaits_erasure:
        call.commit(*writes)
        return ErasureState(record.id, scope=record.erasure_scope or ErasureScope.HOLDER)
    if _is_shared(registry, record, carriers):
        # The same person's earlier documents have faces of their own.
        earlier = sorted(standing.kin(record.id) - {record.id})
        writes += [ConsentChange(one, carriers, is_withdrawn=True) for one in earlier]
        writes += [FaceErasure(one, carrier) for one in (record.id, *earlier)]
        call.commit(*writes)
        return ErasureState(record.id, scope=ErasureScope.FACE, is_shared=True)
    cases = find_holding(registry, record, carrier)
    due_at = now + hold if cases else now
    note = CaseNote(now, person_of(actor), NoteKind.ERASURE_ASKED, due_at.isoformat())
    asked = AskedErasure(record.id, actor, due_at, ErasureScope.FACE)
    call.commit(*writes, asked, *tell_cases(cases, note))
    return ErasureState(record.id, scope=ErasureScope.FACE)


def expire_face(
    registrar: Runner, registry: Reader, document_id: str, actor: str, until: Until, hold: Hold
) -> ErasureCertificate | None:
    """Erases the face of a document if it is due by a schedule of retention; None where a line has
    come since, or a case."""

    def perform(writer: Writer, now: datetime) -> ErasureCertificate | None:
        if not find_due(writer, Retained.FACES, until, hold, among=[document_id]):
            return None
        call, record = WriterCall(writer, registry, now), registry.document(document_id)
        return erase_record(call, registrar.gallery, record, actor, is_face=True)

    return registrar.run(perform)


def _is_shared(registry: Reader, record: DocumentRecord, carriers: Sequence[str]) -> bool:
    """True where another carrier has a line in use, by a face that it keeps, and consent."""
    lines = [*registry.lines_of(record.id), *find_guarded(registry, record)]
    held = [one for one in lines if one.closed_at is None and one.carrier not in carriers]
    opened = registry.enrollments([one.enrollment_id for one in held if one.enrollment_id])
    faceless = {
        one.id
        for one in opened
        if one.evidence.proof is not None
        or not one.evidence.is_face_kept
        # Of a minor's line the guardian's was shown.
        or (one.document_id == record.id and one.evidence.inputs["searched"] is None)
    }
    others = {one.carrier for one in held if one.enrollment_id not in faceless}
    return not all(map(record.refuses_face, others))


@on_writer
def close_line(call: WriterCall, line_text: str, actor: str, carrier: str | None = None) -> str:
    """Closes a line in use, given by number or id, and returns its id.

    `NotFound` where there is none, or where it is another carrier's than the one given.
    """
    line = find_line(call.registry, normalise_line(line_text), carrier)
    if line is None:
        raise NotFound(LINE_UNKNOWN)
    closed = LineChange([line.id], LineEventKind.CLOSED, "request", actor)
    call.commit(AuditEntry(actor, "line.closed", line.id), closed)
    return line.id


def normalise_line(text: str) -> str:
    """A line's id as it is, or a number in E.164; `RequestError` for what is neither."""
    return text if is_id(text) else normalise_msisdn(text)


def find_line(
    registry: Reader, target: str, carrier: str | None = None, *, is_open: bool = True
) -> LineRecord | None:
    """The line with this id, or that this number is on, of a carrier where it is given; one that is
    not in use by its id alone, and where it need not be open. `None` for none.

    `target` is as `normalise_line` gives it.
    """
    if is_id(target):
        line = registry.lines_by_id([target]).get(target)
    else:
        lookup = registry.vault.look_up("msisdn", target)
        line = registry.lines_in_use([lookup]).get(lookup)
    if line is None or carrier not in (None, line.carrier):
        return None
    return None if is_open and line.status is LineStatus.CLOSED else line


def read_line(registry: Reader, line_text: str, *, carrier: str | None = None) -> LineRecord:
    """A line by its number in use, or by its id also once it is closed.

    `NotFound` where there is none, or where it is another carrier's than the one given.
    """
    line = find_line(registry, normalise_line(line_text), carrier, is_open=False)
    if line is None:
        raise NotFound(LINE_UNKNOWN)
    return line


NOT_THE_HOLDER = "the face is not that of the document's holder"
"""The same for a document without a holder, so that it does not reveal who is enrolled."""


@frozen
class OpenedDispute:
    """An open dispute of a line that its holder denies: the case that people will decide."""

    case_id: str
    line_id: str
    opened_at: datetime


def dispute_line(
    registrar: Runner,
    registry: Reader,
    line_text: str,
    document: Document,
    probe: Floats,
    threshold: float,
    guard: Guard,
) -> OpenedDispute:
    """Disputes a line in use, given by number or id, for the face float32[d] of its holder.

    `HolderMismatch` where the probe is not the document's holder, or where it has none;
    `NotFound` where the line is not under the document; every refusal is audited. Disputed again:
    the case that is open, audited too. `guard` bounds refusals, and near matches.
    """
    probe = check_vectors(probe[None], registrar.gallery.dim)[0]
    target = normalise_line(line_text)
    actor, carrier = guard.caller.actor, guard.caller.carrier
    asked = find_counted(registry, document, utc_now().date())
    mismatch = HolderMismatch(NOT_THE_HOLDER)

    def refuse(writer: Writer, document_id: str, cause: str, refusal: SosieError) -> SosieError:
        entry = AuditEntry(actor, "line.dispute_refused", document_id, {"cause": cause})
        writer.commit([entry, *guard.count(asked, is_failure=True)])
        return refusal

    def perform(writer: Writer, now: datetime) -> OpenedDispute:
        try:
            record = find_holder(registry, document, now.date()).require_consent(carrier)
        except NotFound as error:
            is_told = isinstance(error, ConsentWithdrawn)
            refusal = error if is_told else mismatch
            raise refuse(writer, UNHELD, "document_unknown", refusal) from None
        references = registrar.gallery.vectors(np.array(record.reference_ids, dtype=np.int64))
        score = score_best(probe, references)
        # The face comes first: another must not learn which numbers the document has.
        if score is None or not score >= threshold:
            raise refuse(writer, record.id, "holder_mismatch", mismatch)
        line = find_line(registry, target)
        if line is None or line.document_id != record.id:
            raise refuse(writer, record.id, "line_unknown", NotFound(LINE_UNKNOWN))
        told = [asked] if guard.tells(score, threshold) else []
        tallies = guard.count(*told, is_failure=False)
        case = _open_case(writer, registry, line, score, now, actor, tallies)
        return OpenedDispute(case.id, line.id, case.opened_at)

    guard.require(asked)
    try:
        return registrar.run(perform)
    finally:
        guard.settle(asked)


def _open_case(
    writer: Writer,
    registry: Reader,
    line: LineRecord,
    score: float,
    now: datetime,
    actor: str,
    tallies: Sequence[Tally],
) -> CaseRecord:
    """The case about the line, also where it was open before."""
    found = registry.cases.open_of_line(line.id, CaseKind.DISPUTE)
    if found is not None:
        entry = AuditEntry(actor, "line.dispute_read", line.id, {"case": found.id})
        writer.commit([entry, *tallies])
        return found
    cases = CaseBatch(registry, now)
    case = cases.open(
        NewCase(
            kind=CaseKind.DISPUTE,
            origin=CaseOrigin.DISPUTE,
            enrollment_id=line.enrollment_id,
            document_ids=(line.document_id,),
            line_id=line.id,
            line_ids=(line.id,),
            score=score,
        ),
        actor,
    )
    detail = {"case": case.id, "document": line.document_id, "score": score}
    writes: list[Write] = [AuditEntry(actor, "line.disputed", line.id, detail), *tallies]
    # A line stays disputed when a case about it was closed without changing it.
    if line.status is LineStatus.ACTIVE:
        writes.append(LineChange([line.id], LineEventKind.DISPUTED, "holder", actor))
    writer.commit([*writes, *cases.writes()])
    return case
