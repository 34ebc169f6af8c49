"""Documents: identities, blocks, erasures that wait, and those that no limit on lines holds for."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, field, replace
from datetime import date, datetime
from functools import partial
from itertools import chain, groupby
from operator import attrgetter
from typing import Annotated, Any, Self

from sqlalchemy import BigInteger, CheckConstraint, String, bindparam, case, func, or_, select

from engine.errors import ConsentWithdrawn, NotFound, SealBroken
from engine.registry.audit import AuditEntry, AuditRecord
from engine.registry.columns import (
    KEY,
    UNIQUE,
    ActorName,
    Code,
    DocumentId,
    Id,
    one_of,
    partial_index,
    required,
    sealed_column,
    table_of,
)
from engine.registry.database import KEYS, AnyRow, Moment, Query, is_id
from engine.registry.references import ATTEMPT_TEMPLATES, IS_LIVE, REFERENCE_COLUMNS, REFERENCES
from engine.registry.rows import (
    DAMAGED,
    Change,
    Deleted,
    NewEvent,
    Put,
    RecordSource,
    RowValues,
    Single,
    Transaction,
    Write,
    open_each,
    read_as,
    require_authentic,
    update_one,
)
from engine.registry.vault import Vault
from schema import frozen
from schema.documents import DocumentStatus, ErasureCertificate, ErasureScope
from schema.events import EventType
from schema.people import NO_CONSENT, Consent


@frozen
class Identity:
    """A document's identity in the clear, and where its holder's consent is on file if that came
    with an existing base: an enrollment has its own."""

    number: str = field(repr=False)
    name: str = field(repr=False)
    consent: str | Mapping[str, Any] | None = field(default=None, repr=False)

    def seal(self, vault: Vault, document_id: str) -> bytes:
        said = [one for one in astuple(self) if one is not None]
        return vault.seal(_IDENTITY, document_id, json.dumps(said, ensure_ascii=False).encode())


_IDENTITY = "documents.identity"


def open_identity(vault: Vault, row: AnyRow) -> Identity:
    return Identity(*json.loads(vault.open(_IDENTITY, row.id, row.identity)))


@frozen(kw_only=True)
class DocumentRecord(Write):
    """A document as look-ups need it; they come from `Vault.look_up`. Its identity is sealed, and
    only of a document to be written it is here: else `Reader.identity` opens it.

    The look-ups are `None` once it is erased; only a blocked one keeps `lookup`, so that it stays
    refused, until it is unblocked. An erasure that waits for open cases is done at the moment
    `erasure_due_at` at the latest; `erasure_number` is of the audit entry of one that was done.
    """

    id: Annotated[Id, KEY]
    kind: Annotated[str, Code]
    lookup: Annotated[bytes | None, UNIQUE]
    """Made of kind and number, so that it is unique by itself."""
    name_lookup: bytes | None
    identity: Identity | None = None
    expires_on: date | None = None
    status: Annotated[DocumentStatus, String(16)] = DocumentStatus.ACTIVE
    created_at: datetime | None = field(default=None, compare=False)
    blocked_at: datetime | None = None
    """Beside the status: a block outlives an erasure, and lifting it changes no more."""
    erased_at: datetime | None = None
    erasure_asked_at: datetime | None = None
    erasure_due_at: datetime | None = None
    erasure_asked_by: ActorName | None = None
    erasure_number: Annotated[int | None, BigInteger()] = None
    erasure_scope: Annotated[ErasureScope | None, String(16)] = None
    """None of one that takes the holder."""
    withdrawn: Mapping[str, datetime] | None = None
    """By carrier since when its consent to the face is; "" of a base without carriers."""
    reference_ids: tuple[int, ...] = ()
    is_erased: bool = False

    @property
    def awaits_erasure(self) -> bool:
        return self.erasure_due_at is not None

    def refuses_face(self, carrier: str | None, consent: Consent = NO_CONSENT) -> bool:
        """True where consent to the face was withdrawn from this carrier, and this one was not
        given since; without a carrier where it was from any, and nobody has the face."""
        marks = self.withdrawn or {}
        since = marks.get(carrier or "")
        if carrier is None:
            since = None if self.reference_ids else max(marks.values(), default=None)
        return since is not None and not consent.is_given_after(since)

    def renew(
        self, carrier: str, consent: Consent, actor: str, *, keeps: bool = False
    ) -> list[Write]:
        """Ends a withdrawal from this carrier, if its consent was given since; `keeps` the record
        of that beside the name, where no enrollment has it."""
        since = (self.withdrawn or {}).get(carrier)
        if since is None or not consent.is_given_after(since):
            return []
        entry = AuditEntry(actor, CONSENT_RENEWED, self.id, {"carrier": carrier})
        kept = consent.kept if keeps else None
        return [entry, ConsentChange(self.id, [carrier], is_withdrawn=False, kept=kept)]

    def require_consent(self, carrier: str | None) -> Self:
        """Itself; `ConsentWithdrawn` where this carrier may not look at its holder's face."""
        if self.refuses_face(carrier):
            raise ConsentWithdrawn(
                "consent to this holder's face was withdrawn: have the holder shown in another "
                "way, or enroll with a consent given since"
            )
        return self

    def row(self, to: Transaction) -> RowValues:
        return self.columns(identity=self.seal(to.vault), created_at=to.at)

    def seal(self, vault: Vault) -> bytes:
        """Its identity, sealed for its row."""
        assert self.identity is not None, "a document is written with its identity"
        return self.identity.seal(vault, self.id)


