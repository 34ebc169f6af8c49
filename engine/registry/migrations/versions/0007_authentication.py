"""Codes of rows and of the audit head, and the people whose keys are."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

DECIDING = (
    "cases",
    "case_notes",
    "judged_pairs",
    "carriers",
    "outlets",
    "documents",
    "enrollments",
    "references",
    "lines",
    "watchlist",
    "idempotency",
)


def upgrade() -> None:
    """Adds them, empty: only the key ring can fill them (`engine.registry.upgrade`). The label of a
    key, or its id where it has none, counts as its person."""
    for table in DECIDING:
        op.add_column(table, sa.Column("mac", sa.LargeBinary()))
    op.add_column("deployment", sa.Column("audit_mac", sa.LargeBinary()))
    op.add_column("api_keys", sa.Column("person", sa.String(length=200)))
    op.execute(
        "UPDATE api_keys SET person = CASE WHEN label <> '' THEN label ELSE 'key:' || id END "
        "WHERE role IN ('fraud', 'operator')"
    )
