"""Sweeps, the facts by which they rank and group references, and pairs that people have judged."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    String,
    Table,
    Text,
    bindparam,
    func,
    select,
    tuple_,
)

from engine.errors import NotFound
from engine.registry.cases import ALIVE_STATES, CASE_DOCUMENTS, CASES
from engine.registry.columns import (
    KEY,
    ActorName,
    CaseId,
    DocumentId,
    JsonValue,
    SweepId,
    UuidText,
    mac_column,
    metadata,
    one_of,
    required,
    table_of,
)
from engine.registry.database import (
    KEYS,
    UNREADABLE,
    AnyRow,
    Moment,
    Source,
    is_id,
    long_statements,
    reading,
)
from engine.registry.lines import LINES
from engine.registry.references import _DOCUMENTS_OF, IS_LIVE, REFERENCES
from engine.registry.rows import (
    NewEvent,
    Put,
    RecordSource,
    Single,
    Transaction,
    Write,
    columns_of,
    open_some,
    read_as,
    require_authentic,
    sound_rows,
)
from engine.registry.vault import Vault
from indexes.base import Flags, Ints
from schema import frozen
from schema.cases import CaseKind, Outcome
from schema.events import EventType
from schema.lines import LineStatus
from schema.sweeps import Identity, LineFact, SweepRecord, SweepState

SWEEPS = Table(
    "sweeps",
    metadata,
    Column("id", UuidText, primary_key=True),
    required("state", String(16)),
    required("terms", JsonValue),
    required("requested_by", String(200)),
    required("created_at", Moment),
    Column("started_at", Moment),
    Column("ended_at", Moment),
    Column("sequence", BigInteger),
    required("progress", JsonValue),
    Column("summary", JsonValue),
    Column("fault", Text),
    mac_column(),
    CheckConstraint(one_of("state", SweepState), name="state"),
)
Index("ix_sweeps_created", SWEEPS.c.created_at, SWEEPS.c.id)


@frozen
class SweepChange(Single):
    """A sweep, in place of its earlier state."""

    table = SWEEPS

    record: SweepRecord

    def follow(self, to: Transaction) -> None:
        sweep = self.record
        # A sweep's row is written again when its files leave.
        if sweep.ended_at is not None and to.connection.scalar(_UNFINISHED, {"id": sweep.id}):
            told = {"state": sweep.state.value}
            to.events.append(NewEvent(EventType.SWEEP_FINISHED, sweep.id, None, told))
        to.put(SWEEPS, columns_of(sweep))


def sweep_of(vault: Vault, row: AnyRow) -> SweepRecord:
    return read_as(SweepRecord, require_authentic(vault, SWEEPS, row))


_UNFINISHED = select(SWEEPS.c.id).where(SWEEPS.c.id == bindparam("id"), SWEEPS.c.ended_at.is_(None))
_NEWEST_SWEEPS = select(SWEEPS).order_by(SWEEPS.c.created_at.desc(), SWEEPS.c.id.desc())
_LAST_DONE = (
    select(SWEEPS)
    .where(SWEEPS.c.state == SweepState.DONE.value)
    .order_by(SWEEPS.c.ended_at.desc(), SWEEPS.c.id.desc())
    .limit(1)
)


class SweepReader(RecordSource):
    """Reader of sweeps."""

    def get(self, sweep_id: str) -> SweepRecord:
        """One sweep; `NotFound` if there is none."""
        found = self._one(SWEEPS.c.id, SweepRecord, sweep_id) if is_id(sweep_id) else None
        if found is None:
            raise NotFound("no sweep has this id: see `sosie sweep list`")
        return found

    def newest(self, limit: int = 100) -> list[SweepRecord]:
        """The newest sweeps, the newest first."""
        return open_some(self, _NEWEST_SWEEPS, limit, partial(sweep_of, self.vault))

    def last_done(self) -> SweepRecord | None:
        """The one that was done last; `None` where none was."""
        row = self._first(_LAST_DONE)
        return None if row is None else sweep_of(self.vault, row)


OWNERS_PER_PAGE = 50_000
_ID_BYTES = 36
_LINES_OF = (
    select(*LINES.c["document_id", "id", "carrier", "outlet", "opened_at", "status"])
    .where(LINES.c.document_id.in_(KEYS))
    .order_by(LINES.c.opened_at, LINES.c.id)
)
_IS_OPEN_DISPUTE = (
    select(CASES.c.kind == CaseKind.DISPUTE.value)
    .where(CASES.c.id == CASE_DOCUMENTS.c.case_id, CASES.c.state.in_(ALIVE_STATES))
    .scalar_subquery()
)
# A subquery and no join: SQLite would go through every open case first.
_DISPUTES_OF = (
    select(CASE_DOCUMENTS.c.document_id, func.count().label("disputes"))
    .where(CASE_DOCUMENTS.c.document_id.in_(KEYS), _IS_OPEN_DISPUTE)
    .group_by(CASE_DOCUMENTS.c.document_id)
)
# In the order of an index that has both columns: the rows themselves, which are ten times as
# long for their templates, are not read.
_OWNERS = (
    select(REFERENCES.c.document_id, REFERENCES.c.id)
    .where(
        tuple_(REFERENCES.c.document_id, REFERENCES.c.id)
        > tuple_(bindparam("document"), bindparam("id"))
    )
    .order_by(REFERENCES.c.document_id, REFERENCES.c.id)
    .limit(bindparam("page"))
)
_REMOVED = select(REFERENCES.c.id).where(REFERENCES.c.removed_sequence.is_not(None))
_OPENINGS = (
    select(LINES.c.id, REFERENCES.c.id.label("reference"), LINES.c.outlet, LINES.c.opened_at)
    .add_columns(LINES.c.status)
    .join(REFERENCES, (REFERENCES.c.document_id == LINES.c.document_id) & IS_LIVE)
    .where(LINES.c.id > bindparam("last"))
    .order_by(LINES.c.id)
    .limit(bindparam("page"))
)


class FactReader(Source):
    """Reader of facts about references, by which sweeps rank and group them."""

    def identities_of(self, reference_ids: Sequence[int]) -> list[Identity]:
        """The documents of these references, each once, in the order of their first reference.

        A reference that is gone has none. Each brings the references that were asked for, every
        line, closed ones too, and the number of its open disputes.
        """
        references: dict[str, list[int]] = defaultdict(list)
        rows = self._rows_of(_DOCUMENTS_OF, sorted({int(key) for key in reference_ids}))
        for row in sound_rows(self.vault, REFERENCES, rows):
            references[row.document_id].append(row.id)
        ordered = {key: sorted(ids) for key, ids in references.items()}
        documents = sorted(ordered, key=lambda key: ordered[key][0])
        lines: dict[str, list[LineFact]] = defaultdict(list)
        for row in self._rows_of(_LINES_OF, documents):
            lines[row.document_id].append(
                LineFact(row.id, row.carrier, row.outlet, row.opened_at, row.status)
            )
        disputes = {row.document_id: row.disputes for row in self._rows_of(_DISPUTES_OF, documents)}
        return [
            Identity(key, tuple(ordered[key]), tuple(lines[key]), disputes.get(key, 0))
            for key in documents
        ]

    def crowded_documents(self, most: int, is_each_carrier: bool) -> list[str]:
        """The documents with more than `most` lines in use: over all carriers, or with one."""
        grouped = (
            (LINES.c.document_id, LINES.c.carrier) if is_each_carrier else (LINES.c.document_id,)
        )
        query = (
            select(LINES.c.document_id)
            .where(LINES.c.status != LineStatus.CLOSED.value)
            .group_by(*grouped)
            .having(func.count() > most)
        )
        # It reads every line.
        with reading(self._engine) as connection, long_statements(connection):
            return sorted(set(connection.scalars(query)) - {UNREADABLE})

    def count_outlet_lines(self, outlets: Sequence[str]) -> dict[str, int]:
        """The number of lines that each outlet has opened, closed ones too; none of one without
        lines."""
        query = (
            select(LINES.c.outlet, func.count().label("lines"))
            .where(LINES.c.outlet.in_(sorted(set(outlets))))
            .group_by(LINES.c.outlet)
        )
        with reading(self._engine) as connection, long_statements(connection):
            return {row.outlet: row.lines for row in connection.execute(query)}

    def document_owner_array(self) -> tuple[Ints, Ints]:
        """The owners of every live reference: ids int64[n], ascending, and a number of its document
        int64[n].

        The numbers say no more than which references are of one document. Read in pages, each a
        short transaction: what is added or removed meanwhile may be in it or not.
        """
        pages = list(self._owner_pages())
        removed = np.array([row.id for row in self.rows(_REMOVED)], np.int64)
        if not pages:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        ids = np.concatenate([ids for ids, _ in pages])
        # Every page begins with a number of its own, unless it goes on with a document.
        numbers = np.cumsum(np.concatenate([is_other for _, is_other in pages]), dtype=np.int64)
        order = np.argsort(ids)
        order = order[~np.isin(ids[order], removed)]
        return ids[order], numbers[order]

    def opening_arrays(self) -> tuple[NDArray[Any], ...]:
        """The openings of every line of a live reference: a reference int64[n], a number of its
        outlet int32[n], the minute it was opened in int64[n], and whether it is disputed bool[n].

        Read in pages as `document_owner_array`; a line of several references may be there again.
        """
        outlets: dict[str, int] = {}
        pages: list[Ints] = [np.empty((0, 4), np.int64)]
        asked = {"last": "", "page": OWNERS_PER_PAGE}
        while rows := self.rows(_OPENINGS, **asked):
            numbers = [
                (
                    row.reference,
                    outlets.setdefault(row.outlet, len(outlets)),
                    int(row.opened_at.timestamp() // 60),
                    row.status == LineStatus.DISPUTED.value,
                )
                for row in rows
            ]
            pages.append(np.array(numbers, np.int64))
            asked["last"] = rows[-1].id
        reference, outlet, minute, is_disputed = np.concatenate(pages).T
        return reference, outlet.astype(np.int32), minute, is_disputed.astype(np.bool_)

    def _owner_pages(self) -> Iterator[tuple[Ints, Flags]]:
        """References by document, and whether each is of another document than the one before."""
        asked = {"document": "", "id": -1, "page": OWNERS_PER_PAGE}
        while True:
            rows = self.rows(_OWNERS, **asked)
            if not rows:
                return
            documents, ids = zip(*rows, strict=True)
            names = np.array((asked["document"], *documents), f"S{_ID_BYTES}")
            yield np.array(ids, np.int64), names[1:] != names[:-1]
            asked |= {"document": documents[-1], "id": ids[-1]}


@frozen(kw_only=True)
class JudgedPair(Put):
    """The outcome that people gave a pair of documents, left < right, in place of an earlier one.

    `score` is the best between their references, or what attempts showed under one that had none;
    `sweep_id` the sweep that found them, and `sequence` the gallery's that was decided on; None
    where it was not noted. `left_attempt_score`: the best of attempts by the holder of the left
    document that were decided on, with a reference of the right one; None where there was none.
    """

    left_document: Annotated[DocumentId, KEY]
    right_document: Annotated[DocumentId, KEY]
    outcome: Annotated[Outcome, String(16)]
    score: float
    case_id: CaseId
    sweep_id: SweepId | None
    decided_at: datetime
    decided_by: ActorName
    sequence: Annotated[int | None, BigInteger()] = None
    left_attempt_score: float | None = None
    right_attempt_score: float | None = None

    def __post_init__(self) -> None:
        assert self.left_document < self.right_document, "left < right"


JUDGED_PAIRS = table_of(
    "judged_pairs",
    JudgedPair,
    CheckConstraint(
        one_of("outcome", (one for one in Outcome if one is not Outcome.UNFOUNDED)), name="outcome"
    ),
)


@frozen
class UndonePairs(Write):
    """A case whose pairs are a question again."""

    table = JUDGED_PAIRS

    case_id: str

    @classmethod
    def store(cls, to: Transaction, written: Sequence[Self]) -> None:
        to.delete(JUDGED_PAIRS.c.case_id, [one.case_id for one in written])


EXCEPTIONS = frozenset({Outcome.TWINS, Outcome.MISTAKE})
"""What later sweeps respect: these two documents are two people, or one with good reason."""
_JUDGED = select(JUDGED_PAIRS).order_by(JUDGED_PAIRS.c.left_document, JUDGED_PAIRS.c.right_document)


class PairReader(RecordSource):
    """Reader of judged pairs."""

    def judged_pairs(self) -> list[JudgedPair]:
        """Every judged pair, by document."""
        return self._sound(JudgedPair, _JUDGED)

    def judged_between(self, document_ids: Sequence[str]) -> list[JudgedPair]:
        """The judgements of people on any two of these documents."""
        wanted = set(document_ids)
        rows = self._found(JUDGED_PAIRS.c.left_document, sorted(wanted))
        return [read_as(JudgedPair, row) for row in rows if row.right_document in wanted]
