"""Counts of failed comparisons, by holder and by key, which bound how many there may be."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Adds them, empty; every row that is there stays as it was."""
    op.create_table(
        "tallies",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("level", sa.Float(precision=53), nullable=False),
        sa.Column("at", sa.String(length=27), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_tallies")),
    )
