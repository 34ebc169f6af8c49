"""Attempts whose evidence has left, and indexes by which the job of retention finds its rows."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

MOMENT = sa.String(27)
PARTIAL = (
    ("ix_enrollments_rejected", "enrollments", "decision = 'rejected' AND expired_at IS NULL"),
    ("ix_documents_attempted", "documents", "status = 'attempted'"),
    ("ix_lines_closed", "lines", "status = 'closed' AND msisdn IS NOT NULL"),
)
ORDERS = {"enrollments": ["created_at", "id"], "documents": ["id"], "lines": ["closed_at", "id"]}


def upgrade() -> None:
    """Adds what is new; every row that is there stays as it was."""
    op.add_column("enrollments", sa.Column("expired_at", MOMENT))
    for name, table, where in PARTIAL:
        op.create_index(
            name,
            table,
            ORDERS[table],
            sqlite_where=sa.text(where),
            postgresql_where=sa.text(where),
        )
    op.create_index("ix_idempotency_created_at", "idempotency", ["created_at"])
    op.create_index("ix_idempotency_enrollment_id", "idempotency", ["enrollment_id"])
