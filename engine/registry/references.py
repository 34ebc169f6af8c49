"""References, and what attempts showed under documents without one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from itertools import compress
from typing import Annotated, Any, Self

import numpy as np
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Engine,
    ForeignKey,
    Index,
    String,
    Table,
    bindparam,
    func,
    select,
    tuple_,
    update,
)

from engine.errors import RowRefused, SealBroken
from engine.registry.columns import (
    INDEXED,
    DocumentId,
    RowNumber,
    UuidText,
    mac_column,
    metadata,
    partial_index,
    required,
    sealed_column,
    table_of,
)
from engine.registry.database import KEYS, AnyRow, chunks, long_statements, reading
from engine.registry.rows import (
    Change,
    RecordSource,
    RowValues,
    Transaction,
    Write,
    authentic_rows,
    changing_rows,
    read_apart,
    sound_rows,
    update_one,
    without_sealed,
)
from engine.registry.vault import (
    ATTEMPT_TEMPLATE,
    SECOND_TEMPLATE,
    Vault,
    name_reference,
    name_references,
)
from indexes.base import Flags, Floats, Ints, check_vectors
from indexes.errors import VectorInvalid
from schema import frozen

REFERENCES = Table(
    "references",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=False),
    required("document_id", UuidText, ForeignKey("documents.id"), index=True),
    Column("enrollment_id", UuidText, ForeignKey("enrollments.id")),
    sealed_column("template"),
    required("model_digest", String(128)),
    required("rotation_id", String(32)),
    required("added_sequence", BigInteger),
    Column("removed_sequence", BigInteger),
    mac_column(),
    # Of another model, which searches do not use until the models are switched.
    sealed_column("second_template"),
    Column("second_model_digest", String(128)),
    CheckConstraint("(template IS NULL) = (removed_sequence IS NOT NULL)", name="tombstone"),
)
Index("ix_references_added", REFERENCES.c.added_sequence, REFERENCES.c.id)
# Partial, or PostgreSQL without statistics reads every live reference through it.
partial_index(
    "ix_references_removed", REFERENCES.c.removed_sequence, where="removed_sequence IS NOT NULL"
)

IS_LIVE = REFERENCES.c.removed_sequence.is_(None)
REFERENCE_COLUMNS = without_sealed(REFERENCES)
"""A reference as its code needs it."""


@frozen(eq=False)
class SecondTemplate:
    """A template of the model `digest` beside that of the model in force: rotated, float32[its
    dim]."""

    digest: str
    vector: Floats = field(repr=False)


@frozen(eq=False)
class NewReference(Write):
    """A rotated template, float32[dim], under the id that `Writer.next_reference_id` gave, from the
    gallery's `sequence` on."""

    table = REFERENCES

    id: int
    document_id: str
    enrollment_id: str | None
    template: Floats = field(repr=False)
    sequence: int
    second: SecondTemplate | None = None

    @classmethod
    def store(cls, to: Transaction, written: Sequence[Self]) -> None:
        templates = np.stack([one.template for one in written])
        require_unit(templates, to.vault.dim)
        names = [name_reference(int(one.id), one.document_id) for one in written]
        sealed = to.vault.seal_templates(names, templates)
        rows = [
            {
                "id": int(one.id),
                "document_id": one.document_id,
                "enrollment_id": one.enrollment_id,
                "template": template,
                "model_digest": to.model_digest,
                "rotation_id": to.vault.rotation_id,
                "added_sequence": one.sequence,
                **seal_second(to.vault, SECOND_TEMPLATE, name, one.second),
            }
            for one, name, template in zip(written, names, sealed, strict=True)
        ]
        to.insert(REFERENCES, rows)


@frozen
class RemovedReference(Change):
    """A reference that is removed, at the gallery's `sequence`: its row stays without a template,
    so that its id stays taken."""

    table = REFERENCES
    update = update_one(REFERENCES, IS_LIVE).values(
        template=None,
        second_template=None,
        second_model_digest=None,
        removed_sequence=bindparam("sequence"),
    )

    id: int
    sequence: int

    def row(self, to: Transaction) -> RowValues:
        to.is_erasing = True
        return {"key": int(self.id), "sequence": self.sequence}


@frozen(eq=False)
class FilledReference(Change):
    """A reference and its template of a second model; one that was removed is left alone."""

    table = REFERENCES

    id: int
    second: SecondTemplate

    @classmethod
    def store(cls, to: Transaction, written: Sequence[Self]) -> None:
        fill_references(to.connection, to.vault, [(one.id, one.second) for one in written])


@frozen(eq=False)
class AttemptTemplate(Write):
    """What an attempt showed under a document without a reference, as a unit vector float32[d],
    while people may be asked about it: else what they decide of it could not be found again. Shown
    by no call."""

    enrollment_id: str
    document_id: Annotated[DocumentId, INDEXED]
    template: Floats = field(repr=False)

    @classmethod
    def store(cls, to: Transaction, written: Sequence[Self]) -> None:
        templates = np.stack([one.template for one in written])
        require_unit(templates, to.vault.dim)
        names = [one.enrollment_id for one in written]
        sealed = to.vault.seal_templates(names, templates, ATTEMPT_TEMPLATE)
        rows = [
            {"id": one.enrollment_id, "document_id": one.document_id, "template": template}
            for one, template in zip(written, sealed, strict=True)
        ]
        to.insert(ATTEMPT_TEMPLATES, rows)


