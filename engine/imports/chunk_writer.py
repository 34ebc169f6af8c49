"""Writers of chunks of judged rows: into the registry, or as a dry run."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.imports.columns import Field, RowFault
from engine.imports.import_report import FaultReport, Tally, count_chunk
from engine.imports.journal import Entry, Journal
from engine.imports.row_faces import JudgedRow
from engine.matching.bulk_enrollment import (
    ADMITTED,
    Admission,
    AdmissionPlan,
    HolderCache,
    Subscriber,
    admit_planned,
    plan_admission,
)
from engine.matching.comparison import WatchList
from engine.matching.registrar import Registrar
from engine.matching.requests import document_look_up
from engine.matching.samples import NO_CROPS, CropPolicy
from engine.registry.rows import read_apart
from engine.registry.store import Reader
from engine.registry.vault import Vault
from engine.registry.writer import Writer
from indexes.gallery import Gallery
from schema.reasons import RECORD_DAMAGED, About, Reason


def find_look_alikes(
    registry: Reader,
    gallery: Gallery,
    vectors: NDArray[np.float32],
    document_ids: Sequence[str],
    threshold: float,
) -> NDArray[np.bool_]:
    """Mask bool[n] of the vectors float32[n, d] that match another document's face.

    Searched in the gallery and among the earlier rows of the batch, at `threshold` or above.
    """
    if not len(vectors):
        return np.zeros(0, np.bool_)
    hits = gallery.range_search(vectors, threshold).hits
    # A damaged reference is nobody's.
    owners = read_apart(np.unique(hits.ids).tolist(), registry.documents_of)
    known = np.array(
        [
            any(owners.get(int(key), own) != own for key in hits.of(place)[0])
            for place, own in enumerate(document_ids)
        ]
    )
    _, codes = np.unique(np.array(document_ids), return_inverse=True)
    # This product is rounded differently from a score, which does not matter for a count.
    is_alike = np.tril(vectors @ vectors.T >= threshold, -1)
    found: NDArray[np.bool_] = known | (is_alike & (codes[:, None] != codes)).any(axis=1)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionTerms:
    """Thresholds `same_document` (holder's reference) and `review` (look-alikes, watch-list).

    `counts_look_alikes` costs a search of the whole gallery for each chunk. `crops` says which
    faces are kept of the references.
    """

    actor: str
    same_document: float
    review: float
    counts_look_alikes: bool = True
    crops: CropPolicy = NO_CROPS


class ChunkWriter(Protocol):
    """Receives chunks of rows, one at a time and in order."""

    @property
    def tally(self) -> Tally:
        """Counts of all rows written."""
        ...

    def write(self, rows: Sequence[JudgedRow]) -> Future[None]:
        """Completes once the rows are reported and, but for a dry run, durable."""
        ...


class RegistryWriter:
    """Admits rows through the registrar: report and journal first, then one transaction."""

    def __init__(
        self,
        registrar: Registrar,
        registry: Reader,
        report: FaultReport,
        journal: Journal,
        terms: AdmissionTerms,
    ) -> None:
        self._registrar = registrar
        self._registry = registry
        self._journal = journal
        self._terms = terms
        self._report = report
        self.tally = Tally() if journal.entry is None else journal.entry.tally

    def write(self, rows: Sequence[JudgedRow]) -> Future[None]:
        return self._registrar.schedule(lambda writer, _now: self._perform(writer, rows))

    def _perform(self, writer: Writer, rows: Sequence[JudgedRow]) -> None:
        gallery, subscribers = self._registrar.gallery, list_subscribers(rows)
        plan = plan_admission(
            self._registry, gallery, HolderCache(), subscribers, self._terms.same_document
        )
        alike = 0
        if self._terms.counts_look_alikes:
            alike = count_look_alikes(
                self._registry, gallery, subscribers, plan, self._terms.review
            )
        watch, review = self._registrar.watchlist, self._terms.review
        watched = find_watched(self._registry.vault, watch, subscribers, review)
        counted = report_chunk(self._report, rows, plan.admissions, watched, alike)
        entry = self._journal_entry(rows[-1].number, counted)
        self._journal.add(entry)
        admit_planned(
            writer,
            gallery,
            plan,
            actor=self._terms.actor,
            subject=self._journal.import_id,
            detail={"chunk": entry.chunk, "rows": len(rows), "failed": counted.failed},
            crops=self._terms.crops,
        )
        self.tally = entry.tally

    def _journal_entry(self, last_row: int, counted: Tally) -> Entry:
        last = self._journal.entry
        return Entry(
            chunk=1 if last is None else last.chunk + 1,
            last_row=last_row,
            report_bytes=self._report.size_bytes,
            audit_number=self._registry.audit_head()[0],
            tally=self.tally.plus(counted),
        )


class DryRunWriter:
    """Finds every fault that an import would find, and writes nothing but the report.

    It holds each document of the file and its face, about a kilobyte at 128 dimensions.
    Look-alikes are not counted.
    """

    def __init__(
        self,
        registry: Reader,
        gallery: Gallery,
        watch: WatchList,
        report: FaultReport,
        terms: AdmissionTerms,
    ) -> None:
        self._registry = registry
        self._gallery = gallery
        self._watch, self._report, self._terms = watch, report, terms
        self._known = HolderCache(is_dry_run=True)
        self.tally = Tally()

    def write(self, rows: Sequence[JudgedRow]) -> Future[None]:
        subscribers = list_subscribers(rows)
        terms = self._terms
        plan = plan_admission(
            self._registry, self._gallery, self._known, subscribers, terms.same_document
        )
        watched = find_watched(self._registry.vault, self._watch, subscribers, terms.review)
        counted = report_chunk(self._report, rows, plan.admissions, watched, look_alikes=0)
        self.tally = self.tally.plus(counted)
        done: Future[None] = Future()
        done.set_result(None)
        return done


def report_chunk(
    report: FaultReport,
    rows: Sequence[JudgedRow],
    admissions: Sequence[Admission],
    watched: Sequence[bool],
    look_alikes: int,
) -> Tally:
    """Reports and counts what was decided on the rows of a chunk; of those that had not failed
    before there is an admission, and whether they are watched, in their order."""
    decided = iter(zip(admissions, watched, strict=True))
    found: list[Admission | None] = []
    faults: list[tuple[RowFault, ...]] = []
    for row in rows:
        if row.subscriber is None:
            found.append(None)
            faults.append(row.faults)
            continue
        admission, is_watched = next(decided)
        found.append(admission)
        faults.append(row.faults + _list_faults(admission, is_watched=is_watched))
    report.add([row.number for row in rows], faults)
    return count_chunk(rows, found, faults, look_alikes)


def find_watched(
    vault: Vault, watch: WatchList, subscribers: Sequence[Subscriber], review: float
) -> list[bool]:
    """True for each that is on the watch-list, by face or document."""
    if not subscribers or not len(watch):
        return [False] * len(subscribers)
    vectors = np.stack([one.vector for one in subscribers])
    hits = watch.search(vectors, review).hits
    return [
        len(hits.of(place)[0]) > 0 or watch.has_document(document_look_up(vault, one.document))
        for place, one in enumerate(subscribers)
    ]


def count_look_alikes(
    registry: Reader,
    gallery: Gallery,
    subscribers: Sequence[Subscriber],
    plan: AdmissionPlan,
    review: float,
) -> int:
    """Counts the admitted rows that resemble another document's face; a search of the whole
    gallery."""
    admitted = _admitted(subscribers, plan)
    ids = [document_id for _, document_id in admitted]
    vectors = np.stack([one.vector for one, _ in admitted]) if admitted else plan.vectors
    return int(np.count_nonzero(find_look_alikes(registry, gallery, vectors, ids, review)))


def list_subscribers(rows: Sequence[JudgedRow]) -> list[Subscriber]:
    """The subscribers of rows that have not failed."""
    return [row.subscriber for row in rows if row.subscriber is not None]


def _admitted(
    subscribers: Sequence[Subscriber], plan: AdmissionPlan
) -> list[tuple[Subscriber, str]]:
    """The subscribers that were not refused, with their document ids."""
    return [
        (one, admission.document_id)
        for one, admission in zip(subscribers, plan.admissions, strict=True)
        if admission.document_id is not None
    ]


def _name_field(refusal: str) -> Field | None:
    if refusal == RECORD_DAMAGED:
        return None
    is_of_line = Reason(refusal).row.about is About.LINE
    return Field.MSISDN if is_of_line else Field.DOCUMENT_NUMBER


def _list_faults(admission: Admission, *, is_watched: bool) -> tuple[RowFault, ...]:
    if admission.refusal is not None:
        return (RowFault(_name_field(admission.refusal), admission.refusal),)
    faults = []
    if admission.name_differs:
        faults.append(RowFault(Field.NAME, Reason.NAME_MISMATCH, is_failure=False))
    if is_watched:
        faults.append(RowFault(None, Reason.WATCHLISTED, is_failure=False))
    return tuple(faults)


def was_committed(registry: Reader, import_id: str, entry: Entry) -> bool:
    """True where the audit chain has the chunk of a journal entry."""
    return any(
        record.entry.action == ADMITTED
        and record.entry.subject == import_id
        and record.entry.detail.get("chunk") == entry.chunk
        for record in registry.audit_entries(after=entry.audit_number)
    )
