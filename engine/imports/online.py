"""An import through a running service: a chunk as it travels, what the service does with it, and
the writer that sends it.

The service plans a chunk, report and journal are written, and then it commits what it had planned;
where somebody has enrolled one of these people in between it plans anew. So counts, report and
journal are those of an import that had the registry for itself, wherever either side ends.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import msgspec
import numpy as np

from engine.errors import RequestError, SealBroken
from engine.imports.import_report import Entry, FaultReport, Journal, Tally
from engine.imports.import_run import (
    AdmissionTerms,
    count_look_alikes,
    find_watched,
    list_subscribers,
    report_chunk,
    was_committed,
)
from engine.imports.row_faces import JudgedRow
from engine.matching.bulk_enrollment import (
    AdmissionPlan,
    HolderCache,
    OpenedLine,
    Subscriber,
    admit_planned,
    plan_admission,
)
from engine.matching.comparison import WatchList
from engine.matching.documents import CheckedDocument
from engine.matching.samples import Sample
from engine.registry.references import SecondTemplate
from engine.registry.store import Reader
from engine.registry.vault import Vault
from engine.registry.writer import Writer
from indexes.gallery import Gallery
from schema.documents import AdmittedRow
from schema.reasons import PhotographKind

ONLINE_ROWS = 32
"""Rows in a transaction: about ten milliseconds of the registrar, for which decisions wait."""
MOST_ROWS = 256
REST = 1.0
"""How long the sender rests after a commit, as a multiple of what that took: so an import takes at
most half of the registrar's time."""
_CONTEXT = "import.chunk"


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Chunk:
    """Subscribers of one import on their way; `rows` and `failed` count its rows, `audit_number` is
    the last audit entry before it."""

    import_id: str
    number: int
    rows: int
    failed: int
    audit_number: int
    counts_look_alikes: bool
    subscribers: tuple[Subscriber, ...] = field(repr=False)


def seal_chunk(vault: Vault, chunk: Chunk) -> bytes:
    """The chunk as only a holder of the deployment's key ring can make and read it."""
    written = {name: getattr(chunk, name) for name in Chunk.__slots__ if name != "subscribers"} | {
        "subscribers": [_write_subscriber(one) for one in chunk.subscribers]
    }
    return vault.seal_token(_CONTEXT, vault.deployment_id, msgspec.msgpack.encode(written))


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


def _write_subscriber(one: Subscriber) -> dict[str, Any]:
    fields = {name: getattr(one, name) for name in Subscriber.__slots__} | {
        "vector": one.vector.astype(np.float32).tobytes(),
        "samples": {name: _write_sample(sample) for name, sample in one.samples.items()},
    }
    written: dict[str, Any] = msgspec.to_builtins(fields, builtin_types=(bytes,))
    return written


def _read_subscriber(written: Mapping[str, Any]) -> Subscriber:
    fields = dict(written)
    fields["vector"] = np.frombuffer(written["vector"], np.float32)
    fields["samples"] = {name: _read_sample(one) for name, one in written["samples"].items()}
    fields["document"] = msgspec.convert(written["document"], CheckedDocument)
    fields["line"] = msgspec.convert(written["line"], OpenedLine | None)
    return Subscriber(**fields)


def _write_sample(sample: Sample) -> dict[str, Any]:
    """Writes the kept part of a photograph: the crop, if any, and a second model's template."""
    second = sample.second
    return {
        "digest": sample.digest,
        "quality": dict(sample.quality),
        "crop": sample.crop,
        "kind": None if sample.kind is None else sample.kind.value,
        "second": None if second is None else [second.digest, second.vector.tobytes()],
    }


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
        else SecondTemplate(second[0], np.frombuffer(second[1], np.float32)),
    )


# The service's side.


def plan_chunk(
    registry: Reader, gallery: Gallery, watch: WatchList, chunk: Chunk, terms: AdmissionTerms
) -> ChunkAnswer:
    """Plans the chunk as of now; changes nothing, and runs beside the writer."""
    plan = plan_admission(
        registry, gallery, HolderCache(is_dry_run=True), chunk.subscribers, terms.same_document
    )
    alike = 0
    if chunk.counts_look_alikes:
        alike = count_look_alikes(registry, gallery, chunk.subscribers, plan, terms.review)
    return ChunkAnswer(_answer(registry, watch, chunk, plan, terms), alike)


