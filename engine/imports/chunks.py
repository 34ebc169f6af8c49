"""A chunk of an import: its plan, made by this process or a running service, the writers that
report it and have it committed, and how it is sealed for its way to the service.

A chunk is planned, report and journal are written, and then the plan is committed; where somebody
has enrolled one of these people in between it is planned anew. So counts, report and journal are
those of an import that had the registry for itself, wherever either side ends.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import field, replace
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from engine.errors import RequestError, SealBroken
from engine.imports.import_report import Entry, FaultReport, Journal, Tally, count_chunk
from engine.imports.row_faces import JudgedRow
from engine.imports.row_parser import Field, RowFault
from engine.matching.bulk_enrollment import (
    ADMITTED,
    AdmissionPlan,
    HolderCache,
    OpenedLine,
    Subscriber,
    admit_planned,
    plan_admission,
)
from engine.matching.documents import CheckedDocument
from engine.matching.judge import Judge
from engine.matching.registrar import Registrar
from engine.matching.requests import document_look_up
from engine.matching.samples import Sample
from engine.registry.references import SecondTemplate
from engine.registry.rows import read_apart
from engine.registry.store import Reader
from engine.registry.vault import Vault
from engine.registry.writer import Writer
from schema import frozen
from schema.documents import AdmittedRow
from schema.people import Consent
from schema.reasons import FACE_NOT_KEPT, RECORD_DAMAGED, About, PhotographKind, Reason


@frozen
class Chunk:
    """Subscribers of one import; `rows` and `failed` count its rows, `audit_number` is the last
    audit entry before it. To count look-alikes costs a search of the whole gallery."""

    import_id: str
    number: int
    rows: int
    failed: int
    audit_number: int
    counts_look_alikes: bool
    subscribers: tuple[Subscriber, ...] = field(repr=False)


@frozen
class ChunkAnswer:
    """The plan of a chunk; `is_committed` where it is durable. `look_alikes` is counted when it is
    planned first."""

    rows: tuple[AdmittedRow, ...]
    look_alikes: int = 0
    is_committed: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 over the plan: by it a commit says which one it is of."""
        return hashlib.sha256(msgspec.json.encode(self.rows)).hexdigest()


AdmitChunk = Callable[[Chunk, str | None], ChunkAnswer]
"""Plans a chunk (None), or commits the plan of this digest; else it gives a new plan."""


@frozen(eq=False)
class ChunkPlanner:
    """Decides on subscribers by the registry, the gallery and the watch-list of the judge, and its
    thresholds `same_document` (holder's reference) and `review` (look-alikes, watch-list)."""

    judge: Judge
    actor: str

    def plan(
        self, subscribers: Sequence[Subscriber], known: HolderCache
    ) -> tuple[AdmissionPlan, tuple[AdmittedRow, ...]]:
        """The plan, and what it says of each; changes nothing."""
        judge = self.judge
        terms = (judge.thresholds.same_document, judge.unkept)
        plan = plan_admission(judge.store, judge.gallery, known, subscribers, *terms)
        both = zip(subscribers, plan.admissions, strict=True)
        # Who is refused is not looked for: of some carriers nobody may be.
        watched = self._find_watched([one for one, made in both if made.refusal is None])
        return plan, tuple(
            AdmittedRow(
                one.refusal,
                one.adds_reference,
                one.adds_line,
                one.name_differs,
                one.refusal is None and next(watched),
            )
            for one in plan.admissions
        )

    def answer(
        self, chunk: Chunk, *, is_beside_writer: bool = False
    ) -> tuple[AdmissionPlan, ChunkAnswer]:
        """The first plan of a chunk, on the writer's thread or beside it."""
        plan, rows = self.plan(chunk.subscribers, HolderCache(is_dry_run=is_beside_writer))
        alike = self._count_look_alikes(chunk.subscribers, plan) if chunk.counts_look_alikes else 0
        return plan, ChunkAnswer(rows, alike)

    def commit(self, writer: Writer, chunk: Chunk, plan: AdmissionPlan) -> None:
        """Makes a plan durable; on the writer's thread."""
        admit_planned(
            writer,
            self.judge.gallery,
            plan,
            actor=self.actor,
            subject=chunk.import_id,
            detail={"chunk": chunk.number, "rows": chunk.rows, "failed": chunk.failed},
            crops=self.judge.crops,
        )

    def commit_planned(self, writer: Writer, chunk: Chunk, planned: str) -> ChunkAnswer:
        """Makes the chunk durable if its plan is still the one with this digest; else the new plan,
        and nothing is changed. Asked again for what is durable it says so. On the writer's
        thread."""
        if was_committed(self.judge.store, chunk.import_id, chunk.number, chunk.audit_number):
            return ChunkAnswer((), is_committed=True)
        plan, rows = self.plan(chunk.subscribers, HolderCache())
        answer = ChunkAnswer(rows)
        if answer.digest != planned:
            return answer
        self.commit(writer, chunk, plan)
        return replace(answer, is_committed=True)

    def _find_watched(self, subscribers: Sequence[Subscriber]) -> Iterator[bool]:
        """True for each that is on the watch-list, by face or document."""
        watch, review = self.judge.watch, self.judge.thresholds.review
        if not subscribers or not len(watch):
            yield from [False] * len(subscribers)
            return
        hits = watch.search(np.stack([one.vector for one in subscribers]), review).hits
        for place, one in enumerate(subscribers):
            lookup = document_look_up(self.judge.store.vault, one.document)
            yield len(hits.of(place)[0]) > 0 or watch.has_document(lookup)

    def _count_look_alikes(self, subscribers: Sequence[Subscriber], plan: AdmissionPlan) -> int:
        """Counts the admitted that match another document's face, in the gallery or of an earlier
        row of the chunk."""
        admitted = [
            (one.vector, admission.document_id)
            for one, admission in zip(subscribers, plan.admissions, strict=True)
            if admission.document_id is not None
        ]
        if not admitted:
            return 0
        vectors, documents = np.stack([one for one, _ in admitted]), [key for _, key in admitted]
        review = self.judge.thresholds.review
        hits = self.judge.gallery.range_search(vectors, review).hits
        # A damaged reference is nobody's.
        owners = read_apart(np.unique(hits.ids).tolist(), self.judge.store.documents_of)
        is_known = np.array(
            [
                any(owners.get(int(key), own) != own for key in hits.of(place)[0])
                for place, own in enumerate(documents)
            ]
        )
        _, codes = np.unique(np.array(documents), return_inverse=True)
        # This product is rounded differently from a score, which does not matter for a count.
        is_alike = np.tril(vectors @ vectors.T >= review, -1)
        found = is_known | (is_alike & (codes[:, None] != codes)).any(axis=1)
        return int(np.count_nonzero(found))


