"""Bulk enrollment of an existing base: `admit_planned` for subscribers, `admit_references` for
synthetic people.

Faces are not compared across documents, and no line is counted against a limit: a sweep finds
duplicates in an existing base, and people judge them.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np

from engine.matching.comparison import fuse_seconds, score_best
from engine.matching.documents import CheckedDocument, check_document
from engine.matching.registrar import Registrar
from engine.matching.requests import document_look_up, name_look_up
from engine.matching.samples import Sample, choose_crops
from engine.registry.audit import AuditEntry
from engine.registry.database import new_id, utc_now
from engine.registry.documents import ActivatedDocument, DocumentRecord, Identity
from engine.registry.lines import LineRecord
from engine.registry.people import Standing
from engine.registry.references import NewReference
from engine.registry.rows import Write, read_apart
from engine.registry.store import Reader
from engine.registry.vault import Vault
from engine.registry.writer import Writer, publish
from indexes.base import Floats
from indexes.gallery import Gallery
from schema import frozen
from schema.documents import Document, DocumentStatus, RowOutcome
from schema.options import NO_CROPS, CropPolicy
from schema.people import NO_CONSENT, Consent
from schema.reasons import FACE_NOT_KEPT, RECORD_DAMAGED, Reason


@dataclass(slots=True, eq=False)
class Holder:
    """A document on record, or one that a row has brought; `vectors` float32[n, d]."""

    record: DocumentRecord
    vectors: Floats = field(repr=False)
    bars: Reason | None = None
    """Why the document enrolls nobody any more: replaced, or its holder reported dead."""

    @property
    def is_bound(self) -> bool:
        """False for a document that is known from attempts alone, none of them approved."""
        return self.record.status is not DocumentStatus.ATTEMPTED

    def find_bar(self, one: Subscriber) -> Reason | None:
        """The reason for which this subscriber is not taken in under it."""
        if self.record.status is DocumentStatus.BLOCKED:
            return Reason.DOCUMENT_BLOCKED
        if self.record.refuses_face(one.carrier or None, one.consent):
            return Reason.CONSENT_WITHDRAWN
        if self.record.awaits_erasure:
            return Reason.ERASURE_PENDING
        return self.bars

    def renew(self, one: Subscriber) -> list[Write]:
        """Ends a withdrawal, if this subscriber's consent was given since, and keeps that."""
        writes = self.record.renew(one.carrier, one.consent, "sosie", keeps=True)
        if writes:
            left = {**(self.record.withdrawn or {})}
            del left[one.carrier]
            self.record = replace(self.record, withdrawn=left)
        return writes

    def score(self, vector: Floats) -> float | None:
        """The likeness of a face float32[d] to its holder's; None where it has no reference."""
        return score_best(vector, self.vectors)


class HolderCache:
    """Cache of documents and numbers by keyed look-up: those on record, and what rows add to them.

    One that a damaged row keeps from being read is not in it, and is nobody's to take.
    Nothing is read twice, so a cache serves one call on the writer's thread; or it `is_dry_run`,
    beside a writer, and takes a document as free whose reference is newer than the gallery.
    """

    def __init__(self, *, is_dry_run: bool = False) -> None:
        self._is_dry_run = is_dry_run
        self.holders: dict[bytes, Holder | None] = {}
        self.numbers: dict[bytes, str | None] = {}
        """The document that each number is in use under; None where it is free."""

    def load(
        self,
        registry: Reader,
        gallery: Gallery,
        documents: Sequence[bytes],
        numbers: Sequence[bytes],
    ) -> None:
        """Reads what is on record under these look-ups."""
        unknown = [key for key in documents if key not in self.holders]
        self.holders |= read_apart(unknown, partial(self._read_holders, registry, gallery))
        unseen = [key for key in numbers if key not in self.numbers]
        self.numbers |= read_apart(unseen, partial(_read_users, registry))

    def has_read(self, document: bytes, number: bytes | None) -> bool:
        """False where a damaged row is in the way."""
        return document in self.holders and (number is None or number in self.numbers)

    def _read_holders(
        self, registry: Reader, gallery: Gallery, lookups: Sequence[bytes]
    ) -> dict[bytes, Holder | None]:
        """Reads the holder of each document; None where it is free."""
        records = registry.documents(lookups)
        if self._is_dry_run:
            records = {
                key: one
                for key, one in records.items()
                if all(reference in gallery for reference in one.reference_ids)
            }
        held = _read_vectors(gallery, list(records.values()))
        named = [one.id for one in records.values()]
        standing = registry.people.standing(named) if named else Standing()
        bars = dict.fromkeys(standing.replaced, Reason.DOCUMENT_REPLACED)
        bars |= dict.fromkeys(standing.deceased, Reason.HOLDER_DECEASED)
        found = {key: Holder(one, held[one.id], bars.get(one.id)) for key, one in records.items()}
        return dict.fromkeys(lookups) | found


