"""Erasures that wait for open cases, outlets that may enroll nobody, attempts by outlet."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

NEW = (
    ("documents", "erasure_asked_at", sa.String(27)),
    ("documents", "erasure_due_at", sa.String(27)),
    ("documents", "erasure_asked_by", sa.String(200)),
    ("documents", "erasure_number", sa.BigInteger()),
    ("outlets", "restriction", sa.String(16)),
    ("outlets", "restricted_at", sa.String(27)),
    ("outlets", "restricted_by", sa.String(200)),
    ("outlets", "restricted_person", sa.String(200)),
    ("outlets", "restriction_case", sa.String(36)),
    ("outlets", "restriction_reason", sa.String(200)),
    ("outlets", "refused_attempts", sa.Integer()),
)


def upgrade() -> None:
    """Adds the columns, null everywhere, so that every row keeps its code."""
    for table, name, kind in NEW:
        op.add_column(table, sa.Column(name, kind))
    condition = sa.text("erasure_due_at IS NOT NULL")
    op.create_index(
        "ix_documents_erasure",
        "documents",
        ["erasure_due_at"],
        sqlite_where=condition,
        postgresql_where=condition,
    )
    op.create_index("ix_enrollments_outlet", "enrollments", ["outlet", "created_at", "id"])