DOCUMENTS = table_of(
    "documents",
    DocumentRecord,
    CheckConstraint(
        one_of("status", (one for one in DocumentStatus if one is not DocumentStatus.BLOCKED)),
        name="status",
    ),
    CheckConstraint("(status = 'erased') = (identity IS NULL)", name="erased"),
    CheckConstraint("(lookup IS NULL) = (status = 'erased' AND blocked_at IS NULL)", name="lookup"),
    identity=sealed_column("identity"),
    created_at=required("created_at", Moment),
    reference_ids=None,
    is_erased=None,
)
# Partial: few documents are blocked.
partial_index("ix_documents_blocked", DOCUMENTS.c.blocked_at, where="blocked_at IS NOT NULL")
partial_index("ix_documents_attempted", DOCUMENTS.c.id, where="status = 'attempted'")
partial_index(
    "ix_documents_erasure", DOCUMENTS.c.erasure_due_at, where="erasure_due_at IS NOT NULL"
)


@frozen
class ActivatedDocument(Change):
    """A document that was attempted, under the id that it has, with what makes it active: from now
    on the holder's reference says whose face it is, and no attempt's."""

    table = DOCUMENTS
    update = update_one(
        DOCUMENTS,
        DOCUMENTS.c.status == DocumentStatus.ATTEMPTED.value,
        DOCUMENTS.c.blocked_at.is_(None),
    ).values(
        status=DocumentStatus.ACTIVE.value,
        name_lookup=bindparam("name"),
        identity=bindparam("sealed"),
        expires_on=bindparam("expiry"),
    )

    document: DocumentRecord

    @classmethod
    def store(cls, to: Transaction, written: Sequence[Self]) -> None:
        to.change(DOCUMENTS, cls.update, [one.row(to) for one in written])
        to.delete(ATTEMPT_TEMPLATES.c.document_id, [one.document.id for one in written])

    def row(self, to: Transaction) -> RowValues:
        one = self.document
        sealed = one.seal(to.vault)
        return {"key": one.id, "name": one.name_lookup, "sealed": sealed, "expiry": one.expires_on}


@frozen
class DocumentBlock(Change):
    """A document that is blocked from now on. Its keyed look-up outlives an erasure until it is
    unblocked."""

    table = DOCUMENTS
    update = update_one(DOCUMENTS, DOCUMENTS.c.lookup.is_not(None)).values(
        blocked_at=func.coalesce(DOCUMENTS.c.blocked_at, bindparam("at", type_=Moment))
    )

    id: str

    def row(self, to: Transaction) -> RowValues:
        return {"key": self.id, "at": to.at}


