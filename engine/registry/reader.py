"""Batched reads of the registry, each a short transaction of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain, compress, groupby
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    Connection,
    Engine,
    Row,
    Select,
    bindparam,
    func,
    literal_column,
    select,
    tuple_,
)

from engine.errors import NotFound, SealBroken
from engine.registry import tables
from engine.registry.audit import AuditReader
from engine.registry.cases import DOCUMENTS_OF, CaseReader, FactReader
from engine.registry.database import KEYS, Source, long_statements, reading, reading_often
from engine.registry.line_life import LifeReader
from engine.registry.people import PeopleReader
from engine.registry.records import (
    ApiKey,
    AttemptRecord,
    Carrier,
    DocumentRecord,
    EnrollmentRecord,
    LineRecord,
    Outlet,
    StoredAnswer,
    WatchEntry,
    is_id,
)
from engine.registry.row_macs import (
    REFERENCE_COLUMNS,
    is_authentic,
    name_row,
    open_each,
    open_some,
    read_apart,
    require_authentic,
    sound_rows,
    values_of,
)
from engine.registry.rows import (
    OF_REFERENCE,
    TallyRecord,
    gather_documents,
    line_of,
    read_as,
    sweep_of,
    tally_of,
)
from engine.registry.tables import metadata
from engine.registry.vault import (
    ATTEMPT_TEMPLATE,
    SECOND_TEMPLATE,
    WATCHED_TEMPLATE,
    Vault,
    name_reference,
    name_references,
)
from schema.lines import LineStatus
from schema.reasons import Reason
from schema.sweeps import SweepRecord, SweepState

TEMPLATES_PER_CHUNK = 10_000
DAMAGED = "(damaged: run sosie doctor)"
"""In place of what a damaged row says."""

_documents, _lines, _references = tables.documents, tables.lines, tables.references
_watchlist, _enrollments = tables.watchlist, tables.enrollments

_ANSWERS = select(tables.idempotency).where(tables.idempotency.c.scope.in_(KEYS))
_DOCUMENTS = (
    select(_documents, *(one.label(f"{OF_REFERENCE}{one.name}") for one in REFERENCE_COLUMNS))
    .outerjoin(
        _references,
        (_references.c.document_id == _documents.c.id) & _references.c.removed_sequence.is_(None),
    )
    .order_by(_references.c.id)
)
_DOCUMENTS_BY_LOOKUP = _DOCUMENTS.where(_documents.c.lookup.in_(KEYS))
_DOCUMENTS_BY_ID = _DOCUMENTS.where(_documents.c.id.in_(KEYS))
_BLOCKED_DOCUMENTS = (
    _DOCUMENTS.where(_documents.c.blocked_at.is_not(None))
    .order_by(None)
    .order_by(_documents.c.blocked_at, _documents.c.id, _references.c.id)
)
_AWAITING_ERASURE = (
    _DOCUMENTS.where(_documents.c.erasure_due_at.is_not(None))
    .order_by(None)
    .order_by(_documents.c.erasure_due_at, _documents.c.id, _references.c.id)
)
_LIVE = _references.c.removed_sequence.is_(None)
_TEMPLATES = select(_references).where(_references.c.id.in_(KEYS), _LIVE)
_SHOWN = select(tables.attempt_templates).where(tables.attempt_templates.c.id.in_(KEYS))
_LIVENESS_OF = select(tables.liveness).where(
    tables.liveness.c.enrollment_id == bindparam("enrollment_id")
)
_USED_LIVENESS = select(tables.liveness.c.token).where(tables.liveness.c.token.in_(KEYS))
_results = tables.liveness.c
# Where nothing was sent or judged, nothing was found either.
_IS_RESULT = func.coalesce(_results.problem, "") != Reason.LIVENESS_MISSING.value
_LIVENESS_COUNTS = (
    select(
        _results.carrier,
        _results.outlet,
        _results.judge.is_not(None).label("is_judged"),
        func.count().filter(_IS_RESULT).label("results"),
        func.count().filter(_results.problem == Reason.LIVENESS_FAILED.value).label("failed"),
        func.count().filter(~_IS_RESULT).label("absent"),
    )
    .where(
        _results.received_at > bindparam("after"),
        _results.received_at <= bindparam("until"),
        _results.outlet.is_not(None),
    )
    .group_by(_results.carrier, _results.outlet, _results.judge.is_not(None))
    .order_by(_results.carrier, _results.outlet)
)
_SECOND_TEMPLATES = select(
    _references.c.id,
    _references.c.document_id,
    _references.c.second_template,
    _references.c.second_model_digest,
).where(_references.c.id.in_(KEYS), _LIVE, _references.c.second_template.is_not(None))
_IS_UNFILLED = func.coalesce(_references.c.second_model_digest, "") != bindparam("digest")
_MISSING_SECOND = (
    select(_references.c.id)
    .where(_references.c.id > bindparam("last"), _LIVE, _IS_UNFILLED)
    .order_by(_references.c.id)
    .limit(bindparam("page"))
)
_IS_WATCHED_FACE = _watchlist.c.removed_at.is_(None) & _watchlist.c.template.is_not(None)
_COVERAGE = select(
    *(
        query.scalar_subquery().label(name)
        for name, query in {
            "references": select(func.count()).select_from(_references).where(_LIVE),
            "missing_references": select(func.count())
            .select_from(_references)
            .where(_LIVE, _IS_UNFILLED),
            "watched": select(func.count()).select_from(_watchlist).where(_IS_WATCHED_FACE),
            "missing_watched": select(func.count())
            .select_from(_watchlist)
            .where(
                _IS_WATCHED_FACE,
                func.coalesce(_watchlist.c.second_model_digest, "") != bindparam("digest"),
            ),
        }.items()
    )
)
_IDENTITIES = select(_documents.c.id, _documents.c.identity).where(_documents.c.id.in_(KEYS))
# Written out, as in the index: else SQLite has to plan anew for each value.
_IN_USE = _lines.c.status != literal_column(f"'{LineStatus.CLOSED.value}'")
_LINES_IN_USE = select(_lines).where(_lines.c.msisdn_lookup.in_(KEYS), _IN_USE)
_LINE_COUNTS = (
    select(_lines.c.document_id, func.count().label("lines"))
    .where(_lines.c.document_id.in_(KEYS), _lines.c.carrier == bindparam("carrier"), _IN_USE)
    .group_by(_lines.c.document_id)
)
_LINES_BY_ID = select(_lines).where(_lines.c.id.in_(KEYS))
_LINES_OF = (
    select(_lines)
    .where(_lines.c.document_id == bindparam("id"))
    .order_by(_lines.c.opened_at, _lines.c.id)
)
_LINES_IN_USE_OF = (
    select(_lines)
    .where(_lines.c.document_id.in_(KEYS), _IN_USE)
    .order_by(_lines.c.opened_at, _lines.c.id)
)
_LINES_OF_EACH = (
    select(_lines).where(_lines.c.document_id.in_(KEYS)).order_by(_lines.c.opened_at, _lines.c.id)
)
_NUMBERS = select(_lines.c.id, _lines.c.msisdn).where(_lines.c.id.in_(KEYS))
_TEMPLATES_OF = (
    select(_references.c.id, _references.c.document_id, _references.c.template)
    .where(_references.c.document_id.in_(KEYS), _references.c.removed_sequence.is_(None))
    .order_by(_references.c.id)
)
_REFERENCE_PAGE = (
    select(
        _references.c.id,
        _references.c.document_id,
        _references.c.template,
        _references.c.added_sequence,
    )
    .where(
        tuple_(_references.c.added_sequence, _references.c.id)
        > tuple_(bindparam("sequence"), bindparam("id")),
        _references.c.removed_sequence.is_(None),
    )
    .order_by(_references.c.added_sequence, _references.c.id)
    .limit(bindparam("page"))
)
# Ordered by its reader: in the order of the ids SQLite would go through all references.
_REMOVALS = select(_references.c.id).where(_references.c.removed_sequence > bindparam("sequence"))
_ENROLLMENTS = select(tables.enrollments).where(tables.enrollments.c.id.in_(KEYS))
_LIVE_IDS = select(_references.c.id).where(_references.c.removed_sequence.is_(None))
_ALL_TOTAL = select(
    func.count().label("rows"), func.sum(_references.c.id).label("total")
).select_from(_references)
_REMOVED_TOTAL = _ALL_TOTAL.where(_references.c.removed_sequence.is_not(None))
_ENROLLMENT = select(tables.enrollments).where(tables.enrollments.c.id == bindparam("id"))
_EVIDENCE = (
    select(_enrollments)
    .where(_enrollments.c.id > bindparam("last"), _enrollments.c.expired_at.is_(None))
    .order_by(_enrollments.c.id)
    .limit(bindparam("page"))
)
_WATCHLIST = select(_watchlist).where(_watchlist.c.removed_at.is_(None)).order_by(_watchlist.c.id)
_DEPLOYMENT = select(tables.deployment)
_OF_CARRIER = "carrier_"
_ANY_OUTLETS = select(
    tables.outlets, *(one.label(f"{_OF_CARRIER}{one.name}") for one in tables.carriers.columns)
).join(tables.carriers)
_OUTLETS = _ANY_OUTLETS.where(tables.outlets.c.code.in_(KEYS))
_CARRIERS = select(tables.carriers).order_by(tables.carriers.c.code)
_ALL_OUTLETS = _ANY_OUTLETS.order_by(tables.outlets.c.code)
_RESTRICTED_OUTLETS = _ALL_OUTLETS.where(tables.outlets.c.restriction.is_not(None))
_API_KEYS = select(tables.api_keys).order_by(tables.api_keys.c.created_at, tables.api_keys.c.id)
_API_KEY = select(tables.api_keys).where(tables.api_keys.c.id == bindparam("id"))
_TALLIES = select(tables.tallies).where(tables.tallies.c.name.in_(KEYS))
_RANKED = select(
    _enrollments.c.id,
    _enrollments.c.document_id,
    _enrollments.c.carrier,
    _enrollments.c.outlet,
    _enrollments.c.decision,
    _enrollments.c.reasons,
    _enrollments.c.created_at,
    func.row_number()
    .over(
        partition_by=_enrollments.c.document_id,
        order_by=(_enrollments.c.created_at.desc(), _enrollments.c.id.desc()),
    )
    .label("place"),
).where(_enrollments.c.document_id.in_(KEYS))
_newest = _RANKED.subquery()
_NEWEST_OF = (
    select(_newest)
    .where(_newest.c.place <= bindparam("most"))
    .order_by(_newest.c.document_id, _newest.c.place)
)


@dataclass(frozen=True, slots=True)
class LivenessCount:
    """How many liveness results an outlet's requests brought, how many of them failed, and how many
    were absent: those that a capture system signs, or those of a judge of the picture
    (`is_judged`)."""

    carrier: str
    outlet: str
    is_judged: bool
    results: int
    failed: int
    absent: int = 0


@dataclass(frozen=True, slots=True)
class Identity:
    """What a document says in the clear, and where its holder's consent is on file if that came
    with an existing base: an enrollment has its own."""

    number: str = field(repr=False)
    name: str = field(repr=False)
    consent_ref: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ReferenceChunk:
    """Live references side by side: ids int64[n], rotated unit rows float32[n, dim],
    and the gallery sequence at which each was added, int64[n]."""

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32] = field(repr=False)
    sequences: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many live references and watched faces there are, and how many of them a second model
    has no template of."""

    references: int
    missing_references: int
    watched: int
    missing_watched: int

    @property
    def is_whole(self) -> bool:
        return not (self.missing_references or self.missing_watched)

    def __str__(self) -> str:
        filled = self.references - self.missing_references
        told = f"{filled:,} of {self.references:,} references"
        if self.watched:
            watched = self.watched - self.missing_watched
            told += f", {watched:,} of {self.watched:,} watched faces"
        return told


