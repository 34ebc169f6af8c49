"""Codes of the rows that had none: every table is authenticated."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"

TABLES = (
    "sweeps",
    "case_documents",
    "cursors",
    "undelivered",
    "campaign_lines",
    "tallies",
    "api_keys",
    "sessions",
)


def upgrade() -> None:
    """Adds the columns. The codes are for the key ring to make (`engine.registry.upgrade`)."""
    for table in TABLES:
        op.add_column(table, sa.Column("mac", sa.LargeBinary()))
