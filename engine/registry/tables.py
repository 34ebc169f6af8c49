"""The tables, as SQLAlchemy Core metadata that SQLite and PostgreSQL share."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    text,
)

from engine.registry.casetables import case_notes, crops
from engine.registry.columns import Code, Json, Moment, RowNumber, UuidText, metadata

deployment = Table(
    "deployment",
    metadata,
    Column("singleton", Integer, primary_key=True, autoincrement=False),
    Column("deployment_id", UuidText, nullable=False),
    Column("key_check", LargeBinary, nullable=False),
    # Fingerprints of the data keys that rows may be sealed with, by version.
    Column("data_keys", Json, nullable=False),
    Column("model_digest", String(128), nullable=False),
    Column("dim", Integer, nullable=False),
    Column("rotation_id", String(32), nullable=False),
    Column("writer_epoch", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("audit_number", BigInteger, nullable=False),
    Column("audit_head", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False),
    CheckConstraint("singleton = 1", name="one_row"),
)

carriers = Table(
    "carriers",
    metadata,
    Column("code", Code, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("line_limit", Integer, nullable=False),
    Column("created_at", Moment, nullable=False),
    CheckConstraint("line_limit >= 0", name="line_limit"),
)

outlets = Table(
    "outlets",
    metadata,
    Column("code", Code, primary_key=True),
    Column("carrier", ForeignKey(carriers.c.code), nullable=False),
    Column("is_open", Boolean, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("closed_at", Moment),
)

documents = Table(
    "documents",
    metadata,
    Column("id", UuidText, primary_key=True),
    Column("kind", Code, nullable=False),
    # The keyed look-up is made of kind and number, so it is unique by itself.
    Column("lookup", LargeBinary, unique=True),
    Column("name_lookup", LargeBinary),
    Column("identity", LargeBinary),
    Column("expires_on", Date),
    Column("status", String(16), nullable=False),
    Column("created_at", Moment, nullable=False),
    # Beside the status, not in it: a block outlives an erasure, and lifting it changes no more.
    Column("blocked_at", Moment),
    Column("erased_at", Moment),
    CheckConstraint("status IN ('attempted', 'active', 'erased')", name="status"),
    CheckConstraint("(status = 'erased') = (identity IS NULL)", name="erased"),
    CheckConstraint("(lookup IS NULL) = (status = 'erased' AND blocked_at IS NULL)", name="lookup"),
)
# Partial: few documents are blocked.
Index(
    "ix_documents_blocked",
    documents.c.blocked_at,
    sqlite_where=documents.c.blocked_at.is_not(None),
    postgresql_where=documents.c.blocked_at.is_not(None),
)
Index(
    "ix_documents_attempted",
    documents.c.id,
    sqlite_where=text("status = 'attempted'"),
    postgresql_where=text("status = 'attempted'"),
)

enrollments = Table(
    "enrollments",
    metadata,
    Column("id", UuidText, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("carrier", ForeignKey(carriers.c.code), nullable=False),
    Column("outlet", ForeignKey(outlets.c.code), nullable=False),
    Column("document_id", ForeignKey(documents.c.id), index=True),
    Column("decision", String(16), nullable=False),
    Column("reasons", Json, nullable=False),
    Column("evidence", Json, nullable=False),
    Column("consent_ref", String(200)),
    Column("captured_at", Moment),
    Column("created_at", Moment, nullable=False),
    # Since then it has no evidence any more; the decision stays.
    Column("expired_at", Moment),
    CheckConstraint("decision IN ('approved', 'review', 'rejected')", name="decision"),
)
_REJECTED = "decision = 'rejected' AND expired_at IS NULL"
Index(
    "ix_enrollments_rejected",
    enrollments.c.created_at,
    enrollments.c.id,
    sqlite_where=text(_REJECTED),
    postgresql_where=text(_REJECTED),
)
_REVIEW = "decision = 'review' AND expired_at IS NULL"
Index(
    "ix_enrollments_review",
    enrollments.c.created_at,
    enrollments.c.id,
    sqlite_where=text(_REVIEW),
    postgresql_where=text(_REVIEW),
)

references = Table(
    "references",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=False),
    Column("document_id", ForeignKey(documents.c.id), nullable=False, index=True),
    Column("enrollment_id", ForeignKey(enrollments.c.id)),
    Column("template", LargeBinary),
    Column("model_digest", String(128), nullable=False),
    Column("rotation_id", String(32), nullable=False),
    Column("added_sequence", BigInteger, nullable=False),
    Column("removed_sequence", BigInteger),
    CheckConstraint("(template IS NULL) = (removed_sequence IS NOT NULL)", name="tombstone"),
)
Index("ix_references_added", references.c.added_sequence, references.c.id)
# Partial, or PostgreSQL without statistics reads every live reference through it.
Index(
    "ix_references_removed",
    references.c.removed_sequence,
    sqlite_where=references.c.removed_sequence.is_not(None),
    postgresql_where=references.c.removed_sequence.is_not(None),
)

lines = Table(
    "lines",
    metadata,
    Column("id", UuidText, primary_key=True),
    Column("msisdn_lookup", LargeBinary),
    Column("msisdn", LargeBinary),
    Column("document_id", ForeignKey(documents.c.id), nullable=False, index=True),
    Column("carrier", ForeignKey(carriers.c.code), nullable=False),
    Column("outlet", ForeignKey(outlets.c.code), nullable=False),
    Column("enrollment_id", ForeignKey(enrollments.c.id)),
    Column("status", String(16), nullable=False),
    Column("opened_at", Moment, nullable=False),
    Column("closed_at", Moment),
    CheckConstraint("status IN ('active', 'disputed', 'closed')", name="status"),
)
Index(
    "uq_lines_number_in_use",
    lines.c.msisdn_lookup,
    unique=True,
    sqlite_where=text("status <> 'closed'"),
    postgresql_where=text("status <> 'closed'"),
)
_CLOSED = "status = 'closed' AND msisdn IS NOT NULL"
Index(
    "ix_lines_closed",
    lines.c.closed_at,
    lines.c.id,
    sqlite_where=text(_CLOSED),
    postgresql_where=text(_CLOSED),
)

watchlist = Table(
    "watchlist",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=False),
    Column("document_lookup", LargeBinary, index=True),
    Column("template", LargeBinary),
    Column("reason", String(200), nullable=False),
    Column("added_at", Moment, nullable=False),
    Column("removed_at", Moment),
)

audit = Table(
    "audit",
    metadata,
    Column("number", RowNumber, primary_key=True, autoincrement=False),
    Column("at", Moment, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("action", Code, nullable=False),
    Column("subject", String(200), nullable=False),
    Column("detail", Json, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("scope", LargeBinary, primary_key=True),
    Column("payload_digest", LargeBinary, nullable=False),
    Column("enrollment_id", ForeignKey(enrollments.c.id), index=True),
    Column("response", Json, nullable=False),
    Column("created_at", Moment, nullable=False, index=True),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Code, primary_key=True),
    # Keyed, of the whole key: whoever reads the table can neither use it nor make another row.
    Column("digest", LargeBinary, nullable=False),
    Column("label", String(200), nullable=False),
    Column("role", String(16), nullable=False),
    Column("carrier", ForeignKey(carriers.c.code)),
    Column("outlet", ForeignKey(outlets.c.code)),
    Column("rate_limit", Float(53)),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("revoked_at", Moment),
    CheckConstraint("role IN ('outlet', 'carrier', 'fraud', 'operator')", name="role"),
    CheckConstraint("(role IN ('outlet', 'carrier')) = (carrier IS NOT NULL)", name="carrier"),
    CheckConstraint("(role = 'outlet') = (outlet IS NOT NULL)", name="outlet"),
    CheckConstraint("rate_limit > 0", name="rate_limit"),
)

SEALED = (
    (documents, documents.c.identity),
    (references, references.c.template),
    (lines, lines.c.msisdn),
    (watchlist, watchlist.c.template),
    (case_notes, case_notes.c.text),
    (crops, crops.c.image),
)
"""Every table with a sealed column; a row is named in its seal by its primary key `id`."""