ATTEMPT_TEMPLATES = table_of(
    "attempt_templates",
    AttemptTemplate,
    enrollment_id=Column("id", UuidText, ForeignKey("enrollments.id"), primary_key=True),
    template=sealed_column("template", nullable=False),
)
TEMPLATES_PER_CHUNK = 10_000


@frozen
class ReferenceChunk:
    """Live references side by side: ids int64[n], rotated unit rows float32[n, dim],
    and the gallery sequence at which each was added, int64[n]."""

    ids: Ints
    vectors: Floats = field(repr=False)
    sequences: Ints


IS_UNFILLED = func.coalesce(REFERENCES.c.second_model_digest, "") != bindparam("digest")

_DOCUMENTS_OF = select(*REFERENCE_COLUMNS).where(REFERENCES.c.id.in_(KEYS), IS_LIVE)


def seal_second(
    vault: Vault, place: str, name: str | int, second: SecondTemplate | None
) -> RowValues:
    """The columns of a row's template of a second model; it is sealed for that row."""
    if second is None:
        return {"second_template": None, "second_model_digest": None}
    require_unit(second.vector[None], len(second.vector))
    sealed = vault.seal(place, name, second.vector.astype("<f4").tobytes())
    return {"second_template": sealed, "second_model_digest": second.digest}


def fill_references(
    connection: Connection, vault: Vault, filled: Sequence[tuple[int, SecondTemplate]]
) -> int:
    """Stores templates of a second model; how many of these references are still there, and
    sound."""
    table, wanted = REFERENCES, {int(key): second for key, second in filled}
    query = select(*REFERENCE_COLUMNS).where(table.c.id.in_(KEYS), IS_LIVE)
    rows = [
        row
        for part in chunks(list(wanted))
        for row in sound_rows(vault, table, connection.execute(query, {"keys": part}))
    ]
    if not rows:
        return 0
    new = [
        {"key": row.id, "new": columns["second_template"], "model": columns["second_model_digest"]}
        for row in rows
        for name in (name_reference(row.id, row.document_id),)
        for columns in (seal_second(vault, SECOND_TEMPLATE, name, wanted[row.id]),)
    ]
    with changing_rows(connection, vault, table, [row.id for row in rows]):
        connection.execute(_FILL, new)
    return len(rows)


_FILL = (
    update(REFERENCES)
    .where(REFERENCES.c.id == bindparam("key"))
    .values(second_template=bindparam("new"), second_model_digest=bindparam("model"))
)


def name_sealed(table: Table, row: AnyRow) -> str:
    """The name of a row in its seals."""
    if table is REFERENCES:
        return name_reference(row.id, row.document_id)
    return str(row.id)


def require_unit(templates: Floats, dim: int) -> None:
    """Whichever way they came: one that is longer would be like everybody."""
    try:
        check_vectors(templates, dim)
    except VectorInvalid as error:
        raise RowRefused(f"nothing was kept: {error}") from None


_TEMPLATES = select(REFERENCES).where(REFERENCES.c.id.in_(KEYS), IS_LIVE)
_SECOND_TEMPLATES = select(
    *REFERENCES.c["id", "document_id", "second_template", "second_model_digest"]
).where(REFERENCES.c.id.in_(KEYS), IS_LIVE, REFERENCES.c.second_template.is_not(None))
_MISSING_SECOND = (
    select(REFERENCES.c.id)
    .where(REFERENCES.c.id > bindparam("last"), IS_LIVE, IS_UNFILLED)
    .order_by(REFERENCES.c.id)
    .limit(bindparam("page"))
)
_TEMPLATES_OF = (
    select(*REFERENCES.c["id", "document_id", "template"])
    .where(REFERENCES.c.document_id.in_(KEYS), IS_LIVE)
    .order_by(REFERENCES.c.id)
)
_REFERENCE_PAGE = (
    select(*REFERENCES.c["id", "document_id", "template", "added_sequence"])
    .where(
        tuple_(REFERENCES.c.added_sequence, REFERENCES.c.id)
        > tuple_(bindparam("sequence"), bindparam("id")),
        IS_LIVE,
    )
    .order_by(REFERENCES.c.added_sequence, REFERENCES.c.id)
    .limit(bindparam("page"))
)
# Ordered by its reader: in the order of the ids SQLite would go through all references.
_REMOVALS = select(REFERENCES.c.id).where(REFERENCES.c.removed_sequence > bindparam("sequence"))
_LIVE_IDS = select(REFERENCES.c.id).where(IS_LIVE)
_ALL_TOTAL = select(
    func.count().label("rows"), func.sum(REFERENCES.c.id).label("total")
).select_from(REFERENCES)
_REMOVED_TOTAL = _ALL_TOTAL.where(REFERENCES.c.removed_sequence.is_not(None))
_NEWEST_REFERENCES = (
    select(REFERENCES.c.document_id, func.max(REFERENCES.c.added_sequence).label("newest"))
    .where(REFERENCES.c.document_id.in_(KEYS), IS_LIVE)
    .group_by(REFERENCES.c.document_id)
)