def _read_users(registry: Reader, lookups: Sequence[bytes]) -> dict[bytes, str | None]:
    """Reads the document that each number is in use under; None where it is free."""
    lines = registry.lines_in_use(lookups)
    return {key: lines[key].document_id if key in lines else None for key in lookups}


def _read_vectors(gallery: Gallery, records: Sequence[DocumentRecord]) -> dict[str, Floats]:
    """The references of each document: float32[n, d]."""
    ids = [key for record in records for key in record.reference_ids]
    rows = gallery.vectors(np.array(ids, dtype=np.int64))
    counts = np.cumsum([len(record.reference_ids) for record in records])[:-1]
    parts = np.split(rows, counts) if records else []
    return {record.id: part for record, part in zip(records, parts, strict=True)}


@frozen
class OpenedLine:
    """A line that was opened elsewhere; `msisdn` in E.164, carrier and outlet are known."""

    msisdn: str = field(repr=False)
    carrier: str
    outlet: str
    opened_at: datetime


@frozen(eq=False)
class Subscriber:
    """Subscriber of an existing base: a well-formed document, a rotated unit vector float32[d] and
    perhaps a line. `consent` is stored where the document had no holder before. `samples` are
    the photographs that the vector is of, `live` and `portrait`."""

    name: str = field(repr=False)
    document: CheckedDocument
    vector: Floats = field(repr=False)
    line: OpenedLine | None = None
    consent: Consent = NO_CONSENT
    samples: Mapping[str, Sample] = field(default_factory=dict, repr=False)
    carrier: str = ""
    """Whose base it is of; that of its line, where it brings one."""

    def __post_init__(self) -> None:
        if self.line is not None:
            object.__setattr__(self, "carrier", self.line.carrier)


class Admission(RowOutcome, frozen=True):
    """The outcome for one subscriber: refused for a `Reason` or another code, or what is new.

    `document_id` is None exactly where the subscriber is refused.
    """

    document_id: str | None = None

    @classmethod
    def refuse(cls, refusal: str) -> Admission:
        return cls(refusal, adds_reference=False, adds_line=False, name_differs=False)


@dataclass(slots=True, eq=False)
class AdmissionPlan:
    """An admission for each subscriber, in order, and the rows that make them durable.

    `vectors`, float32[d] each, are the new references, of the documents `referenced`, and `samples`
    their photographs, where there are any.
    """

    admissions: list[Admission] = field(default_factory=list)
    documents: list[DocumentRecord] = field(default_factory=list)
    activated: list[DocumentRecord] = field(default_factory=list)
    referenced: list[str] = field(default_factory=list)
    vectors: Sequence[Floats] | Floats = field(default_factory=list, repr=False)
    lines: list[LineRecord] = field(default_factory=list)
    renewed: list[Write] = field(default_factory=list)
    samples: list[Mapping[str, Sample]] = field(default_factory=list, repr=False)