@frozen
class EndedBlock(Change):
    """A document that is not blocked any more."""

    table = DOCUMENTS
    update = update_one(DOCUMENTS, DOCUMENTS.c.blocked_at.is_not(None)).values(
        blocked_at=None,
        # The block was all that an erased document's look-up was kept for.
        lookup=case(
            (DOCUMENTS.c.status == DocumentStatus.ERASED.value, None), else_=DOCUMENTS.c.lookup
        ),
    )

    id: str

    def row(self, _: Transaction) -> RowValues:
        return {"key": self.id}


@frozen
class AskedErasure(Change):
    """An erasure that waits for open cases, `due_at` at the latest; one of the face becomes one of
    the holder where that is asked for too."""

    table = DOCUMENTS
    update = update_one(
        DOCUMENTS,
        DOCUMENTS.c.status != DocumentStatus.ERASED.value,
        or_(DOCUMENTS.c.erasure_due_at.is_(None), DOCUMENTS.c.erasure_scope.is_not(None)),
    ).values(
        erasure_asked_at=bindparam("at", type_=Moment),
        erasure_due_at=bindparam("due", type_=Moment),
        erasure_asked_by=bindparam("by"),
        erasure_scope=bindparam("scope"),
    )

    document_id: str
    by: str
    due_at: datetime
    scope: ErasureScope = ErasureScope.HOLDER

    def row(self, to: Transaction) -> RowValues:
        scope = self.scope.value if self.scope is ErasureScope.FACE else None
        times = {"at": to.at, "due": self.due_at}
        return {"key": self.document_id, "by": self.by, "scope": scope, **times}


@frozen(kw_only=True)
class ExemptDocument(Put):
    """A document that no limit on lines holds for, as those of firms; `cause` says what it is."""

    document_id: Annotated[DocumentId, KEY]
    cause: Annotated[str, Code]
    at: datetime
    by: ActorName


LIMIT_EXEMPTIONS = table_of("limit_exemptions", ExemptDocument)


@frozen
class EndedExemption(Deleted):
    """A document that limits hold for again."""

    table = LIMIT_EXEMPTIONS

    document_id: str


DOCUMENT_ERASED, ERASURE_ASKED = "document.erased", "document.erasure_asked"
"""Actions of the audit entries of an erasure, and of one that is acknowledged and waits."""
CERTIFIED = {DOCUMENT_ERASED: ErasureScope.HOLDER, "document.face_erased": ErasureScope.FACE}
"""The scopes of erasures by those that are certificates."""
CONSENT_WITHDRAWN, CONSENT_RENEWED = "consent.withdrawn", "consent.renewed"
"""Those of a withdrawal, and of a new consent after it."""


def certify_erasure(record: AuditRecord) -> ErasureCertificate:
    """The certificate of an erasure, as the audit chain has it: it can be had again."""
    return ErasureCertificate(
        document_id=record.entry.subject,
        scope=CERTIFIED[record.entry.action],
        erased_at=record.at,
        audit_number=record.number,
        audit_hash=record.hash.hex(),
        **record.entry.detail,
    )


@frozen
class ConsentChange(Single):
    """Consent to a document's face is withdrawn from these carriers, or renewed; "" is a base
    without any."""

    table = DOCUMENTS
    step = 1

    document_id: str
    carriers: Sequence[str]
    is_withdrawn: bool
    kept: str | Mapping[str, Any] | None = field(default=None, repr=False)

    def follow(self, to: Transaction) -> None:
        key = self.document_id
        row = to.connection.execute(select(DOCUMENTS).where(DOCUMENTS.c.id == key)).one()
        marks, sealed = dict(row.withdrawn or {}), row.identity
        if self.kept is not None:
            identity = replace(open_identity(to.vault, row), consent=self.kept)
            sealed = identity.seal(to.vault, key)
        for carrier in self.carriers:
            marks.pop(carrier, None)
            if self.is_withdrawn:
                marks[carrier] = to.at.isoformat()
            if self.is_withdrawn and carrier:
                to.events.append(NewEvent(EventType.CONSENT_WITHDRAWN, key, carrier, {}))
        changed = update_one(DOCUMENTS).values(withdrawn=marks or None, identity=sealed)
        to.change(DOCUMENTS, changed, [{"key": key}])


