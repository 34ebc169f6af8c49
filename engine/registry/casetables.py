"""The tables of the fraud desk: sweeps, cases with their history, judged pairs, crops."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Table,
    Text,
    text,
)

from engine.registry.columns import Code, Json, Moment, RowNumber, UuidText, metadata

sweeps = Table(
    "sweeps",
    metadata,
    Column("id", UuidText, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("terms", Json, nullable=False),
    Column("requested_by", String(200), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("started_at", Moment),
    Column("ended_at", Moment),
    Column("sequence", BigInteger),
    Column("progress", Json, nullable=False),
    Column("summary", Json),
    Column("fault", Text),
    CheckConstraint(
        "state IN ('queued', 'running', 'paused', 'done', 'cancelled', 'failed')", name="state"
    ),
)
Index("ix_sweeps_created", sweeps.c.created_at, sweeps.c.id)

cases = Table(
    "cases",
    metadata,
    Column("id", UuidText, primary_key=True),
    Column("kind", Code, nullable=False),
    Column("origin", String(16), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("enrollment_id", ForeignKey("enrollments.id"), index=True),
    Column("document_ids", Json, nullable=False),
    Column("suspect_ids", Json, nullable=False),
    Column("line_id", ForeignKey("lines.id")),
    Column("line_ids", Json, nullable=False),
    Column("score", Float(53)),
    Column("risk", Float(53)),
    Column("sweep_id", ForeignKey("sweeps.id")),
    Column("group_key", String(128), index=True),
    Column("assignee", String(200)),
    Column("proposal", Json),
    Column("outcome", String(16)),
    Column("merged_into", ForeignKey("cases.id"), index=True),
    Column("opened_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("closed_at", Moment),
    CheckConstraint("origin IN ('decision', 'dispute', 'reverification', 'sweep')", name="origin"),
    CheckConstraint("state IN ('open', 'assigned', 'proposed', 'closed', 'merged')", name="state"),
    CheckConstraint(
        "outcome IS NULL OR "
        "(outcome IN ('fraud', 'twins', 'mistake', 'unfounded') AND state = 'closed')",
        name="outcome",
    ),
    CheckConstraint("(state = 'merged') = (merged_into IS NOT NULL)", name="merged"),
)
Index("ix_cases_opened", cases.c.opened_at, cases.c.id)
IS_ALIVE = "state IN ('open', 'assigned', 'proposed')"
"""As the index below says it: only a query with these very words can use that."""
_IS_ALIVE_OF_LINE = f"line_id IS NOT NULL AND {IS_ALIVE}"
# One at a time: who disputes a line again is shown the case that people have.
Index(
    "uq_cases_open_of_line",
    cases.c.line_id,
    cases.c.kind,
    unique=True,
    sqlite_where=text(_IS_ALIVE_OF_LINE),
    postgresql_where=text(_IS_ALIVE_OF_LINE),
)

# An index of `cases.document_ids`: every decision that opens a case asks which others share a
# document with it. No foreign key on the document, as the list has none.
case_documents = Table(
    "case_documents",
    metadata,
    Column("document_id", UuidText, primary_key=True),
    Column("case_id", ForeignKey(cases.c.id), primary_key=True, index=True),
)

case_notes = Table(
    "case_notes",
    metadata,
    Column("id", RowNumber, primary_key=True, autoincrement=False),
    Column("case_id", ForeignKey(cases.c.id), nullable=False, index=True),
    Column("at", Moment, nullable=False),
    Column("actor", String(200), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("text", LargeBinary),
)

judged_pairs = Table(
    "judged_pairs",
    metadata,
    Column("left_document", ForeignKey("documents.id"), primary_key=True),
    Column("right_document", ForeignKey("documents.id"), primary_key=True),
    Column("outcome", String(16), nullable=False),
    Column("score", Float(53), nullable=False),
    Column("case_id", ForeignKey(cases.c.id), nullable=False),
    Column("sweep_id", ForeignKey(sweeps.c.id)),
    Column("decided_at", Moment, nullable=False),
    Column("decided_by", String(200), nullable=False),
    CheckConstraint("outcome IN ('fraud', 'twins', 'mistake')", name="outcome"),
)

crops = Table(
    "crops",
    metadata,
    Column("id", UuidText, primary_key=True),
    Column("enrollment_id", ForeignKey("enrollments.id"), nullable=False, index=True),
    Column("photograph", String(16), nullable=False),
    Column("image", LargeBinary, nullable=False),
    Column("kept_until", Moment, nullable=False, index=True),
    CheckConstraint("photograph IN ('live', 'portrait')", name="photograph"),
)