class LocalAdmission:
    """Has the registrar of this process plan a chunk, and then commit that plan: nobody else writes
    meanwhile."""

    def __init__(self, registrar: Registrar, planner: ChunkPlanner) -> None:
        self._registrar, self._planner = registrar, planner
        self._plan = AdmissionPlan()

    def __call__(self, chunk: Chunk, planned: str | None) -> ChunkAnswer:
        def perform(writer: Writer, _: datetime) -> ChunkAnswer:
            if planned is None:
                self._plan, answer = self._planner.answer(chunk)
                return answer
            self._planner.commit(writer, chunk, self._plan)
            return ChunkAnswer((), is_committed=True)

        return self._registrar.run(perform)


class RegistryWriter:
    """Has each chunk of rows admitted, one at a time and in order: reported and in the journal
    before it is committed."""

    def __init__(
        self,
        admit: AdmitChunk,
        registry: Reader,
        report: FaultReport,
        journal: Journal,
        *,
        counts_look_alikes: bool = True,
        rest: float = 0.0,
    ) -> None:
        """`rest`: how long it waits after a commit, as a multiple of what that took."""
        self._admit, self._registry = admit, registry
        self._report, self._journal = report, journal
        self._counts_look_alikes, self._rest = counts_look_alikes, rest
        self._worker = ThreadPoolExecutor(1, "import")
        self.tally = Tally() if journal.entry is None else journal.entry.tally
        """Counts of all rows written."""

    def write(self, rows: Sequence[JudgedRow]) -> Future[None]:
        """Completes once the rows are reported and durable."""
        return self._worker.submit(self._perform, rows)

    def close(self) -> None:
        self._worker.shutdown()

    def _perform(self, rows: Sequence[JudgedRow]) -> None:
        last, size_bytes = self._journal.entry, self._report.size_bytes
        chunk = Chunk(
            import_id=self._journal.import_id,
            number=1 if last is None else last.chunk + 1,
            rows=len(rows),
            failed=0,
            audit_number=self._registry.audit_head()[0],
            counts_look_alikes=self._counts_look_alikes,
            subscribers=tuple(list_subscribers(rows)),
        )
        answer = self._admit(chunk, None)
        look_alikes = answer.look_alikes
        while True:
            counted = report_chunk(self._report, rows, answer.rows, look_alikes)
            entry = Entry(
                chunk.number,
                rows[-1].number,
                self._report.size_bytes,
                chunk.audit_number,
                self.tally.plus(counted),
            )
            self._journal.add(entry)
            began = time.monotonic()
            answer = self._admit(replace(chunk, failed=counted.failed), answer.digest)
            if answer.is_committed:
                break
            # Somebody has enrolled one of them meanwhile.
            self._journal.drop_last()
            self._report.cut(size_bytes)
        self.tally = entry.tally
        time.sleep(self._rest * (time.monotonic() - began))


