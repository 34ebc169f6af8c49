"""Registries with rows of every kind, each at a moment of its own."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from engine.errors import NotFound
from engine.matching.calibration import Thresholds
from engine.matching.checks.document import DocumentPart
from engine.matching.checks.face import FacePart
from engine.matching.checks.order import BLANK
from engine.matching.policy import POLICY_VERSION, Candidate, Evidence, decide
from engine.registry import references
from engine.registry.cases import AddedNote, CaseChange, CaseRecord
from engine.registry.database import new_id, utc_now
from engine.registry.enrollments import EnrollmentRecord, StoredAnswer
from engine.registry.lines import LineChange
from engine.registry.rows import Write
from engine.registry.store import Store
from engine.registry.writer import Writer
from engine.retention.job import DirectRunner, run_retention
from schema.cases import CaseNote, CaseState, NoteKind, Outcome
from schema.decisions import RecordedEvidence
from schema.documents import DocumentStatus
from schema.lines import LineEventKind
from schema.options import Retention
from schema.reasons import Decision
from tests.engine.records import ENTRY, make_case, make_crop, make_document, make_line
from tests.engine.registry.conftest import ANSWER
from tests.row_codes import vouch
from tests.tables import tables

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def only(**days: Any) -> Retention:
    """Nothing leaves but what is named; an open case holds it for a century."""
    kept = {one.name: 0 for one in fields(Retention) if one.name.endswith("_days")}
    return Retention(**{**kept, "case_hold_days": 36_500, "daily_at": "", **days})


MONTH = only(rejected_days=30, closed_lines_days=30, answers_days=30)
OLD, YOUNG = NOW - 31 * DAY, NOW - 29 * DAY
THRESHOLDS = Thresholds(verify=0.40, same_document=0.42, review=0.55, certain=0.65)
ALIKE = FacePart(live_portrait_score=0.7, searched=9)
JUDGED = {
    Decision.APPROVED: (),
    Decision.REVIEW: (DocumentPart(name_differs=True),),
    Decision.REJECTED: (replace(ALIKE, candidates=(Candidate(7, "another", 0.81),)),),
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt in the registry."""

    id: str
    document_id: str
    scope: bytes


class RegistryBuilder:
    """Writes rows as the registrar would, at given moments."""

    def __init__(self, store: Store, writer: Writer) -> None:
        self.store = store
        self.writer = writer
        self._serial = 0

    def document(self, status: DocumentStatus = DocumentStatus.ATTEMPTED) -> str:
        self._serial += 1
        made = make_document(self.store.vault, f"PASS{self._serial:08d}", status=status)
        self._commit(made)
        return made.id

    def attempt(
        self,
        decided_at: datetime,
        decision: Decision = Decision.REJECTED,
        document_id: str | None = None,
        crops_until: datetime | None = None,
    ) -> Attempt:
        """An attempt with its stored answer, and crops where a time for them is given."""
        if document_id is None:
            approved = decision is Decision.APPROVED
            document_id = self.document(
                DocumentStatus.ACTIVE if approved else DocumentStatus.ATTEMPTED
            )
        self._serial += 1
        made = Attempt(new_id(), document_id, self.lookup(f"scope {self._serial}"))
        evidence = Evidence(THRESHOLDS, BLANK).having(ALIKE, *JUDGED[decision])
        verdict = decide(evidence)
        assert verdict.decision is decision
        record = EnrollmentRecord(
            id=made.id,
            sequence=0,
            carrier="red",
            outlet="r1",
            document_id=document_id,
            decision=decision.value,
            reasons=tuple(reason.value for reason in verdict.reasons),
            evidence=RecordedEvidence(
                inputs=evidence.write(),
                findings=tuple(verdict.findings),
                quality={"live": {"sharpness": 200.0}, "portrait": {}},
                model_digest="m",
                policy_version=POLICY_VERSION,
            ),
            consent_ref="consent-7",
            captured_at=decided_at,
            created_at=decided_at,
        )
        answer = StoredAnswer(made.scope, bytes(32), made.id, ANSWER, decided_at)
        # The case of a face has what it showed, where its document has no reference.
        shown = np.zeros(self.store.vault.dim, np.float32)
        shown[0] = 1.0
        kept: list[Write] = []
        if crops_until is not None:
            crop = make_crop(made.id, document_id=document_id, kept_until=crops_until)
            kept = [crop, references.AttemptTemplate(made.id, document_id, shown)]
        self._commit(record, answer, *kept)
        return made

    def line(self, closed_at: datetime | None, document_id: str | None = None) -> str:
        """A line of a holder, closed at a moment or open."""
        if document_id is None:
            document_id = self.document(DocumentStatus.ACTIVE)
        self._serial += 1
        opened_at = utc_now() if closed_at is None else closed_at - timedelta(days=1)
        number = f"+8613{self._serial:09d}"
        line = make_line(self.store.vault, number, document_id, opened_at=opened_at)
        line_id = line.id
        self._commit(line)
        if closed_at is not None:
            self._commit(LineChange([line_id], LineEventKind.CLOSED, "test", "test"))
            self.change(
                tables.lines.update()
                .where(tables.lines.c.id == line_id)
                .values(closed_at=closed_at)
            )
        return line_id

    def open_case(
        self,
        *document_ids: str,
        state: CaseState = CaseState.OPEN,
        enrollment_id: str | None = None,
        remark: str = "",
    ) -> CaseRecord:
        case = make_case(state=state, enrollment_id=enrollment_id, document_ids=document_ids)
        note = CaseNote(case.opened_at, "key:anna", NoteKind.NOTE, remark)
        self._commit(case, AddedNote(case.id, note))
        return case

    def merge_case(self, case: CaseRecord, into: CaseRecord) -> None:
        merged = replace(case, state=CaseState.MERGED, merged_into=into.id)
        self._commit(CaseChange(merged))

    def close_case(self, case: CaseRecord, at: datetime | None = None) -> None:
        closed = replace(
            case, state=CaseState.CLOSED, outcome=Outcome.MISTAKE, closed_at=at or utc_now()
        )
        self._commit(CaseChange(closed))

    def lookup(self, text: str) -> bytes:
        return self.store.vault.look_up("test", text)

    def change(self, statement: object) -> None:
        """Change rows directly, as no operation of the engine does: to set moments long ago."""
        with self.writer.changing(ENTRY) as connection:
            connection.execute(statement)
        vouch(self.store.engine, self.store.vault)

    def _commit(self, *writes: Write) -> None:
        self.writer.commit([ENTRY, *writes])


def is_expired(store: Store, attempt: Attempt) -> bool:
    """Whether an attempt has lost everything about the person; never only a part."""
    record = store.enrollment(attempt.id)
    has_left = record.expired_at is not None
    assert (not record.evidence.quality) == has_left
    assert (record.consent_ref is None) == (record.captured_at is None) == has_left
    return has_left


def is_known(store: Store, document_id: str) -> bool:
    """Whether a document still has its number and name."""
    try:
        store.identity(document_id)
    except NotFound:
        assert store.document(document_id).is_erased
        return False
    return True


@pytest.fixture
def builder(store, writer) -> RegistryBuilder:
    return RegistryBuilder(store, writer)


@pytest.fixture
def run(builder) -> Callable[..., Any]:
    """`run(schedule, now, **more)` runs the job as a command on a home does."""

    def start(schedule: Retention = MONTH, now: datetime = NOW, **more: Any) -> Any:
        return run_retention(DirectRunner(builder.writer, lambda: now), schedule, "test", **more)

    return start