def commit_chunk(
    writer: Writer,
    registry: Reader,
    gallery: Gallery,
    watch: WatchList,
    chunk: Chunk,
    terms: AdmissionTerms,
    planned: str,
) -> ChunkAnswer:
    """Makes the chunk durable if its plan is still the one with the digest `planned`; else the new
    plan, and nothing is changed. Asked again for what is durable it says so. On the writer's
    thread."""
    if chunk_is_committed(registry, chunk):
        return ChunkAnswer((), is_committed=True)
    plan = plan_admission(registry, gallery, HolderCache(), chunk.subscribers, terms.same_document)
    answer = ChunkAnswer(_answer(registry, watch, chunk, plan, terms))
    if answer.digest != planned:
        return answer
    admit_planned(
        writer,
        gallery,
        plan,
        actor=terms.actor,
        subject=chunk.import_id,
        detail={"chunk": chunk.number, "rows": chunk.rows, "failed": chunk.failed},
        crops=terms.crops,
    )
    return ChunkAnswer(answer.rows, is_committed=True)


def chunk_is_committed(registry: Reader, chunk: Chunk) -> bool:
    """True where the audit chain has it."""
    entry = Entry(chunk.number, 0, 0, chunk.audit_number, Tally())
    return was_committed(registry, chunk.import_id, entry)


def _answer(
    registry: Reader, watch: WatchList, chunk: Chunk, plan: AdmissionPlan, terms: AdmissionTerms
) -> tuple[AdmittedRow, ...]:
    watched = find_watched(registry.vault, watch, chunk.subscribers, terms.review)
    return tuple(
        AdmittedRow(one.refusal, one.adds_reference, one.adds_line, one.name_differs, is_watched)
        for one, is_watched in zip(plan.admissions, watched, strict=True)
    )


# The sender's side.


class AdmitChunk(Protocol):
    """Has a running service plan a sealed chunk (`planned` is None) or commit it."""

    def __call__(self, sealed: bytes, planned: str | None) -> ChunkAnswer: ...


class ServiceWriter:
    """A `ChunkWriter` that has a running service admit each chunk; one at a time and in order."""

    def __init__(
        self,
        admit: AdmitChunk,
        registry: Reader,
        report: FaultReport,
        journal: Journal,
        *,
        counts_look_alikes: bool,
    ) -> None:
        self._admit = admit
        self._registry = registry
        self._report, self._journal = report, journal
        self._counts_look_alikes = counts_look_alikes
        self._worker = ThreadPoolExecutor(1, "import")
        self.tally = Tally() if journal.entry is None else journal.entry.tally

    def write(self, rows: Sequence[JudgedRow]) -> Future[None]:
        return self._worker.submit(self._perform, rows)

    def close(self) -> None:
        self._worker.shutdown()

    def _perform(self, rows: Sequence[JudgedRow]) -> None:
        last, size_bytes = self._journal.entry, self._report.size_bytes
        vault = self._registry.vault
        chunk = Chunk(
            import_id=self._journal.import_id,
            number=1 if last is None else last.chunk + 1,
            rows=len(rows),
            failed=0,
            audit_number=self._registry.audit_head()[0],
            counts_look_alikes=self._counts_look_alikes,
            subscribers=tuple(list_subscribers(rows)),
        )
        answer = self._admit(seal_chunk(vault, chunk), None)
        look_alikes = answer.look_alikes
        while True:
            watched = [one.is_watched for one in answer.rows]
            counted = report_chunk(self._report, rows, answer.rows, watched, look_alikes)
            entry = Entry(
                chunk.number,
                rows[-1].number,
                self._report.size_bytes,
                chunk.audit_number,
                self.tally.plus(counted),
            )
            self._journal.add(entry)
            sealed = seal_chunk(vault, replace(chunk, failed=counted.failed))
            began = time.monotonic()
            answer = self._admit(sealed, answer.digest)
            if answer.is_committed:
                break
            # Somebody has enrolled one of them meanwhile.
            self._journal.drop_last()
            self._report.cut(size_bytes)
        self.tally = entry.tally
        time.sleep(REST * (time.monotonic() - began))
