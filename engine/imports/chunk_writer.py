"""Writers of chunks of judged rows: into the registry, or as a dry run."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.imports.faults import Field, RowFault
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
from engine.matching.requests import NO_CROPS, CropPolicy, document_look_up
from engine.reasons import Reason
from engine.registry.reader import Reader
from engine.registry.writer import Writer
from indexes.gallery import Gallery


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
    owners = registry.documents_of(np.unique(hits.ids).tolist())
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


_FIELD_OF = {
    Reason.DOCUMENT_BLOCKED: Field.DOCUMENT_NUMBER,
    Reason.ERASURE_PENDING: Field.DOCUMENT_NUMBER,
    Reason.HOLDER_DECEASED: Field.DOCUMENT_NUMBER,
    Reason.DOCUMENT_REPLACED: Field.DOCUMENT_NUMBER,
    Reason.DOCUMENT_HELD_BY_ANOTHER_FACE: Field.DOCUMENT_NUMBER,
    Reason.LINE_IN_USE: Field.MSISDN,
}


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
        self._reporter = _ChunkReporter(registry, registrar.watchlist, report, terms)
        self.tally = Tally() if journal.entry is None else journal.entry.tally

    def write(self, rows: Sequence[JudgedRow]) -> Future[None]:
        return self._registrar.schedule(lambda writer, _now: self._perform(writer, rows))

    def _perform(self, writer: Writer, rows: Sequence[JudgedRow]) -> None:
        gallery, subscribers = self._registrar.gallery, _subscribers(rows)
        plan = plan_admission(
            self._registry, gallery, HolderCache(), subscribers, self._terms.same_document
        )
        alike = self._count_look_alikes(gallery, subscribers, plan)
        counted = self._reporter.report(rows, plan, alike)
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

    def _count_look_alikes(
        self, gallery: Gallery, subscribers: Sequence[Subscriber], plan: AdmissionPlan
    ) -> int:
        if not self._terms.counts_look_alikes:
            return 0
        admitted = _admitted(subscribers, plan)
        ids = [document_id for _, document_id in admitted]
        vectors = np.stack([one.vector for one, _ in admitted]) if admitted else plan.vectors
        found = find_look_alikes(self._registry, gallery, vectors, ids, self._terms.review)
        return int(np.count_nonzero(found))


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
        self._same_document = terms.same_document
        self._reporter = _ChunkReporter(registry, watch, report, terms)
        self._known = HolderCache(is_dry_run=True)
        self.tally = Tally()

    def write(self, rows: Sequence[JudgedRow]) -> Future[None]:
        subscribers = _subscribers(rows)
        plan = plan_admission(
            self._registry, self._gallery, self._known, subscribers, self._same_document
        )
        self.tally = self.tally.plus(self._reporter.report(rows, plan, look_alikes=0))
        done: Future[None] = Future()
        done.set_result(None)
        return done


class _ChunkReporter:
    """Reports and counts what was decided on the rows of a chunk."""

    def __init__(
        self, registry: Reader, watch: WatchList, report: FaultReport, terms: AdmissionTerms
    ) -> None:
        self._registry = registry
        self._watch = watch
        self._report = report
        self._review = terms.review

    def report(self, rows: Sequence[JudgedRow], plan: AdmissionPlan, look_alikes: int) -> Tally:
        watched = iter(self._find_watched(_subscribers(rows)))
        decided = iter(plan.admissions)
        admissions: list[Admission | None] = []
        faults: list[tuple[RowFault, ...]] = []
        for row in rows:
            if row.subscriber is None:
                admissions.append(None)
                faults.append(row.faults)
                continue
            admission = next(decided)
            admissions.append(admission)
            faults.append(row.faults + _list_faults(admission, is_watched=next(watched)))
        self._report.add([row.number for row in rows], faults)
        return count_chunk(rows, admissions, faults, look_alikes)

    def _find_watched(self, subscribers: Sequence[Subscriber]) -> list[bool]:
        if not subscribers or not len(self._watch):
            return [False] * len(subscribers)
        vectors = np.stack([one.vector for one in subscribers])
        hits = self._watch.search(vectors, self._review).hits
        vault = self._registry.vault
        return [
            len(hits.of(place)[0]) > 0
            or self._watch.has_document(document_look_up(vault, one.document))
            for place, one in enumerate(subscribers)
        ]


def _subscribers(rows: Sequence[JudgedRow]) -> list[Subscriber]:
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


def _list_faults(admission: Admission, *, is_watched: bool) -> tuple[RowFault, ...]:
    if admission.refusal is not None:
        return (RowFault(_FIELD_OF[admission.refusal], admission.refusal),)
    faults = []
    if admission.name_differs:
        faults.append(RowFault(Field.NAME, Reason.NAME_MISMATCH, is_failure=False))
    if is_watched:
        faults.append(RowFault(None, Reason.WATCHLISTED, is_failure=False))
    return tuple(faults)


def was_committed(registry: Reader, import_id: str, entry: Entry) -> bool:
    """Whether the audit chain has the chunk of a journal entry."""
    return any(
        record.entry.action == ADMITTED
        and record.entry.subject == import_id
        and record.entry.detail.get("chunk") == entry.chunk
        for record in registry.audit_entries(after=entry.audit_number)
    )