def plan_admission(
    registry: Reader,
    gallery: Gallery,
    known: HolderCache,
    subscribers: Sequence[Subscriber],
    same_document: float,
    unkept: Container[str] = frozenset(),
) -> AdmissionPlan:
    """Decides on each subscriber in order, and adds what is admitted to the cache; none is of the
    carriers `unkept`, whatever held when its row was read.

    A document has one reference: a later row of it must show the same face, at or above
    `same_document`, and may bring another line. A number is one document's. A face that is known
    under another document is not looked for: a sweep finds it.
    """
    planner = _Planner(registry.vault, known, same_document, unkept)
    keys = [document_look_up(registry.vault, one.document) for one in subscribers]
    numbers = [
        None if one.line is None else registry.vault.look_up("msisdn", one.line.msisdn)
        for one in subscribers
    ]
    known.load(registry, gallery, keys, [key for key in numbers if key is not None])
    planner.made.admissions += map(planner.admit, subscribers, keys, numbers)
    return planner.made


class _Planner:
    """Collects the rows of one plan."""

    def __init__(
        self, vault: Vault, known: HolderCache, same_document: float, unkept: Container[str]
    ) -> None:
        self._vault = vault
        self._known = known
        self._same_document, self._unkept = same_document, unkept
        self._vectors: list[Floats] = []
        self.made = AdmissionPlan(vectors=self._vectors)

    def admit(self, one: Subscriber, lookup: bytes, msisdn_lookup: bytes | None) -> Admission:
        if not self._known.has_read(lookup, msisdn_lookup):
            return Admission.refuse(RECORD_DAMAGED)
        holder = self._known.holders[lookup]
        user = None if msisdn_lookup is None else self._known.numbers[msisdn_lookup]
        refusal = self._refuse(one, holder, user)
        if refusal is not None:
            return Admission.refuse(refusal)
        name_lookup = name_look_up(self._vault, lookup, one.document.name)
        name_differs = (
            holder is not None
            and holder.is_bound
            and holder.record.name_lookup not in (None, name_lookup)
        )
        adds_reference = holder is None or not len(holder.vectors)
        if holder is None or not holder.is_bound:
            holder = self._bind(one, lookup, name_lookup, holder)
        if adds_reference:
            holder.vectors = one.vector[None]
            self.made.referenced.append(holder.record.id)
            self._vectors.append(one.vector)
            self.made.samples.append(one.samples)
        self.made.renewed += holder.renew(one)
        adds_line = False
        if one.line is not None and msisdn_lookup is not None and user is None:
            self._open_line(one.line, msisdn_lookup, holder.record.id)
            adds_line = True
        return Admission(None, adds_reference, adds_line, name_differs, holder.record.id)

    def _refuse(self, one: Subscriber, holder: Holder | None, user: str | None) -> str | None:
        if one.carrier in self._unkept:
            return FACE_NOT_KEPT
        if holder is not None and (bars := holder.find_bar(one)) is not None:
            return bars
        score = None if holder is None else holder.score(one.vector)
        if score is not None and not score >= self._same_document:
            return Reason.DOCUMENT_HELD_BY_ANOTHER_FACE
        if user is not None and (holder is None or user != holder.record.id):
            return Reason.LINE_IN_USE
        return None

    def _bind(
        self, one: Subscriber, lookup: bytes, name_lookup: bytes, known: Holder | None
    ) -> Holder:
        """A document that binds its holder from now on: a new one, or one known from attempts."""
        base = DocumentRecord(
            id=new_id(), kind=one.document.type, lookup=lookup, name_lookup=name_lookup
        )
        row = replace(
            base if known is None else known.record,
            name_lookup=name_lookup,
            status=DocumentStatus.ACTIVE,
            expires_on=one.document.expires_on,
            identity=Identity(one.document.number, one.name, one.consent.kept),
        )
        (self.made.documents if known is None else self.made.activated).append(row)
        vectors = np.empty((0, len(one.vector)), np.float32) if known is None else known.vectors
        self._known.holders[lookup] = holder = Holder(row, vectors)
        return holder

    def _open_line(self, line: OpenedLine, msisdn_lookup: bytes, document_id: str) -> None:
        self.made.lines.append(
            LineRecord(
                id=new_id(),
                msisdn_lookup=msisdn_lookup,
                msisdn=line.msisdn,
                document_id=document_id,
                carrier=line.carrier,
                outlet=line.outlet,
                enrollment_id=None,
                opened_at=line.opened_at,
            )
        )
        self._known.numbers[msisdn_lookup] = document_id


