"""One run of an import: rows are read, their faces loaded and judged, and chunks of them written
into the registry, or as a dry run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.atomic_files import replacing
from engine.errors import RequestError
from engine.imports.import_report import Entry, FaultReport, Journal, Tally, count_chunk
from engine.imports.row_faces import FaceLoader, JudgedRow, group_rows, judge_row
from engine.imports.row_parser import Field, RawRow, Row, RowFault, RowReader
from engine.matching.bulk_enrollment import (
    ADMITTED,
    AdmissionPlan,
    HolderCache,
    Subscriber,
    admit_planned,
    plan_admission,
)
from engine.matching.comparison import WatchList
from engine.matching.registrar import Registrar
from engine.matching.requests import document_look_up
from engine.registry.rows import read_apart
from engine.registry.store import Reader
from engine.registry.vault import Vault
from engine.registry.writer import Writer
from indexes.gallery import Gallery
from schema.documents import RowOutcome
from schema.options import NO_CROPS, CropPolicy
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
        last = self._journal.entry
        entry = Entry(
            chunk=1 if last is None else last.chunk + 1,
            last_row=rows[-1].number,
            report_bytes=self._report.size_bytes,
            audit_number=self._registry.audit_head()[0],
            tally=self.tally.plus(counted),
        )
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
    admissions: Sequence[RowOutcome],
    watched: Sequence[bool],
    look_alikes: int,
) -> Tally:
    """Reports and counts what was decided on the rows of a chunk; of those that had not failed
    before there is an admission, and whether they are watched, in their order."""
    decided = iter(zip(admissions, watched, strict=True))
    found: list[RowOutcome | None] = []
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
    admitted = [
        (one.vector, admission.document_id)
        for one, admission in zip(subscribers, plan.admissions, strict=True)
        if admission.document_id is not None
    ]
    if not admitted:
        return 0
    vectors, ids = zip(*admitted, strict=True)
    alike = find_look_alikes(registry, gallery, np.stack(vectors), ids, review)
    return int(np.count_nonzero(alike))


def list_subscribers(rows: Sequence[JudgedRow]) -> list[Subscriber]:
    """The subscribers of rows that have not failed."""
    return [row.subscriber for row in rows if row.subscriber is not None]


def _list_faults(admission: RowOutcome, *, is_watched: bool) -> tuple[RowFault, ...]:
    if admission.refusal == RECORD_DAMAGED:
        return (RowFault(None, RECORD_DAMAGED),)
    if admission.refusal is not None:
        is_of_line = Reason(admission.refusal).row.about is About.LINE
        where = Field.MSISDN if is_of_line else Field.DOCUMENT_NUMBER
        return (RowFault(where, admission.refusal),)
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


READ_ROWS = 256
"""Rows parsed at once."""


class Ending(StrEnum):
    """The way in which an import ended."""

    DONE = "done"
    STOPPED = "stopped"
    """By too many failures: the same command continues."""
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportTerms:
    """Parameters of a run.

    `verify`: threshold of the 1:1. About `chunk_rows` share a transaction, and about
    `photographs_at_once` are extracted together. After `stop_after_failures` failed rows the run
    stops at the end of a chunk.
    """

    verify: float
    chunk_rows: int = 512
    photographs_at_once: int = 32
    stop_after_failures: int | None = None


def import_rows(
    raws: Iterable[RawRow],
    reader: RowReader,
    loader: FaceLoader,
    chunk_writer: ChunkWriter,
    terms: ImportTerms,
    report: Callable[[int], None] | None = None,
) -> Ending:
    """Write rows in chunks, in order, while the faces of the next chunk are loaded.

    `report` gets the number of the last row whose faces are loaded. Any exception, interrupts
    included, waits for the chunk that is being written.
    """
    failed_before = chunk_writer.tally.failed
    writing: Future[None] | None = None
    try:
        for chunk in _judge_chunks(raws, reader, loader, terms, report):
            if writing is not None:
                writing.result()
            failed = chunk_writer.tally.failed - failed_before
            if terms.stop_after_failures is not None and failed >= terms.stop_after_failures:
                return Ending.STOPPED
            writing = chunk_writer.write(chunk)
        if writing is not None:
            writing.result()
    finally:
        if writing is not None and not writing.done():
            writing.exception()
    return Ending.DONE


def _judge_chunks(
    raws: Iterable[RawRow],
    reader: RowReader,
    loader: FaceLoader,
    terms: ImportTerms,
    report: Callable[[int], None] | None,
) -> Iterator[list[JudgedRow]]:
    rows = _read_rows(raws, reader)
    groups = group_rows(rows, terms.photographs_at_once, terms.chunk_rows)
    chunk: list[JudgedRow] = []
    for faces in loader.stream(groups):
        chunk += [judge_row(one, terms.verify) for one in faces]
        if report is not None:
            report(chunk[-1].number)
        if len(chunk) >= terms.chunk_rows:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _read_rows(raws: Iterable[RawRow], reader: RowReader) -> Iterator[Row]:
    source = iter(raws)
    while batch := list(islice(source, READ_ROWS)):
        yield from reader.read(batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Result of an import: `tally` over all its runs, `seconds` and `photographs_now` of this run,
    which began after row `resumed_after`."""

    ending: Ending
    is_check: bool
    rows_total: int
    tally: Tally
    seconds: float
    photographs_now: int
    resumed_after: int
    report: Path
    source_digest: str

    @property
    def photographs_per_second(self) -> float:
        return self.photographs_now / self.seconds if self.seconds else 0.0

    @property
    def is_clean(self) -> bool:
        """True where every row of the file was imported, or would be."""
        return self.ending is Ending.DONE and not self.tally.failed

    def to_dict(self) -> dict[str, Any]:
        return {
            "ending": self.ending.value,
            "check": self.is_check,
            "rows_total": self.rows_total,
            **msgspec.to_builtins(self.tally),
            # A dry run stores no reference to compare a later face with.
            "look_alikes": None if self.is_check else self.tally.look_alikes,
            "resumed_after": self.resumed_after,
            "seconds": round(self.seconds, 3),
            "photographs_per_second": round(self.photographs_per_second, 1),
            "report": str(self.report),
            "source_sha256": self.source_digest,
        }

    def write(self, path: Path) -> None:
        """Replace the file atomically; only its owner can read it."""
        try:
            with replacing(path) as beside:
                beside.write_text(json.dumps(self.to_dict(), indent=2) + "\n", "utf-8")
        except OSError as error:
            raise RequestError(f"{path} cannot be written: {error.strerror}") from None
