"""Holders of documents: erasing, blocking, watching, and reading their lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from time import monotonic, sleep
from typing import TYPE_CHECKING

import numpy as np
from msgspec import structs

from engine.cases.opening import date_change, is_grouped
from engine.errors import (
    ConsentWithdrawn,
    GalleryBehind,
    HolderMoved,
    NotFound,
    RequestError,
    TenantConflict,
)
from engine.matching.checks.limits import Guard
from engine.matching.comparison import score_best
from engine.matching.documents import check_document, require_checkable
from engine.matching.registrar import Audit, CountingAudit, Runner
from engine.matching.requests import document_look_up, name_counted
from engine.registry.audit import AuditEntry, read_audit
from engine.registry.cases import AddedNote, CaseChange, CaseRecord
from engine.registry.database import is_id, utc_now
from engine.registry.documents import (
    CERTIFIED,
    ERASURE_ASKED,
    AskedErasure,
    DocumentBlock,
    DocumentRecord,
    certify_erasure,
)
from engine.registry.lines import LineRecord
from engine.registry.people import FaceErasure
from engine.registry.references import RemovedReference, SecondTemplate
from engine.registry.retention import DocumentErasure
from engine.registry.rows import Write
from engine.registry.store import Reader, WriterCall, on_writer
from engine.registry.watchlist import BY_CASE, WatchEntry
from engine.registry.writer import Writer, publish
from indexes.base import Floats, check_vectors
from indexes.errors import IdInvalid
from schema.actors import person_of
from schema.cases import UNTOLD, CaseNote, NoteKind
from schema.decoding import Value
from schema.documents import Document, ErasureCertificate, ErasureScope
from schema.lines import HolderShown, LineStatus

if TYPE_CHECKING:
    from indexes.gallery import Gallery

# A change is in the store a moment before the gallery has it.
_LAG_S = 2.0
_RETRY_EVERY_S = 0.005


def score_holder(
    find: Callable[[], DocumentRecord], gallery: Gallery, probe: Floats
) -> tuple[DocumentRecord, float | None]:
    """A document and the best score of a probe, float32[d], among its references; `None` for none.

    `find` reads the document, again where its references changed meanwhile; what it raises is
    passed on.
    """
    row = check_vectors(probe[None], gallery.dim)[0]
    give_up_at = monotonic() + _LAG_S
    while True:
        record = find()
        try:
            references = gallery.vectors(np.array(record.reference_ids, dtype=np.int64))
        except IdInvalid:
            if monotonic() > give_up_at:
                raise GalleryBehind(
                    "the gallery lacks references of the store: restart to rebuild it"
                ) from None
            sleep(_RETRY_EVERY_S)
            continue
        return record, score_best(row, references)


NOBODY = "nobody is enrolled under this document"
"""The same for a document unknown and for one that the caller may not see."""
UNHELD = "unheld"
"""Subject of audit entries about a document without a holder: its number is not written."""


class FoundLines(HolderShown, frozen=True):
    """The lines under a document, shown only to the face that holds it; `numbers` by the ids of
    those that are open.

    `score` is None where it is withheld, or where the document has no reference.
    """

    lines: tuple[LineRecord, ...] = ()
    numbers: Mapping[str, str] = {}

    def __repr__(self) -> str:
        return f"FoundLines({len(self.lines)} lines)"


@on_writer
def ask_erasure(
    call: WriterCall,
    target: Document | str,
    actor: str,
    carrier: str | None = None,
    hold: timedelta = timedelta(),
    scope: ErasureScope = ErasureScope.HOLDER,
) -> PendingErasure | None:
    """Acknowledges an erasure that has to wait for open cases, for `hold` at most from when it was
    asked first; None where nothing is waited for. Durable, and told in the history of these cases.

    `NotFound` and `TenantConflict` as in `find_erasable`.
    """
    record = find_erasable(call.registry, target, call.now.date(), carrier)
    return _hold_erasure(call, record, actor, hold, carrier, scope)


def erase_holder(
    registrar: Runner,
    registry: Reader,
    target: Document | str,
    actor: str,
    carrier: str | None = None,
    hold: timedelta = timedelta(),
    scope: ErasureScope = ErasureScope.HOLDER,
) -> ErasureCertificate | PendingErasure:
    """Erases a document, presented or by its id, with its references, numbers and crops, and the
    texts of cases that name nobody else; what people put on the watch-list stays there. Or its face
    alone: references, crops, templates of attempts. For open cases it waits, as in `ask_erasure`.

    `NotFound` and `TenantConflict` as in `find_erasable`.
    """

    def perform(writer: Writer, now: datetime) -> ErasureCertificate | PendingErasure:
        record = find_erasable(registry, target, now.date(), carrier)
        call = WriterCall(writer, registry, now)
        pending = _hold_erasure(call, record, actor, hold, carrier, scope)
        if pending is not None:
            return pending
        # More may have been asked for since.
        asked = record.erasure_scope if record.awaits_erasure else scope
        is_face = scope is asked is ErasureScope.FACE
        return erase_record(call, registrar.gallery, record, actor, is_face=is_face)

    return registrar.run(perform)


def erase_record(
    call: WriterCall, gallery: Gallery, record: DocumentRecord, actor: str, *, is_face: bool
) -> ErasureCertificate:
    """Erases a document, or its face alone, now and whatever holds it."""
    ids = record.reference_ids
    sequence = call.writer.sequence + 1 if ids else call.writer.sequence
    # With a face none is closed, nor is it told how many others have.
    lines = 0 if is_face else sum(it.closed_at is None for it in call.registry.lines_of(record.id))
    detail = {"references": len(ids), "lines": lines, "gallery_sequence": sequence}
    # Those that are still open have had their time.
    note = CaseNote(call.now, person_of(actor), NoteKind.ERASED, record.id)
    (action,) = (name for name, one in CERTIFIED.items() if (one is ErasureScope.FACE) is is_face)
    writes = [
        AuditEntry(actor, action, record.id, detail),
        *(RemovedReference(key, sequence) for key in ids),
        FaceErasure(record.id, None) if is_face else DocumentErasure(record.id, actor),
        *tell_cases(call.registry.cases.open_of([record.id])[record.id], note),
    ]
    return certify_erasure(publish(call.writer, gallery, writes))


def find_holding(
    registry: Reader, record: DocumentRecord, carrier: str | None
) -> Sequence[CaseRecord]:
    """The open cases that an erasure waits for."""
    cases = registry.cases.open_of([record.id])[record.id]
    if carrier is not None and not record.awaits_erasure:
        # That it has to wait would tell a tenant of these.
        cases = [one for one in cases if not is_grouped(one, UNTOLD)]
    return cases


def _hold_erasure(
    call: WriterCall,
    record: DocumentRecord,
    actor: str,
    hold: timedelta,
    carrier: str | None,
    scope: ErasureScope,
) -> PendingErasure | None:
    cases, now = find_holding(call.registry, record, carrier), call.now
    # The time runs from when it was asked first: no later case, and no later setting, extends it.
    due_at = record.erasure_due_at or now + hold
    if not cases or due_at <= now:
        return None
    ids = tuple(case.id for case in cases)
    if scope is ErasureScope.FACE:
        # It was acknowledged with the withdrawal.
        return PendingErasure(record.id, record.erasure_asked_at or now, due_at, ids, scope=scope)
    detail = {"cases": list(ids), "due_at": due_at.isoformat()}
    writes: list[Write] = [AuditEntry(actor, ERASURE_ASKED, record.id, detail)]
    if not record.awaits_erasure or record.erasure_scope is ErasureScope.FACE:
        note = CaseNote(now, person_of(actor), NoteKind.ERASURE_ASKED, due_at.isoformat())
        writes += [AskedErasure(record.id, actor, due_at), *tell_cases(cases, note)]
    kept = call.commit(*writes)
    return PendingErasure(record.id, record.erasure_asked_at or kept.at, due_at, ids)


def tell_cases(cases: Sequence[CaseRecord], note: CaseNote) -> list[Write]:
    """A note in the history of these cases: who has read one must read it again."""
    told = (replace(one, updated_at=date_change(one, note.at)) for one in cases)
    return [write for one in told for write in (CaseChange(one), AddedNote(one.id, note))]


class ErasureState(Value):
    """How far the erasure of a document is: not asked for, waiting, or done.

    `certificate` is that of an erasure that was asked for; retention gives none for a document. One
    of the face that `is_shared` stays for other carriers alone.
    """

    document_id: str
    asked_at: datetime | None = None
    due_at: datetime | None = None
    cases: tuple[str, ...] = ()
    erased_at: datetime | None = None
    certificate: ErasureCertificate | None = None
    scope: ErasureScope = ErasureScope.HOLDER
    is_shared: bool = False

    @property
    def state(self) -> str:
        if self.is_shared:
            return "shared"
        if self.due_at is not None:
            return "pending"
        return "none" if self.erased_at is None else "done"


class PendingErasure(ErasureState, frozen=True):
    """An erasure that is acknowledged, and waits for the open cases `cases` that name the document.

    It is done when they are closed, and at `due_at` although they are not.
    """

    asked_at: datetime
    due_at: datetime


def read_erasure(registry: Reader, document_id: str, carrier: str | None = None) -> ErasureState:
    """Reads the state of a document's erasure, an erased one's too.

    `NotFound` and `TenantConflict` as in `find_erasable`, but that a carrier from which consent is
    withdrawn is told what became of the face, whoever has the holder beside it.
    """
    known = registry.documents_by_id([document_id]) if is_id(document_id) else {}
    record = known.get(document_id)
    if record is None:
        raise NotFound(NOBODY)
    since = None if carrier is None else (record.withdrawn or {}).get(carrier)
    if since is None:
        _require_own(registry, record, carrier)
    cases = registry.cases.open_of([record.id])[record.id] if record.awaits_erasure else []
    made = _find_certificate(registry, record)
    if made is not None and since is not None and made.erased_at < since:
        # It is of before, and says nothing of this withdrawal.
        made = None
    is_left = made is None and not record.awaits_erasure and bool(record.reference_ids)
    is_shared = since is not None and is_left
    usual = ErasureScope.FACE if is_shared else ErasureScope.HOLDER
    return ErasureState(
        record.id,
        record.erasure_asked_at,
        record.erasure_due_at,
        # To a tenant the cases of the fraud team are none of its business.
        tuple(case.id for case in cases) if carrier is None else (),
        made.erased_at if made is not None else record.erased_at,
        made,
        record.erasure_scope or (usual if record.awaits_erasure or made is None else made.scope),
        is_shared,
    )


def list_pending(registry: Reader) -> list[PendingErasure]:
    """Every erasure that waits, what is due first; without cases where nothing holds it."""
    records = registry.awaiting_erasure()
    cases = registry.cases.open_of([one.id for one in records])
    return [
        PendingErasure(
            *(one.id, one.erasure_asked_at, one.erasure_due_at),
            tuple(it.id for it in cases[one.id]),
            scope=one.erasure_scope or ErasureScope.HOLDER,
        )
        for one in records
        if one.erasure_asked_at is not None and one.erasure_due_at is not None
    ]


def _find_certificate(registry: Reader, record: DocumentRecord) -> ErasureCertificate | None:
    if record.erasure_number is None:
        return None
    for one in read_audit(registry, record.erasure_number - 1, 1):
        if one.entry.action in CERTIFIED and one.entry.subject == record.id:
            return certify_erasure(one)
    return None


@on_writer
def block_document(call: WriterCall, document: Document, actor: str) -> str:
    """Blocks a known document: every attempt under it is refused. Returns its id."""
    record = find_document(call.registry, document, call.now.date())
    call.commit(AuditEntry(actor, "document.blocked", record.id), DocumentBlock(record.id))
    return record.id


def watch_face(
    registrar: Runner, vector: Floats, reason: str, actor: str, second: SecondTemplate | None = None
) -> int:
    """Puts a rotated face float32[d] on the watch-list; returns the entry's id. `second` is the
    same face by a second model.

    `VectorInvalid` where it is not of unit length; `RequestError` for a reason of a case's form.
    """
    if is_id(reason.removeprefix(BY_CASE)):
        raise RequestError("a reason is no case's id alone: say it in words")
    vector = check_vectors(vector[None], registrar.gallery.dim)[0]

    def perform(writer: Writer, now: datetime) -> int:
        entry = WatchEntry(
            id=writer.next_watch_id(),
            document_lookup=None,
            template=vector,
            reason=reason,
            added_at=now,
            second=second,
        )
        writer.commit([AuditEntry(actor, "watchlist.added", str(entry.id)), entry])
        registrar.watchlist.add(entry)
        return entry.id

    return registrar.run(perform)


def read_lines(
    registry: Reader,
    gallery: Gallery,
    document: Document,
    probe: Floats,
    threshold: float,
    *,
    actor: str,
    audit: Audit,
    carrier: str | None = None,
) -> FoundLines:
    """The lines under a document if the probe, float32[d], is its holder's face; for operators.

    Operators see another face's score, and `NotFound` where nobody holds the document. Audited
    before anything is returned.
    """
    today = utc_now().date()

    def find() -> DocumentRecord:
        return find_holder(registry, document, today).require_consent(carrier)

    record, score = score_holder(find, gallery, probe)
    is_holder = score is not None and score >= threshold
    lines = tuple(registry.lines_of(record.id)) if is_holder else ()
    audit(AuditEntry(actor, "lines.read", record.id, {"shown": is_holder, "lines": len(lines)}))
    open_ids = [line.id for line in lines if line.closed_at is None]
    return FoundLines(is_holder, score, threshold, lines, registry.numbers(open_ids))


def show_lines(
    registry: Reader,
    gallery: Gallery,
    document: Document,
    probe: Floats,
    threshold: float,
    *,
    guard: Guard,
    audit: CountingAudit,
) -> FoundLines:
    """The same for clients: an unknown document answers like another face, without a score.

    Otherwise every outlet could ask how like two people are, or who is enrolled anywhere. What
    fails is counted, and bounded, whether or not somebody holds the document; so is a match that
    was a near one. The holder's own score is not for tenants.
    """
    asked = find_counted(registry, document, utc_now().date())
    actor, carrier = guard.caller.actor, guard.caller.carrier
    guard.require(asked)
    entries: list[AuditEntry] = []
    given = (registry, gallery, document, probe, threshold)
    refused: NotFound | None = None
    try:
        found = read_lines(*given, actor=actor, audit=entries.append, carrier=carrier)
    except NotFound as error:
        refused = error
        found = FoundLines(False, None, threshold)
        entries = [AuditEntry(actor, "lines.read", UNHELD, {"shown": False, "lines": 0})]
    told = [asked] if guard.tells(found.score, threshold) else []
    audit(entries[0], guard.count(*told, is_failure=not found.is_holder))
    guard.settle(*told)
    if isinstance(refused, ConsentWithdrawn):
        raise refused
    if not found.is_holder:
        return FoundLines(False, None, threshold)
    return found if carrier is None else structs.replace(found, score=None)


def find_erasable(
    registry: Reader, target: Document | str, on: date, carrier: str | None = None
) -> DocumentRecord:
    """The document that a tenant may erase; a `carrier` of None may erase all.

    `NotFound` where nobody holds the document, or where the tenant never had a line under it, nor
    one of a minor whom the holder answers for, nor bound it to a face; `TenantConflict` where
    another tenant has, or had, one too; `HolderMoved` while a minor's line is in use.
    """
    record = find_target(registry, target, on)
    _require_own(registry, record, carrier)
    guarded = find_guarded(registry, record) if carrier is not None else []
    if any(line.status is not LineStatus.CLOSED for line in guarded):
        raise HolderMoved("the holder answers for a minor's line in use: close that line first")
    return record


def find_guarded(registry: Reader, record: DocumentRecord) -> list[LineRecord]:
    return list(registry.lines_by_id(registry.people.guarded_by(record.id)).values())


def _require_own(registry: Reader, record: DocumentRecord, carrier: str | None) -> None:
    """`NotFound` or `TenantConflict`, as `find_erasable` says."""
    if carrier is None:
        return
    tenants = find_tenants(registry, record)
    if carrier not in tenants:
        raise NotFound(NOBODY)
    if len(tenants) > 1:
        raise TenantConflict(
            "other carriers have lines under this document: ask the operator to erase it"
        )


def find_tenants(registry: Reader, record: DocumentRecord) -> set[str]:
    """The carriers that have, or had, a line under the document or of whom it answers for."""
    lines = [*registry.lines_of(record.id), *find_guarded(registry, record)]
    # Of a guardian whose ties have ended there is neither; whoever bound the face is still known.
    return {line.carrier for line in lines} | registry.people.bound_by(record.id)


def find_target(registry: Reader, target: Document | str, on: date) -> DocumentRecord:
    """The holder of a document, presented or by its id; `NotFound` for none, or one erased."""
    if isinstance(target, Document):
        return find_holder(registry, target, on)
    record = registry.documents_by_id([target]).get(target) if is_id(target) else None
    if record is None or record.is_erased:
        raise NotFound(NOBODY)
    return record


def find_holder(registry: Reader, document: Document, on: date) -> DocumentRecord:
    """Like `find_document`, and `NotFound` where the holder has been erased."""
    record = find_document(registry, document, on)
    if record.is_erased:
        raise NotFound(NOBODY)
    return record


def look_up(registry: Reader, document: Document, on: date) -> bytes:
    """The keyed digest of a document; `RequestError` for a number that cannot be one."""
    require_checkable(document)
    checked = check_document(document, on)
    if not checked.is_well_formed:
        raise RequestError(
            "this is no number of this document type: compare each digit, and the type"
        )
    return document_look_up(registry.vault, checked)


def find_counted(registry: Reader, document: Document, on: date) -> str:
    """By what a document is counted, as `name_counted` says."""
    lookup = look_up(registry, document, on)
    return name_counted(lookup, registry.documents([lookup]).get(lookup))


def find_document(registry: Reader, document: Document, on: date) -> DocumentRecord:
    """The registry's row for a document: its holder's, or the block that an erasure left.

    `NotFound` where there is none, `RequestError` for a number that cannot be one.
    """
    lookup = look_up(registry, document, on)
    record = registry.documents([lookup]).get(lookup)
    if record is None:
        raise NotFound(NOBODY)
    return record