CHUNK_SIZE = 10_000
ADMITTED = "subscribers.admitted"
"""The action of the audit entry that each chunk of an import leaves."""


def admit_references(
    registrar: Registrar,
    documents: Sequence[Document],
    vectors: Floats,
    actor: str,
    report: Callable[[int, int], object] = lambda _done, _total: None,
) -> None:
    """Enters new, well-formed documents, each with its reference, a rotated unit row of
    float32[n, d]. Each chunk is one durable transaction, visible to searches before the next, and
    `report(done, total)` follows it. `StorageFailed` where one of its documents is known."""
    assert len(documents) == len(vectors), "one reference for each document"
    for start in range(0, len(documents), CHUNK_SIZE):
        part = slice(start, start + CHUNK_SIZE)

        def admit(writer: Writer, now: datetime, part: slice = part) -> None:
            given = documents[part]
            new = [_add(writer.vault, one, check_document(one, now.date())) for one in given]
            plan = AdmissionPlan(
                documents=new, referenced=[one.id for one in new], vectors=vectors[part]
            )
            admit_planned(
                writer, registrar.gallery, plan, actor=actor, subject="references", detail={}
            )

        registrar.run(admit)
        report(min(part.stop, len(documents)), len(documents))


def _add(vault: Vault, given: Document, checked: CheckedDocument) -> DocumentRecord:
    assert checked.is_well_formed, "its number identifies somebody"
    lookup = document_look_up(vault, checked)
    return DocumentRecord(
        id=new_id(),
        kind=checked.type,
        lookup=lookup,
        name_lookup=name_look_up(vault, lookup, checked.name),
        expires_on=checked.expires_on,
        identity=Identity(checked.number, given.name),
    )


def admit_planned(
    writer: Writer,
    gallery: Gallery,
    plan: AdmissionPlan,
    *,
    actor: str,
    subject: str,
    detail: Mapping[str, Any],
    crops: CropPolicy = NO_CROPS,
) -> None:
    """Makes a plan durable and visible, in one transaction with its audit entry.

    To be called on the writer's thread, in the call that made the plan. Raises what `publish` does.
    """
    sequence = writer.sequence + bool(plan.referenced)
    photographs = plan.samples or [{}] * len(plan.referenced)
    seconds = [fuse_seconds([one.second for one in samples.values()]) for samples in photographs]
    references = [
        NewReference(writer.next_reference_id(), document_id, None, vector, sequence, second)
        for document_id, vector, second in zip(plan.referenced, plan.vectors, seconds, strict=True)
    ]
    now = utc_now()
    kept = [
        crop
        for document_id, samples in zip(plan.referenced, photographs, strict=True)
        for crop in choose_crops(
            crops,
            writer.vault,
            samples,
            enrollment_id=None,
            document_id=document_id,
            has_case=False,
            at=now,
        )
    ]
    counts = {"references": len(references), "lines": len(plan.lines), "gallery_sequence": sequence}
    # No consent reference: no erasure takes out what the audit chain has.
    writes = [
        AuditEntry(actor, ADMITTED, subject, {**detail, **counts}),
        *plan.documents,
        *map(ActivatedDocument, plan.activated),
        *references,
        *plan.lines,
        *plan.renewed,
        *kept,
    ]
    publish(writer, gallery, writes, np.asarray(plan.vectors, np.float32))
