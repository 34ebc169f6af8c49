"""Builds whole enrollments as the registrar would hand them over."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import date
from typing import Any

import pytest
from sqlalchemy import event

from engine.errors import WriterBusy
from engine.registry.audit import AuditEntry
from engine.registry.columns import metadata
from engine.registry.database import new_id
from engine.registry.documents import Identity
from engine.registry.enrollments import EnrollmentRecord, StoredAnswer
from engine.registry.references import NewReference, RemovedReference
from engine.registry.retention import DocumentErasure
from engine.registry.store import Store
from engine.registry.writer import Writer
from schema.decisions import DecidedEnrollment, DecidingScores, RecordedEvidence, Scores
from schema.reasons import Decision
from tests.engine.records import ENTRY, NOW, make_document, make_line
from tests.waiting import wait_until

NAME = "Ωμέγα Tester-王"

MODEL = "sha256:model-of-the-tests"

DECIDED = {"decision": "approved", "reasons": [], "score": 0.6123456789}
SCORES, LIMITS = Scores(0.6123456789, None, None), DecidingScores(0.4, 0.42, 0.55, 0.65)
RULES = {"thresholds": LIMITS, "decided_at": str(NOW), "model_digest": MODEL, "policy_version": "1"}
ANSWER = DecidedEnrollment(
    enrollment_id="e1", decision=Decision.APPROVED, reasons=(), scores=SCORES, **RULES
)


class Writes(list[Any]):
    """The writes of one transaction; rows by the name of their table."""

    def __getattr__(self, table: str) -> list[Any]:
        if table not in metadata.tables:
            raise AttributeError(table)
        return [one for one in self if one.table.name == table and one.step == 0]


Enroll = Callable[..., Writes]


def committed(writer: Writer, changes: Writes) -> Writes:
    writer.commit(changes)
    return changes


def erasure(enrolled: Writes, place: int, sequence: int) -> Writes:
    """Erases one of these documents with its reference."""
    removed = RemovedReference(enrolled.references[place].id, sequence)
    return Writes([ENTRY, removed, DocumentErasure(enrolled.documents[place].id, "test")])


@pytest.fixture
def enroll(random_units: Callable[..., object]) -> Enroll:
    """`enroll(writer, count, first=0)`: count approved newcomers, numbered from `first`."""

    def build(writer: Writer, count: int, first: int = 0) -> Writes:
        templates = writer.vault.rotate(random_units(count, writer.vault.dim, seed=first))
        parts: list[tuple[object, ...]] = []
        sequence = writer.sequence
        for place in range(count):
            sequence += 1
            parts.append(newcomer(writer, first + place, templates[place], sequence))
        documents, enrollments, references, lines, answers, audit = zip(*parts, strict=True)
        return Writes([*audit, *documents, *enrollments, *references, *lines, *answers])

    return build


def newcomer(writer: Writer, number: int, template: object, sequence: int) -> tuple[object, ...]:
    vault = writer.vault
    document_id, enrollment_id = new_id(), new_id()
    document_number = document_number_of(number)
    lookup = vault.look_up("document:passport", document_number)
    return (
        make_document(
            vault,
            document_number,
            id=document_id,
            name_lookup=vault.look_up("name", f"{lookup.hex()}\0{NAME}"),
            expires_on=date(2031, 2, 3),
            identity=Identity(document_number, NAME),
        ),
        EnrollmentRecord(
            id=enrollment_id,
            sequence=sequence,
            carrier="red",
            outlet="r1",
            document_id=document_id,
            decision="approved",
            reasons=(),
            evidence=RecordedEvidence(inputs={"live_portrait_score": 0.6123456789}),
            consent_ref="consent-7",
            captured_at=NOW,
            created_at=NOW,
        ),
        NewReference(
            id=writer.next_reference_id(),
            document_id=document_id,
            enrollment_id=enrollment_id,
            template=template,
            sequence=sequence,
        ),
        make_line(vault, msisdn_of(number), document_id, enrollment_id=enrollment_id),
        StoredAnswer(
            scope=vault.look_up("scope", str(number)),
            payload_digest=bytes(32),
            enrollment_id=enrollment_id,
            response=ANSWER,
            created_at=NOW,
        ),
        AuditEntry("registrar", "enrollment.decided", enrollment_id, DECIDED),
    )


def document_number_of(number: int) -> str:
    return f"PASS{number:08d}"


def msisdn_of(number: int) -> str:
    return f"+8613{number:09d}"


@pytest.fixture
def commit(writer) -> Callable[..., object]:
    """`commit(write, …)`: one transaction of writes that leave the gallery's sequence alone."""
    return lambda *writes: writer.commit([ENTRY, *writes])


class Killed(BaseException):
    """Stands for whatever ends a process."""


def kill(*_: object) -> None:
    raise Killed


def begin_until_done(begin: Callable[[], object], meanwhile: Callable[[], object]) -> int:
    """Begins again what is killed on its way, until it is done; how often it was killed."""
    times = 0
    while True:
        try:
            begin()
        except Killed:
            times += 1
        else:
            return times
        meanwhile()


@pytest.fixture
def listening() -> Callable[..., AbstractContextManager[None]]:
    """`listening(store, moment, do)`: meanwhile SQLAlchemy calls `do` at each such moment."""

    @contextmanager
    def listen(store: Store, moment: str, do: Callable[..., None]) -> Iterator[None]:
        event.listen(store._engine, moment, do)
        try:
            yield
        finally:
            event.remove(store._engine, moment, do)

    return listen


@pytest.fixture
def in_child(tmp_path) -> Callable[..., subprocess.Popen[str]]:
    """`in_child(script, *arguments)`: runs Python in another process, its output piped."""

    def start(script: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            cwd=tmp_path,
        )

    return start


def take_when_free(store: Store) -> Writer:
    """The writer, as soon as nobody else has the lease."""

    def take() -> Writer | None:
        with suppress(WriterBusy):
            return store.writer()

    return wait_until(take)
