"""Puts an import together from a deployment and what was ordered."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, tzinfo
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import ImageError, RegistryError, RequestError, file_errors
from engine.imports.chunks import (
    ONLINE_ROWS,
    REST,
    AdmitChunk,
    Chunk,
    ChunkAnswer,
    ChunkPlanner,
    ChunkWriter,
    DryRunWriter,
    LocalAdmission,
    RegistryWriter,
    seal_chunk,
    was_committed,
)
from engine.imports.import_report import Entry, FaultReport, Identity, Journal
from engine.imports.import_run import Ending, ImportTerms, Summary, import_rows
from engine.imports.row_faces import FaceLoader, PhotographFolder
from engine.imports.row_parser import FACES, ColumnMapping, Field, ReadingTerms, RowReader
from engine.imports.sources import CsvForm, Source, open_source
from engine.matching.samples import Sample, take_samples
from engine.models.catalog import Transform
from engine.registry.database import utc_now
from engine.registry.vault import Vault
from indexes.base import Floats
from schema import frozen
from schema.actors import Role
from schema.reasons import PhotographKind
from serving.deployment.deployment import Deployment
from serving.deployment.models import find_conversion
from serving.ingress.parts import SealedTemplates
from serving.operator_client import as_operator
from serving.wire.fields import Template

if TYPE_CHECKING:
    from serving.client.client import Client

KEY_HOURS = 24 * 14
"""For the longest import through a running service."""
CALL_S = 600.0
"""How long a service may take to answer at all, and to take one part: an overloaded one serves its
outlets first."""
PHOTOGRAPHS_A_THREAD = 16
"""As many as a thread of the extractor embeds at once."""
Progress = Callable[[int, int], None]
"""Called with the rows done and the rows in total."""


@frozen(kw_only=True)
class ImportOrder:
    """What to import, and how. `images`: where relative paths begin (None: the file's folder).
    `model_digest`: the model of a column of vectors, this deployment's or that before its
    transform. With `is_check` nothing is stored."""

    file: Path
    report: Path
    actor: str
    mapping: ColumnMapping
    form: CsvForm
    images: Path | None = None
    allows_outside: bool = False
    zone: tzinfo = UTC
    country: str | None = None
    model_digest: str | None = None
    is_check: bool = False
    resumes: bool = True
    stop_after_failures: int | None = None
    counts_look_alikes: bool = True

    @property
    def summary(self) -> Path:
        return self.report.with_suffix(".summary.json")

    @property
    def journal(self) -> Path:
        return self.report.with_suffix(".journal")

    @property
    def root(self) -> Path:
        return (self.images or self.file.parent).resolve()

    def digest(self) -> str:
        """SHA-256 over all that says what a row means."""
        meant = {
            "names": dict(self.mapping.names),
            "defaults": dict(self.mapping.defaults),
            "form": [self.form.encoding, self.form.delimiter],
            # A folder that is moved with its data is the same one.
            "root": None if self.images is None else str(self.root),
            "may_leave": self.allows_outside,
            "zone": str(self.zone),
            "country": self.country,
        }
        return hashlib.sha256(json.dumps(meant, sort_keys=True).encode()).hexdigest()


def run_import(deployment: Deployment, order: ImportOrder, progress: Progress) -> Summary:
    """Imports what is not in yet, or checks all of it, and writes the summary. Takes the writer's
    lease, but for a check; a service that has it admits the rows beside its decisions.
    `RequestError` for a file that cannot be imported, or that another import is at; an interrupt is
    passed on after the summary."""
    source = open_source(order.file, order.mapping, order.form)
    transform = _find_transform(source, deployment, order)
    with ExitStack() as stack:
        started = time.perf_counter()
        is_served = not order.is_check and deployment.store.has_writer()
        chunk_writer, after = _open_writer(deployment, order, source, stack, is_served=is_served)
        total, photographs_before = source.count, chunk_writer.tally.photographs

        def sum_up(ending: Ending) -> Summary:
            summary = Summary(
                ending=ending,
                is_check=order.is_check,
                rows_total=total,
                tally=chunk_writer.tally,
                seconds=time.perf_counter() - started,
                photographs_now=chunk_writer.tally.photographs - photographs_before,
                resumed_after=after,
                report=order.report,
                source_digest=source.digest,
            )
            summary.write(order.summary)
            return summary

        if after >= total:
            return sum_up(Ending.DONE)
        loader = stack.enter_context(_make_loader(deployment, order, source, transform))
        try:
            ending = import_rows(
                (raw for raw in source.rows() if raw.number > after),
                _make_reader(deployment, order),
                loader,
                chunk_writer,
                _make_terms(deployment, order, source, is_served=is_served),
                lambda row: progress(row, total),
            )
        except KeyboardInterrupt:
            sum_up(Ending.INTERRUPTED)
            raise
        return sum_up(ending)


class IssuedTemplates:
    """Opens templates that were issued to a carrier's keys, or to an operator's."""

    def __init__(self, templates: SealedTemplates) -> None:
        self._templates = templates

    def open(self, tokens: Sequence[str], carriers: Sequence[str]) -> list[Floats | None]:
        """The rotated unit vector float32[d] of each, None for one that is none."""
        opened: list[Floats | None] = [None] * len(tokens)
        sealed = [Template.read(token) for token in tokens]
        tenants = [f"carrier:{carrier}" for carrier in carriers]
        for tenant in (*dict.fromkeys(tenants), f"role:{Role.OPERATOR}"):
            places = [
                place
                for place, found in enumerate(opened)
                if found is None and tenant in (tenants[place], f"role:{Role.OPERATOR}")
            ]
            answers = self._templates.open([sealed[place] for place in places], tenant)
            for place, answer in zip(places, answers, strict=True):
                opened[place] = answer if isinstance(answer, np.ndarray) else None
        return opened


def _find_transform(source: Source, deployment: Deployment, order: ImportOrder) -> Transform | None:
    """The transform that makes the file's vectors those of this deployment; `RequestError` where
    none can."""
    own, given = deployment.store.model_digest, order.model_digest
    if not source.has_vectors or given == own:
        return None
    conversion = find_conversion(deployment.settings)
    if given is None:
        plain = "" if conversion is None else f", or without its transform {conversion.before}"
        raise RequestError(
            "the file brings vectors: say that they are of this deployment's model, as "
            f"--model-digest {own}{plain}"
        )
    if conversion is None or given != conversion.before:
        raise RequestError(
            f"the file's vectors are of the model {given}, which compare with none of this "
            f"deployment's, of {own}: bring photographs"
        )
    return conversion.transform


def _open_writer(
    deployment: Deployment, order: ImportOrder, source: Source, stack: ExitStack, *, is_served: bool
) -> tuple[ChunkWriter, int]:
    """The writer of the rows, and the row up to which that is done."""
    if order.is_check:
        report = FaultReport(order.report, source.columns)
        return DryRunWriter(ChunkPlanner(deployment.judge, order.actor), report), 0
    # First: two imports of one file must not write one journal.
    stack.enter_context(_claim(order.report))
    admit: AdmitChunk
    if is_served:
        asked = as_operator(deployment, order.actor, "sosie import", KEY_HOURS)
        admit = partial(_admit, stack.enter_context(asked), deployment.vault)
    else:
        registrar = deployment.registrar
        admit = LocalAdmission(registrar, ChunkPlanner(deployment.judge, order.actor))
    journal = _open_journal(deployment, order, source)
    last = journal.entry
    report = FaultReport(order.report, source.columns, None if last is None else last.report_bytes)
    writer = RegistryWriter(
        admit,
        deployment.store,
        report,
        journal,
        counts_look_alikes=order.counts_look_alikes,
        rest=REST if is_served else 0.0,
    )
    stack.callback(writer.close)
    return writer, 0 if last is None else last.last_row


@contextmanager
def _claim(report: Path) -> Iterator[None]:
    """Keeps other imports from the report, and so from the journal beside it, for the block."""
    with file_errors(f"{report} cannot be written"):
        handle = os.open(report, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestError(
                f"another import writes {report}: wait for it, or give this one another --report"
            ) from None
        yield
    finally:
        os.close(handle)


def _admit(client: Client, vault: Vault, chunk: Chunk, planned: str | None) -> ChunkAnswer:
    """Has the running service plan or commit a chunk; the client repeats what was put off."""
    from serving.client.transport import ApiError, CallFailed, Options  # noqa: PLC0415 - as above

    try:
        found = client.admit_rows(seal_chunk(vault, chunk), planned, Options(timeout_s=CALL_S))
    except ApiError as error:
        raise RegistryError(f"the service refused a part of the import: {error.message}") from None
    except CallFailed as error:
        raise RegistryError(
            f"the service answers no more (correlator {error.correlator}): start it; the same "
            "command goes on then"
        ) from None
    return ChunkAnswer(found.rows, found.look_alikes, found.is_committed)


def _open_journal(deployment: Deployment, order: ImportOrder, source: Source) -> Journal:
    identity = Identity(deployment.vault.deployment_id, source.digest, order.digest())
    journal = Journal.resume(order.journal, identity) if order.resumes else None
    if journal is None:
        return Journal.begin(order.journal, identity)
    import_id = journal.import_id

    def look(entry: Entry) -> bool:
        return was_committed(deployment.store, import_id, entry.chunk, entry.audit_number)

    journal.drop_uncommitted(look)
    return journal


def _make_loader(
    deployment: Deployment, order: ImportOrder, source: Source, transform: Transform | None
) -> FaceLoader:
    vault, digest = deployment.vault, deployment.store.model_digest
    has_photographs = _has_photographs(source)
    # The extractor is opened here, and not by the first two threads that need it.
    extractor = deployment.extractor if has_photographs else None
    second = deployment.second_embedder if has_photographs else None
    keeps_crops = deployment.settings.crops.keeps_any and not order.is_check

    def take(
        images: Sequence[bytes], kinds: Sequence[PhotographKind | None]
    ) -> list[Sample | ImageError]:
        if extractor is None:
            assert not images, "a file without a column of photographs has none"
            return []
        return take_samples(images, extractor, vault, kinds, with_crops=keeps_crops, second=second)

    templates = SealedTemplates(vault, digest, deployment.settings.serve.template_ttl_h)
    folder = PhotographFolder(order.root, allows_outside=order.allows_outside)
    return FaceLoader(folder, take, vault, IssuedTemplates(templates).open, transform)


def _make_reader(deployment: Deployment, order: ImportOrder) -> RowReader:
    return RowReader(
        ReadingTerms(
            outlets={outlet.code: outlet for outlet in deployment.store.all_outlets()},
            now=utc_now(),
            defaults=order.mapping.defaults,
            zone=order.zone,
            time_zone=deployment.settings.registrar.time_zone,
            country=order.country,
            unkept=deployment.people.unkept,
        )
    )


def _make_terms(
    deployment: Deployment, order: ImportOrder, source: Source, *, is_served: bool
) -> ImportTerms:
    threads = deployment.extractor.threads if _has_photographs(source) else 1
    return ImportTerms(
        verify=deployment.thresholds.verify,
        photographs_at_once=PHOTOGRAPHS_A_THREAD * threads,
        **({"chunk_rows": ONLINE_ROWS} if is_served else {}),
        stop_after_failures=order.stop_after_failures,
    )


def _has_photographs(source: Source) -> bool:
    return any(one in source.columns.places for one in FACES if one is not Field.TEMPLATE)