_SWEEP = select(tables.sweeps).where(tables.sweeps.c.id == bindparam("id"))
_NEWEST_SWEEPS = select(tables.sweeps).order_by(
    tables.sweeps.c.created_at.desc(), tables.sweeps.c.id.desc()
)
_LAST_DONE = (
    select(tables.sweeps)
    .where(tables.sweeps.c.state == SweepState.DONE.value)
    .order_by(tables.sweeps.c.ended_at.desc(), tables.sweeps.c.id.desc())
    .limit(1)
)


class SweepReader(Source):
    """Reader of sweeps."""

    def get(self, sweep_id: str) -> SweepRecord:
        """One sweep; `NotFound` if there is none."""
        row = self._first(_SWEEP, id=sweep_id) if is_id(sweep_id) else None
        if row is None:
            raise NotFound("no sweep has this id: see `sosie sweep list`")
        return sweep_of(self.vault, row)

    def newest(self, limit: int = 100) -> list[SweepRecord]:
        """The newest sweeps, the newest first."""
        return open_some(self, _NEWEST_SWEEPS, limit, partial(sweep_of, self.vault))

    def last_done(self) -> SweepRecord | None:
        """The one that was done last; `None` where none was."""
        row = self._first(_LAST_DONE)
        return None if row is None else sweep_of(self.vault, row)