_OF_REFERENCE = "reference_"
"""How the columns of a reference are labelled beside those of its document."""


def gather_documents(vault: Vault, rows: Iterable[AnyRow]) -> list[DocumentRecord]:
    """Documents joined with their live references: a row for each, or one without any."""
    first: dict[str, AnyRow] = {}
    reference_ids: dict[str, list[int]] = {}
    for row in rows:
        first.setdefault(row.id, row)
        ids = reference_ids.setdefault(row.id, [])
        if row.reference_id is not None:
            # Or another's face would be compared with this document's holder.
            require_authentic(vault, REFERENCES, row, _OF_REFERENCE)
            if vault.set_aside.has(REFERENCES.name, f"row {row.reference_id}"):
                # Its template did not open: nobody can be compared with it.
                raise SealBroken(DAMAGED)
            ids.append(row.reference_id)
    return [
        read_as(
            DocumentRecord,
            row,
            status=DocumentStatus.BLOCKED if row.blocked_at else DocumentStatus(row.status),
            reference_ids=tuple(reference_ids[row.id]),
            is_erased=row.status == DocumentStatus.ERASED,
            identity=None,
        )
        for found in first.values()
        for row in (require_authentic(vault, DOCUMENTS, found),)
    ]


_DOCUMENTS = (
    select(DOCUMENTS, *(one.label(f"{_OF_REFERENCE}{one.name}") for one in REFERENCE_COLUMNS))
    .outerjoin(REFERENCES, (REFERENCES.c.document_id == DOCUMENTS.c.id) & IS_LIVE)
    .order_by(REFERENCES.c.id)
)
_DOCUMENTS_BY_LOOKUP = _DOCUMENTS.where(DOCUMENTS.c.lookup.in_(KEYS))
_DOCUMENTS_BY_ID = _DOCUMENTS.where(DOCUMENTS.c.id.in_(KEYS))
_BLOCKED_DOCUMENTS = (
    _DOCUMENTS.where(DOCUMENTS.c.blocked_at.is_not(None))
    .order_by(None)
    .order_by(DOCUMENTS.c.blocked_at, DOCUMENTS.c.id, REFERENCES.c.id)
)
_AWAITING_ERASURE = (
    _DOCUMENTS.where(DOCUMENTS.c.erasure_due_at.is_not(None))
    .order_by(None)
    .order_by(DOCUMENTS.c.erasure_due_at, DOCUMENTS.c.id, REFERENCES.c.id)
)
_IDENTITIES = select(DOCUMENTS.c.id, DOCUMENTS.c.identity).where(DOCUMENTS.c.id.in_(KEYS))


class DocumentReader(RecordSource):
    """Reader of documents."""

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

    def _list_documents(self, query: Query) -> list[DocumentRecord]:
        of_each = [list(rows) for _, rows in groupby(self.rows(query), attrgetter("id"))]
        found = open_each(of_each, partial(gather_documents, self.vault))
        return list(chain.from_iterable(found))

    def exemptions(self, document_ids: Sequence[str]) -> dict[str, ExemptDocument]:
        """Those of these documents that no limit holds for."""
        return self._by(LIMIT_EXEMPTIONS.c.document_id, ExemptDocument, document_ids)

    def identity(self, document_id: str) -> Identity:
        """Opens what is sealed of a document; `NotFound` if unknown or erased."""
        for row in self._rows_of(_IDENTITIES, [document_id]):
            if row.identity is not None:
                return open_identity(self.vault, row)
        raise NotFound("no such document, or it was erased: check the id")

    def identities(self, document_ids: Sequence[str]) -> dict[str, Identity]:
        """Opens what is sealed of these documents; one unknown, erased or damaged is left out."""
        rows = (row for row in self._rows_of(_IDENTITIES, document_ids) if row.identity is not None)
        return dict(open_each(rows, lambda row: (row.id, open_identity(self.vault, row))))
