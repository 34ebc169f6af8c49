"""Erasures that wait for open cases, outlets that may enroll nobody, attempts by outlet."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0011"


def upgrade() -> None:
    """Adds the columns, null everywhere, so that every row keeps its code."""
    for name, kind in (
        ("erasure_asked_at", sa.String(27)),
        ("erasure_due_at", sa.String(27)),
        ("erasure_asked_by", sa.String(200)),
        ("erasure_number", sa.BigInteger()),
    ):
        op.add_column("documents", sa.Column(name, kind))
    condition = sa.text("erasure_due_at IS NOT NULL")
    op.create_index(
        "ix_documents_erasure",
        "documents",
        ["erasure_due_at"],
        sqlite_where=condition,
        postgresql_where=condition,
    )
    with op.batch_alter_table("outlets") as outlets:
        outlets.add_column(sa.Column("restriction", sa.String(16)))
        outlets.add_column(sa.Column("restricted_at", sa.String(27)))
        outlets.add_column(sa.Column("restricted_by", sa.String(200)))
        outlets.add_column(sa.Column("restricted_person", sa.String(200)))
        outlets.add_column(sa.Column("restriction_case", sa.String(36)))
        outlets.add_column(sa.Column("restriction_reason", sa.String(200)))
        outlets.add_column(sa.Column("refused_attempts", sa.Integer()))
        outlets.create_check_constraint(
            op.f("ck_outlets_restriction"),
            "restriction IS NULL OR restriction IN ('suspended', 'barred')",
        )
    op.create_index("ix_enrollments_outlet", "enrollments", ["outlet", "created_at", "id"])