class Reader(AuditReader):
    """What the registrar and the surfaces ask; safe to use from any thread."""

    def __init__(self, place: Engine | Connection, vault: Vault) -> None:
        super().__init__(place, vault)
        self._unopened: set[int] = set()
        self.cases = CaseReader(place, vault)
        self.sweeps = SweepReader(place, vault)
        self.facts = FactReader(place, vault)
        self.life = LifeReader(place, vault)
        self.people = PeopleReader(place, vault)

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """The same over one connection until the block ends, for one thread."""
        with reading_often(self._place) as connection:
            yield Reader(connection, self.vault)

    def answers(self, scopes: Sequence[bytes]) -> dict[bytes, StoredAnswer]:
        """What was answered before under these idempotency scopes."""
        rows = self._rows_of(_ANSWERS, scopes)
        return {
            row.scope: read_as(StoredAnswer, require_authentic(self.vault, tables.idempotency, row))
            for row in rows
        }

    def tallies(self, names: Sequence[str]) -> dict[str, TallyRecord]:
        """The known ones of these counts. A damaged one is set aside and begins anew: to refuse all
        that it bounds would stop a carrier, and whoever can alter a row can delete it."""
        rows = sound_rows(self.vault, tables.tallies, self._rows_of(_TALLIES, names))
        return {row.name: read_as(TallyRecord, row) for row in rows}

    def tally_names(self, document_id: str) -> list[str]:
        """The names of the counts about a document, whoever's."""
        query = select(tables.tallies.c.name).where(tally_of(document_id, None))
        return [row.name for row in self.rows(query)]

    def documents(self, lookups: Sequence[bytes]) -> dict[bytes, DocumentRecord]:
        """The documents on record under these keyed look-ups, with their live references."""
        found = gather_documents(self.vault, self._rows_of(_DOCUMENTS_BY_LOOKUP, lookups))
        return {record.lookup: record for record in found if record.lookup is not None}

    def documents_by_id(self, ids: Sequence[str]) -> dict[str, DocumentRecord]:
        found = gather_documents(self.vault, self._rows_of(_DOCUMENTS_BY_ID, ids))
        return {record.id: record for record in found}

    def document(self, document_id: str) -> DocumentRecord:
        """One document, erased ones too; `NotFound` if there is none."""
        found = self.documents_by_id([document_id]) if is_id(document_id) else {}
        if document_id not in found:
            raise NotFound("no document has this id: check it")
        return found[document_id]

    def blocked_documents(self) -> list[DocumentRecord]:
        """Every blocked document, erased ones too, the longest blocked first."""
        return self._list_documents(_BLOCKED_DOCUMENTS)

    def awaiting_erasure(self) -> list[DocumentRecord]:
        """Every document whose erasure waits for open cases, what is due first."""
        return self._list_documents(_AWAITING_ERASURE)

    def _list_documents(self, query: Select[Any]) -> list[DocumentRecord]:
        of_each = [list(rows) for _, rows in groupby(self.rows(query), attrgetter("id"))]
        found = open_each(of_each, partial(gather_documents, self.vault))
        return list(chain.from_iterable(found))

    def documents_of(self, reference_ids: Sequence[int]) -> dict[int, str]:
        """The document of each of these references; a removed one is left out."""
        return {
            row.id: row.document_id
            for found in self._rows_of(DOCUMENTS_OF, [int(key) for key in reference_ids])
            for row in (require_authentic(self.vault, _references, found),)
        }

    def identity(self, document_id: str) -> Identity:
        """Opens what is sealed of a document; `NotFound` if unknown or erased."""
        for row in self._rows_of(_IDENTITIES, [document_id]):
            if row.identity is not None:
                return self._identity(row)[1]
        raise NotFound("no such document, or it was erased: check the id")

    def identities(self, document_ids: Sequence[str]) -> dict[str, Identity]:
        """Opens what is sealed of these documents; one unknown, erased or damaged is left out."""
        rows = self._rows_of(_IDENTITIES, document_ids)
        return dict(open_each((row for row in rows if row.identity is not None), self._identity))

    def _identity(self, row: Row[Any]) -> tuple[str, Identity]:
        opened = self.vault.open("documents.identity", row.id, row.identity)
        return row.id, Identity(*json.loads(opened))

    def lines_in_use(self, msisdn_lookups: Sequence[bytes]) -> dict[bytes, LineRecord]:
        """The lines, not closed, that these numbers are on."""
        found = (line_of(self.vault, row) for row in self._rows_of(_LINES_IN_USE, msisdn_lookups))
        return {line.msisdn_lookup: line for line in found if line.msisdn_lookup is not None}

    def lines_by_id(self, ids: Sequence[str]) -> dict[str, LineRecord]:
        """The known ones of these lines, closed ones too."""
        return {row.id: line_of(self.vault, row) for row in self._rows_of(_LINES_BY_ID, ids)}

    def open_line_counts(self, document_ids: Sequence[str], carrier: str) -> dict[str, int]:
        """How many lines, not closed, each document has with a carrier; none is left out."""
        found = dict.fromkeys(document_ids, 0)
        for row in self._rows_of(_LINE_COUNTS, document_ids, carrier=carrier):
            found[row.document_id] = row.lines
        return found

    def lines_of(self, document_id: str) -> list[LineRecord]:
        """Every line of a document, closed ones too, oldest first."""
        return [line_of(self.vault, row) for row in self.rows(_LINES_OF, id=document_id)]

    def lines_in_use_of(self, document_ids: Sequence[str]) -> dict[str, list[LineRecord]]:
        """The lines, not closed, of each document, oldest first; no document is left out."""
        return self._lines_by_document(_LINES_IN_USE_OF, document_ids)

    def lines_of_each(self, document_ids: Sequence[str]) -> dict[str, list[LineRecord]]:
        """The same with closed lines."""
        return self._lines_by_document(_LINES_OF_EACH, document_ids)

    def _lines_by_document(
        self, query: Select[Any], document_ids: Sequence[str]
    ) -> dict[str, list[LineRecord]]:
        found: dict[str, list[LineRecord]] = {key: [] for key in document_ids}
        for row in self._rows_of(query, document_ids):
            found[row.document_id].append(line_of(self.vault, row))
        return found

    def numbers(self, line_ids: Sequence[str]) -> dict[str, str]:
        """Opens the numbers of these lines; an erased or damaged one is left out."""
        rows = self._rows_of(_NUMBERS, line_ids)
        return dict(open_each((row for row in rows if row.msisdn is not None), self._number))

    def _number(self, row: Row[Any]) -> tuple[str, str]:
        return row.id, self.vault.open("lines.msisdn", row.id, row.msisdn).decode()

    def references(
        self,
        after_sequence: int = 0,
        choose: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]] | None = None,
    ) -> Iterator[ReferenceChunk]:
        """The live references added after a gallery sequence, in the order they were added.

        `choose` takes ids and sequences of a page and says which of them are wanted, bool[n]; the
        others are not unsealed.

        Every chunk is a transaction of its own; hold the writer's lease, or catch up afterwards
        with `removals` and a second call, to see one state of the gallery.
        """
        # Ids are never negative, so -1 stands before the first reference of the next sequence.
        place = {"sequence": after_sequence + 1, "id": -1, "page": TEMPLATES_PER_CHUNK}
        while True:
            columns = self._columns(_REFERENCE_PAGE, **place)
            if not columns:
                return
            place |= {"sequence": columns[3][-1], "id": columns[0][-1]}
            if choose is not None:
                keys, orders = (np.array(columns[at], np.int64) for at in (0, 3))
                wanted = choose(keys, orders).tolist()
                if not any(wanted):
                    continue
                columns = [tuple(compress(column, wanted)) for column in columns]
            chunk = self._open_references(columns)
            if len(chunk.ids):
                yield chunk

    def _open_references(self, columns: Sequence[tuple[Any, ...]]) -> ReferenceChunk:
        """Those of a page that open; one that does not is in no gallery."""
        ids, documents, templates, sequences = columns
        names = name_references(ids, documents)
        try:
            vectors = self.vault.open_templates(names, templates)
        except SealBroken:

            def attempt(places: Sequence[int]) -> dict[int, None]:
                some = [(names[place], templates[place]) for place in places]
                self.vault.open_templates([one for one, _ in some], [one for _, one in some])
                return dict.fromkeys(places)

            opens = read_apart(range(len(ids)), attempt)
            is_sound = [place in opens for place in range(len(ids))]
            self._unopened.update(set(ids) - set(compress(ids, is_sound)))
            return self._open_references([tuple(compress(one, is_sound)) for one in columns])
        return ReferenceChunk(
            ids=np.array(ids, dtype=np.int64),
            vectors=vectors,
            sequences=np.array(sequences, dtype=np.int64),
        )

    def templates_of(self, document_ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The live references of each document that has any: rotated unit rows float32[n, dim]."""
        found: dict[str, list[Row[Any]]] = {}
        for row in self._rows_of(_TEMPLATES_OF, document_ids):
            found.setdefault(row.document_id, []).append(row)
        return {
            key: self.vault.open_templates(
                [name_reference(row.id, row.document_id) for row in rows],
                [row.template for row in rows],
            )
            for key, rows in found.items()
        }

    def attempts_in(self, case_id: str) -> list[str]:
        """The enrollments that opened a case or went into it; none of one that is not there."""
        found = (*self.cases.by_id([case_id]).values(), *self.cases.merged_into(case_id))
        ids = (one.enrollment_id for one in found if one.enrollment_id is not None)
        return list(dict.fromkeys(ids))

    def attempt_templates(self, enrollment_ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """What these attempts showed under documents that had no reference, by document: rotated
        unit rows float32[n, dim]; none of one that has left, or showed no face of its own."""
        found: dict[str, list[Row[Any]]] = {}
        for row in self._rows_of(_SHOWN, enrollment_ids):
            require_authentic(self.vault, tables.attempt_templates, row)
            found.setdefault(row.document_id, []).append(row)
        return {
            key: self.vault.open_templates(
                [row.id for row in rows], [row.template for row in rows], ATTEMPT_TEMPLATE
            )
            for key, rows in found.items()
        }

    def used_liveness(self, tokens: Sequence[bytes]) -> set[bytes]:
        """Those of these results of liveness checks that have been used."""
        return {row.token for row in self._rows_of(_USED_LIVENESS, tokens)}

    def liveness_counts(
        self, after: datetime, until: datetime, outlets: Sequence[str] | None = None
    ) -> list[LivenessCount]:
        """What liveness checks brought after one moment and until another: at each outlet, or at
        each of these."""
        query = _LIVENESS_COUNTS
        if outlets is not None:
            query = query.where(_results.outlet.in_(outlets))
        return [
            read_as(LivenessCount, row, is_judged=bool(row.is_judged))
            for row in self.rows(query, after=after, until=until)
        ]

    def removals(self, after_sequence: int) -> NDArray[np.int64]:
        """The references removed after a gallery sequence: int64[n], ascending."""
        rows = self.rows(_REMOVALS, sequence=after_sequence)
        return np.sort(np.array([row.id for row in rows], dtype=np.int64))

    @property
    def unopened(self) -> int:
        """How many live references could not be opened: they are in no gallery."""
        return len(self._unopened)

    def live_ids(self) -> NDArray[np.int64]:
        """The ids of all live references that could be opened, in no order: int64[n]."""
        with reading(self._engine) as connection, long_statements(connection):
            ids = np.fromiter(connection.scalars(_LIVE_IDS), np.int64)
        return ids[~np.isin(ids, list(self._unopened))]

    def live_total(self) -> tuple[int, int]:
        """How many of these there are, and the sum of their ids, modulo 2^64."""
        # All less those removed: of both there is an index, and reading all rows takes long.
        with reading(self._engine) as connection, long_statements(connection):
            every, removed = (
                connection.execute(query).one() for query in (_ALL_TOTAL, _REMOVED_TOTAL)
            )
        unopened = [row.id for row in self._rows_of(_TEMPLATES, sorted(self._unopened))]
        total = int(every.total or 0) - int(removed.total or 0) - sum(unopened)
        return every.rows - removed.rows - len(unopened), total % (1 << 64)

    def writer_epoch(self) -> int:
        """The epoch of the last writer that took the lease."""
        return int(self.rows(_DEPLOYMENT)[0].writer_epoch)

    def watchlist(self) -> list[WatchEntry]:
        """Every entry in force, with its template; of a damaged one all that still opens."""
        return [self._watched(row) for row in self.rows(_WATCHLIST)]

    def enrollment(self, enrollment_id: str) -> EnrollmentRecord:
        """One enrollment; `NotFound` if there is none.

        Its evidence of liveness has `jti` while the row that keeps it does.
        """
        # No database is asked for what is no id: PostgreSQL fails on some texts.
        row = self._first(_ENROLLMENT, id=enrollment_id) if is_id(enrollment_id) else None
        if row is None:
            raise NotFound("no enrollment has this id: check it")
        require_authentic(self.vault, _enrollments, row)
        found = read_as(EnrollmentRecord, row, reasons=tuple(row.reasons))
        if "liveness" in found.evidence:
            kept = self._first(_LIVENESS_OF, enrollment_id=enrollment_id)
            if kept is not None and kept.jti is not None:
                require_authentic(self.vault, tables.liveness, kept)
                told = {**found.evidence["liveness"], "jti": kept.jti}
                return replace(found, evidence={**found.evidence, "liveness": told})
        return found

    def enrollments(self, enrollment_ids: Sequence[str]) -> list[EnrollmentRecord]:
        """The known ones of these enrollments."""
        return [
            read_as(EnrollmentRecord, row, reasons=tuple(row.reasons))
            for found in self._rows_of(_ENROLLMENTS, enrollment_ids)
            for row in (require_authentic(self.vault, _enrollments, found),)
        ]

    def attempts_of(
        self, document_ids: Sequence[str], most: int = 20
    ) -> dict[str, list[AttemptRecord]]:
        """The `most` newest attempts under each document, newest first; none is left out."""
        found: dict[str, list[AttemptRecord]] = {key: [] for key in document_ids}
        for row in self._rows_of(_NEWEST_OF, document_ids, most=most):
            found[row.document_id].append(read_as(AttemptRecord, row, reasons=tuple(row.reasons)))
        return found

    def outlets(self, codes: Sequence[str]) -> dict[str, Outlet]:
        """The known ones of these outlets."""
        return {row.code: self._outlet(row) for row in self._rows_of(_OUTLETS, codes)}

    def carriers(self) -> list[Carrier]:
        """Every carrier, by code."""
        rows = sound_rows(self.vault, tables.carriers, self.rows(_CARRIERS))
        return [read_as(Carrier, row) for row in rows]

    def all_outlets(self) -> list[Outlet]:
        """Every outlet, closed ones too, by code."""
        return list(open_each(self.rows(_ALL_OUTLETS), self._outlet))

    def restricted_outlets(self) -> list[Outlet]:
        """Every outlet that may enroll nobody, by code."""
        return list(open_each(self.rows(_RESTRICTED_OUTLETS), self._outlet))

    def api_key(self, key_id: str) -> ApiKey:
        """One key of the service, in force or not; `NotFound` if there is none."""
        row = self._first(_API_KEY, id=key_id)
        if row is None:
            raise NotFound("no key has this id: see `sosie apikey list`")
        return self._api_key(row)

    def api_keys(self) -> list[ApiKey]:
        """Every key of the service, those no longer in force too, the oldest first."""
        return list(open_each(self.rows(_API_KEYS), self._api_key))

    def _api_key(self, row: Row[Any]) -> ApiKey:
        return read_as(ApiKey, require_authentic(self.vault, tables.api_keys, row))

    def sequence(self) -> int:
        """The gallery's sequence: the last committed change of references."""
        return int(self.rows(_DEPLOYMENT)[0].sequence)

    def seal_counts(self) -> dict[int, int]:
        """How many values each data key has sealed, by version; of keys that sealed any."""
        counted = self.rows(_DEPLOYMENT)[0].seals or {}
        return {int(version): values for version, values in counted.items()}

    def counts(self) -> dict[str, int]:
        """Rows by table, and `live_references`: those that the gallery holds."""
        queries = {
            table.name: select(func.count()).select_from(table)
            for table in metadata.sorted_tables
            if table is not tables.deployment
        }
        # Those removed have an index; to count the others all rows would be read.
        queries["removed"] = queries["references"].where(
            _references.c.removed_sequence.is_not(None)
        )
        # One statement, since PostgreSQL may show each statement a newer state.
        counted = select(*(query.scalar_subquery().label(name) for name, query in queries.items()))
        with reading(self._engine) as connection, long_statements(connection):
            found = dict(connection.execute(counted).one()._mapping)
        found["live_references"] = found["references"] - found.pop("removed")
        return found

    def _outlet(self, row: Row[Any]) -> Outlet:
        require_authentic(self.vault, tables.outlets, row)
        require_authentic(self.vault, tables.carriers, row, _OF_CARRIER)
        time_zone = row.time_zone if row.time_zone is not None else row.carrier_time_zone
        return read_as(Outlet, row, line_limit=row.carrier_line_limit, time_zone=time_zone)

    def second_templates(
        self, reference_ids: Sequence[int], digest: str, dim: int
    ) -> dict[int, NDArray[np.float32]]:
        """The templates float32[dim] of a second model, of those of these references that have
        one."""
        rows = [
            row
            for row in self._rows_of(_SECOND_TEMPLATES, [int(key) for key in reference_ids])
            if row.second_model_digest == digest
        ]
        names = [name_reference(row.id, row.document_id) for row in rows]
        sealed = [row.second_template for row in rows]
        opened = self.vault.of_dimension(dim).open_templates(names, sealed, SECOND_TEMPLATE)
        return {row.id: vector for row, vector in zip(rows, opened, strict=True)}

    def templates(self, reference_ids: Sequence[int]) -> NDArray[np.float32]:
        """The templates float32[n, dim] of these live references, read from the store."""
        rows = list(self._rows_of(_TEMPLATES, [int(key) for key in reference_ids]))
        names = [name_reference(row.id, row.document_id) for row in rows]
        return self.vault.open_templates(names, [row.template for row in rows])

    def origins_of(self, reference_ids: Sequence[int]) -> dict[int, tuple[str, str | None]]:
        """The document of each of these live references, and the enrollment that it came from;
        one of an import has none."""
        return {
            row.id: (row.document_id, row.enrollment_id)
            for row in self._rows_of(_TEMPLATES, [int(key) for key in reference_ids])
        }

    def missing_second(self, digest: str, page: int = TEMPLATES_PER_CHUNK) -> Iterator[list[int]]:
        """The live references without a template of this model, by id, a page at a time."""
        last = 0
        while rows := self.rows(_MISSING_SECOND, digest=digest, last=last, page=page):
            yield [row.id for row in rows]
            last = rows[-1].id

    def decisions(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Decision and evidence of every enrollment that has not expired, in their order."""
        last = ""
        while rows := self.rows(_EVIDENCE, last=last, page=TEMPLATES_PER_CHUNK // 10):
            for row in sound_rows(self.vault, _enrollments, rows):
                yield row.decision, row.evidence
            last = rows[-1].id

    def coverage(self, digest: str) -> Coverage:
        """How much of the registry has templates of a second model."""
        with reading(self._engine) as connection, long_statements(connection):
            row = connection.execute(_COVERAGE, {"digest": digest}).one()
        return Coverage(**row._mapping)

    def _watched(self, row: Row[Any]) -> WatchEntry:
        template, rest = None, dict[str, Any]()
        # A template has a seal of its own, and a damaged look-up is nobody else's: an entry whose
        # row is damaged still protects by what is left of it.
        with suppress(SealBroken):
            if row.template is not None:
                template = self.vault.open_templates([row.id], [row.template], WATCHED_TEMPLATE)[0]
        if not is_authentic(self.vault, _watchlist, values_of(row)):
            self.vault.set_aside.add(_watchlist.name, name_row(_watchlist, row))
            rest = {"reason": DAMAGED, "added_at": datetime.fromtimestamp(0, UTC)}
        return read_as(WatchEntry, row, template=template, second=None, **rest)