class DryRunWriter:
    """Finds every fault that an import would find, and writes nothing but the report.

    It holds each document of the file and its face, about a kilobyte at 128 dimensions.
    Look-alikes are not counted.
    """

    def __init__(self, planner: ChunkPlanner, report: FaultReport) -> None:
        self._planner, self._report = planner, report
        self._known = HolderCache(is_dry_run=True)
        self.tally = Tally()

    def write(self, rows: Sequence[JudgedRow]) -> Future[None]:
        _, admitted = self._planner.plan(list_subscribers(rows), self._known)
        self.tally = self.tally.plus(report_chunk(self._report, rows, admitted, look_alikes=0))
        done: Future[None] = Future()
        done.set_result(None)
        return done


ChunkWriter = RegistryWriter | DryRunWriter


def report_chunk(
    report: FaultReport,
    rows: Sequence[JudgedRow],
    admitted: Sequence[AdmittedRow],
    look_alikes: int,
) -> Tally:
    """Reports and counts what was decided on the rows of a chunk; `admitted` are those that had not
    failed before, in their order."""
    decided = iter(admitted)
    found = [None if row.subscriber is None else next(decided) for row in rows]
    faults = [
        row.faults if one is None else row.faults + _list_faults(one)
        for row, one in zip(rows, found, strict=True)
    ]
    report.add([row.number for row in rows], faults)
    return count_chunk(rows, found, faults, look_alikes)


def list_subscribers(rows: Sequence[JudgedRow]) -> list[Subscriber]:
    """The subscribers of rows that have not failed."""
    return [row.subscriber for row in rows if row.subscriber is not None]


def _list_faults(admitted: AdmittedRow) -> tuple[RowFault, ...]:
    if admitted.refusal in (RECORD_DAMAGED, FACE_NOT_KEPT):
        return (RowFault(None, admitted.refusal),)
    if admitted.refusal is not None:
        is_of_line = Reason(admitted.refusal).row.about is About.LINE
        where = Field.MSISDN if is_of_line else Field.DOCUMENT_NUMBER
        return (RowFault(where, admitted.refusal),)
    faults = []
    if admitted.name_differs:
        faults.append(RowFault(Field.NAME, Reason.NAME_MISMATCH, is_failure=False))
    if admitted.is_watched:
        faults.append(RowFault(None, Reason.WATCHLISTED, is_failure=False))
    return tuple(faults)


def was_committed(registry: Reader, import_id: str, chunk: int, audit_number: int) -> bool:
    """True where the audit chain has this chunk of an import, after the entry of that number."""
    return any(
        record.entry.action == ADMITTED
        and record.entry.subject == import_id
        and record.entry.detail.get("chunk") == chunk
        for record in registry.audit_entries(after=audit_number)
    )


ONLINE_ROWS = 32
"""Rows in a transaction: about ten milliseconds of the registrar, for which decisions wait."""
MOST_ROWS = 256
REST = 1.0
"""How long the sender rests after a commit, as a multiple of what that took: so an import takes at
most half of the registrar's time."""
_CONTEXT = "import.chunk.2"


def seal_chunk(vault: Vault, chunk: Chunk) -> bytes:
    """The chunk as only a holder of the deployment's key ring can make and read it."""
    written = msgspec.msgpack.encode(chunk, enc_hook=lambda it: it.astype(np.float32).tobytes())
    return vault.seal_token(_CONTEXT, vault.deployment_id, written)


def open_chunk(vault: Vault, sealed: bytes) -> Chunk:
    """`RequestError` for what this deployment's key ring has not sealed."""
    try:
        written = msgspec.msgpack.decode(vault.open_token(_CONTEXT, vault.deployment_id, sealed))
    except (SealBroken, msgspec.DecodeError):
        raise RequestError("no part of an import that this deployment has made") from None
    subscribers = tuple(_read_subscriber(one) for one in written.pop("subscribers"))
    if len(subscribers) > MOST_ROWS:
        raise RequestError(f"a part of an import has at most {MOST_ROWS} rows")
    return Chunk(**written, subscribers=subscribers)


def _read_subscriber(written: Mapping[str, Any]) -> Subscriber:
    fields = dict(written)
    fields["vector"] = np.frombuffer(written["vector"], np.float32)
    fields["samples"] = {name: _read_sample(one) for name, one in written["samples"].items()}
    fields["document"] = msgspec.convert(written["document"], CheckedDocument)
    fields["consent"] = msgspec.convert(written["consent"], Consent)
    fields["line"] = msgspec.convert(written["line"], OpenedLine | None)
    return Subscriber(**fields)


def _read_sample(written: Mapping[str, Any]) -> Sample:
    second, kind = written["second"], written["kind"]
    return Sample(
        vector=None,
        digest=written["digest"],
        quality=written["quality"],
        crop=written["crop"],
        kind=None if kind is None else PhotographKind(kind),
        second=None
        if second is None
        else SecondTemplate(second["digest"], np.frombuffer(second["vector"], np.float32)),
    )