class ReferenceReader(RecordSource):
    """Reader of references, and of what attempts showed."""

    def __init__(self, place: Engine | Connection, vault: Vault) -> None:
        super().__init__(place, vault)
        self._unopened: set[int] = set()

    def documents_of(self, reference_ids: Sequence[int]) -> dict[int, str]:
        """The document of each of these references; a removed one is left out."""
        rows = self._rows_of(_DOCUMENTS_OF, [int(key) for key in reference_ids])
        found = authentic_rows(self.vault, REFERENCES, rows)
        return {row.id: row.document_id for row in found}

    def origins_of(self, reference_ids: Sequence[int]) -> dict[int, tuple[str, str | None]]:
        """The document of each of these live references, and the enrollment that it came from;
        one of an import has none."""
        return {
            row.id: (row.document_id, row.enrollment_id)
            for row in self._rows_of(_TEMPLATES, [int(key) for key in reference_ids])
        }

    def references(
        self, after_sequence: int = 0, choose: Callable[[Ints, Ints], Flags] | None = None
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
        """The references of a page that open; one that does not is in no gallery."""
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

    def templates_of(self, document_ids: Sequence[str]) -> dict[str, Floats]:
        """The live references of each document that has any: rotated unit rows float32[n, dim]."""
        found: dict[str, list[AnyRow]] = {}
        for row in self._rows_of(_TEMPLATES_OF, document_ids):
            found.setdefault(row.document_id, []).append(row)
        return {
            key: self.vault.open_templates(
                [name_reference(row.id, row.document_id) for row in rows],
                [row.template for row in rows],
            )
            for key, rows in found.items()
        }

    def templates(self, reference_ids: Sequence[int]) -> Floats:
        """The templates float32[n, dim] of these live references, read from the store."""
        rows = list(self._rows_of(_TEMPLATES, [int(key) for key in reference_ids]))
        names = [name_reference(row.id, row.document_id) for row in rows]
        return self.vault.open_templates(names, [row.template for row in rows])

    def attempt_templates(self, enrollment_ids: Sequence[str]) -> dict[str, Floats]:
        """The faces of these attempts under documents that had no reference, by document: rotated
        unit rows float32[n, dim]; none of one that has left, or showed no face of its own."""
        found: dict[str, list[AnyRow]] = {}
        for row in self._found(ATTEMPT_TEMPLATES.c.id, enrollment_ids):
            found.setdefault(row.document_id, []).append(row)
        return {
            key: self.vault.open_templates(
                [row.id for row in rows], [row.template for row in rows], ATTEMPT_TEMPLATE
            )
            for key, rows in found.items()
        }

    def removals(self, after_sequence: int) -> Ints:
        """The references removed after a gallery sequence: int64[n], ascending."""
        rows = self.rows(_REMOVALS, sequence=after_sequence)
        return np.sort(np.array([row.id for row in rows], dtype=np.int64))

    @property
    def unopened(self) -> int:
        """The number of live references that could not be opened: they are in no gallery."""
        return len(self._unopened)

    def live_ids(self) -> Ints:
        """The ids of all live references that could be opened, in no order: int64[n]."""
        with reading(self._engine) as connection, long_statements(connection):
            ids = np.fromiter(connection.scalars(_LIVE_IDS), np.int64)
        return ids[~np.isin(ids, list(self._unopened))]

    def live_total(self) -> tuple[int, int]:
        """The number of these, and the sum of their ids, modulo 2^64."""
        # All less those removed: of both there is an index, and reading all rows takes long.
        with reading(self._engine) as connection, long_statements(connection):
            every, removed = (
                connection.execute(query).one() for query in (_ALL_TOTAL, _REMOVED_TOTAL)
            )
        unopened = [row.id for row in self._rows_of(_TEMPLATES, sorted(self._unopened))]
        total = int(every.total or 0) - int(removed.total or 0) - sum(unopened)
        return every.rows - removed.rows - len(unopened), total % (1 << 64)

    def second_templates(
        self, reference_ids: Sequence[int], digest: str, dim: int
    ) -> dict[int, Floats]:
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

    def missing_second(self, digest: str, page: int = TEMPLATES_PER_CHUNK) -> Iterator[list[int]]:
        """The live references without a template of this model, by id, a page at a time."""
        last = 0
        while rows := self.rows(_MISSING_SECOND, digest=digest, last=last, page=page):
            yield [row.id for row in rows]
            last = rows[-1].id

    def newest_references(self, document_ids: Sequence[str]) -> dict[str, int]:
        """The gallery's sequence at which each document's newest live reference was added; none of
        one without references."""
        return {
            row.document_id: row.newest for row in self._rows_of(_NEWEST_REFERENCES, document_ids)
        }
